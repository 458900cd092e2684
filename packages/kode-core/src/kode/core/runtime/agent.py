"""`Agent`: the handle to a durable agent. It may be made, thrown away and made again at any time.

Everything that changes an agent goes through its inbox or through one driver at a time; the handle itself holds
nothing that matters after a restart.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal

import anyio

from kode.core.config import AgentConfig, Dependencies
from kode.core.errors import ConflictError, LeaseLostError, NotFoundError, UsageError
from kode.core.kernel.events import Channel
from kode.core.kernel.limits import Limits
from kode.core.kernel.message import Json
from kode.core.kernel.words import ResumeStrategy
from kode.core.runtime.agenda import Agenda
from kode.core.runtime.binding import Binding, bind
from kode.core.runtime.birth import check_dependencies, create_agent, given, read_template, recipe_digest
from kode.core.runtime.drive import DriveResult
from kode.core.runtime.driver import Driver
from kode.core.runtime.family import Family, drive_family
from kode.core.runtime.media.door import admitted
from kode.core.runtime.observing import catch_up
from kode.core.runtime.outcome import drive_to_goal
from kode.core.runtime.resident import Resident
from kode.core.runtime.result import RunResult
from kode.core.runtime.sending import Content, Sent, message_of, whole_number
from kode.core.runtime.steering import Steering
from kode.core.runtime.streaming import Stream
from kode.core.runtime.subagent import Household, delegated, remove
from kode.core.runtime.view import AgentView
from kode.core.runtime.watching import Watching
from kode.core.template import AgentTemplate

__all__ = ["Agent", "AgentView", "Content", "Sent"]


class Agent(Watching, Steering, Agenda):
    """A durable agent, by its id.

    Make one with ``create``, ``open``, ``resume`` or ``resume_or_create``; ``async with agent:`` closes its sandbox.
    """

    def __init__(
        self,
        agent_id: str,
        uid: str,
        binding: Binding,
        deps: Dependencies,
        *,
        owns_deps: bool = False,
        resident: Resident | None = None,
    ) -> None:
        super().__init__(agent_id, uid, binding, deps)
        self._owns_deps = owns_deps
        if owns_deps:
            deps.owners.add(self)
        self._resident = resident
        self.drives: list[Driver | Family] = []
        """At work, or asking for the lease. More than one: a pool's drive and its caller's own meet here."""

    # ---- making handles ---------------------------------------------------------------------------------------

    @classmethod
    async def create(
        cls,
        config: AgentConfig | None = None,
        dependencies: Dependencies | None = None,
        *,
        template: str | AgentTemplate | None = None,
        agent_id: str | None = None,
        **bound: Any,
    ) -> Agent:
        """Make a new agent and store it.

        Either ``create(config, dependencies)``, or with keywords: those of ``AgentConfig`` and of ``Dependencies``.

        Raises:
            AgentExistsError: The id is taken; nothing changed.
            NotBoundError: The template names something that is not registered here; nothing was stored.
            UsageError: A value is wrong.
        """
        config, deps = given(config, dependencies, template, agent_id, bound)
        recipe = config.recipe(deps.template_registry())
        uid = deps.ids.uid()
        binding = bind(recipe, deps)
        if recipe.tools == ("*",):
            recipe = binding.template = recipe.changed(tools=tuple(binding.tools))
        id = deps.ids.agent_id() if config.agent_id is None else config.agent_id
        resident = await create_agent(id, uid, recipe, config, deps)
        binding.recipe = recipe_digest(resident.state)
        return cls(id, uid, binding, deps, owns_deps=deps is not dependencies, resident=resident)

    @classmethod
    async def open(cls, agent_id: str, dependencies: Dependencies) -> Agent:
        """Get a handle to an agent that is stored; nothing is written and nothing runs.

        Raises:
            NotFoundError: No such agent.
            NotBoundError: Its template names something that is not registered here.
        """
        check_dependencies(dependencies)
        uid, template, digest = await read_template(agent_id, dependencies)
        return cls(agent_id, uid, bind(template, dependencies, digest), dependencies)

    @classmethod
    async def resume(
        cls, agent_id: str, dependencies: Dependencies, *, strategy: ResumeStrategy = "continue", by_hand: bool = True
    ) -> Agent:
        """Open an agent and finish what it was doing when its process ended.

        ``continue`` goes on, each call by its tool's ``recovery``; ``crash`` seals all calls and ends the run;
        ``manual`` only opens it. If somebody else drives it, that one goes on and this only opens it.
        """
        agent = await cls.open(agent_id, dependencies)
        if strategy != "manual":
            try:
                await drive_family(agent, dependencies, strategy=strategy, by_hand=by_hand)
            except LeaseLostError as error:
                if error.code != "held":
                    raise
        return agent

    resume_from_store = resume

    @classmethod
    async def resume_or_create(
        cls, config: AgentConfig, dependencies: Dependencies, *, strategy: ResumeStrategy = "continue"
    ) -> Agent:
        """Resume the agent of ``config.agent_id``, or create it if there is none. Nothing is ever deleted."""
        if config.agent_id is None:
            return await cls.create(config, dependencies)
        try:
            return await cls.resume(config.agent_id, dependencies, strategy=strategy)
        except NotFoundError:
            pass
        try:
            return await cls.create(config, dependencies)
        except ConflictError:
            return await cls.resume(config.agent_id, dependencies, strategy=strategy)

    async def __aenter__(self) -> Agent:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ---- talking ----------------------------------------------------------------------------------------------

    async def send(
        self,
        message: Content,
        *,
        item_id: str | None = None,
        kind: Literal["user", "reminder"] = "user",
        sender: str | None = None,
        metadata: Json | None = None,
        context: Json | None = None,
        limits: Limits | None = None,
        priority: int = 0,
        not_before: int | None = None,
    ) -> Sent:
        """Put a message into the inbox, durably, and ring whoever drives the agent in this process.

        Without a pool nobody starts it: call ``complete()``, or let a pool anywhere find it.

        Args:
            message: Text or content blocks.
            item_id: Yours, to make repeating harmless; the same id with another body is refused.
            kind: A ``reminder`` is shown with the next model call and starts none.
            sender: Who speaks; stored.
            metadata: JSON text, stored with the message.
            context: Trace context, as JSON text.
            limits: Bounds of the run that this message starts, within the agent's; its named fields count.
            priority: Higher is taken first.
            not_before: Microseconds since the epoch.

        Raises:
            UsageError: The message is empty or has a wrong shape, its media are none that the model's API takes, the
                inbox is full, the id was used otherwise.
            NotFoundError: The agent is gone.
        """
        id = self._deps.ids.item_id() if item_id is None else item_id
        message = await admitted(message, self.agent_id, self._binding.provider, self._deps)
        input = message_of(id, message, kind=kind, sender=sender, metadata=metadata, context=context, limits=limits)
        return await self._enqueue(input, priority=priority, not_before=not_before)

    async def remind(self, text: Content, *, item_id: str | None = None) -> Sent:
        """Show the model something with its next call, without starting a run: ``send`` of kind ``reminder``."""
        return await self.send(text, item_id=item_id, kind="reminder")

    async def run(
        self, message: Content, *, item_id: str | None = None, timeout_s: float | None = None, **options: Any
    ) -> RunResult:
        """Send a message and drive until the run that took it ends or rests.

        If somebody else drives the agent, their work is followed; if they die, it is taken over here.
        ``timeout_s``: the run then rests (status ``deadline``) and goes on with the next call. The other options are
        those of ``send``.
        """
        until = self._until(timeout_s)
        sent = await self.send(message, item_id=item_id, **options)
        return await self.finish(sent, until=until)

    chat = run

    async def complete(self, message: Content | None = None, *, timeout_s: float | None = None) -> RunResult:
        """Drive until nothing is left to do, after sending a message if one is given; the last run's result."""
        if message is not None:
            return await self.run(message, timeout_s=timeout_s)
        return await self.go_on(until=self._until(timeout_s))

    async def go_on(
        self,
        *,
        until: float | None = None,
        margin_s: float | None = None,
        wait: bool = True,
        by_hand: bool = False,
        run: int | None = None,
    ) -> RunResult:
        """Drive what is there; the result of the last run, or of the one of that number. Arguments as ``finish``.

        ``by_hand``: also if the agent is parked after too many crashes.
        """
        if run is not None:
            await self._state()  # it is still this one: a number says nothing of whose run it is
        return await drive_to_goal(
            self, self._deps, run, until=until, margin_s=margin_s, wait=wait, **({"by_hand": True} if by_hand else {})
        )

    async def finish(
        self, sent: Sent, *, until: float | None = None, margin_s: float | None = None, wait: bool = True
    ) -> RunResult:
        """Drive, or follow whoever drives, until the run that took the item ends or rests.

        Args:
            sent: What ``send`` said of the message.
            until: ``clock.monotonic()`` by which to return.
            margin_s: Time before that in which nothing new is started; None: 2 s, or a tenth if that is less.
            wait: Follow somebody else who drives the agent; False: tell at once how it stands.
        """
        return await drive_to_goal(self, self._deps, sent, until=until, margin_s=margin_s, wait=wait)

    def stream(
        self,
        message: Content,
        *,
        timeout_s: float | None = None,
        channels: Collection[Channel] | None = None,
        kinds: Collection[str] | None = None,
    ) -> Stream:
        """``async with agent.stream("…") as events: async for envelope in events: …``; ends with the run.

        The run is driven inside the ``async with`` and cancelled when that is left early; the agent stays resumable.
        ``events.result`` is the ``RunResult`` once the loop has ended by itself.
        """

        async def run() -> RunResult:
            return await self.run(message, timeout_s=timeout_s)

        return Stream(lambda: self.subscribe(channels, kinds=kinds), run, self.hub.wake)

    async def delegate(
        self,
        template: str | AgentTemplate,
        prompt: Content,
        *,
        model: str | None = None,
        tools: Collection[str] | None = None,
        timeout_s: float | None = None,
    ) -> RunResult:
        """Have a sub-agent of this one do a task, outside any run; for code, where the model has ``task_run``.

        It lies within this agent's permission, depth and budget; what it uses is its own and counts in no run of this
        agent's. It is an agent like any other: after ``timeout_s``, or when it waits for a person, go on with it by
        the result's ``agent_id``.

        Raises:
            UsageError: As for `Subagents.start`; any registered template may be used.
        """
        until = self._until(timeout_s)
        child = await self.open(await delegated(await self._household(), template, model, tools), self._deps)
        try:
            return await child.finish(await child.send(prompt, sender=self.agent_id), until=until)
        finally:
            with anyio.CancelScope(shield=True):
                await child.close()

    # ---- forks ------------------------------------------------------------------------------------------------

    async def fork(self, agent_id: str | None = None, *, at: str | None = None) -> Agent:
        """Make another agent with this one's history, up to now or to a snapshot. It starts READY, with its own uid."""
        (made,) = await self._forked([agent_id or self._deps.ids.agent_id()], at)
        return made

    async def batch_fork(self, count: int, *, at: str | None = None) -> list[Agent]:
        """Make many forks with new ids, reading this agent once; see ``Store.batch_fork`` for what an error leaves.

        Raises:
            UsageError: ``count`` is no whole number of 0 or more, or what ``fork`` refuses.
        """
        whole_number("count", count)
        if count < 0:
            raise UsageError(f"count is {count}; give how many forks, 0 or more.", code="bad_option", option="count")
        return await self._forked([self._deps.ids.agent_id() for _ in range(count)], at)

    async def _forked(self, ids: Sequence[str], at: str | None) -> list[Agent]:
        await self._state()  # it is still this one
        made = await self._deps.store.batch_fork(self.agent_id, {id: self._deps.ids.uid() for id in ids}, at=at)
        template, recipe = self.template, self._binding.recipe
        if made and recipe_digest(made[0]) != recipe:
            # They are made from a point at which it had other limits.
            _, template, recipe = await read_template(made[0].agent_id, self._deps)
        # Forks of a handle that owns its dependencies own them too: whoever is last closes.
        return [
            Agent(s.agent_id, s.uid, bind(template, self._deps, recipe), self._deps, owns_deps=self._owns_deps)
            for s in made
        ]

    def stop(self) -> None:
        """Have a drive of this handle rest at the next moment: tools get the grace, the agent stays resumable."""
        for drive in self.drives:
            drive.stop()

    async def close(self) -> None:
        """Let go of the sandbox and what is resident; the agent stays stored and can be opened again.

        A handle that was created from keywords owns what was made of them, together with its forks: whoever of them
        closes last stops the plugins and closes the providers too.
        """
        self.stop()
        self._resident = None
        owners = self._deps.owners
        try:
            if not (self.drives or self.gone):
                await catch_up(self.agent_id, self._binding, self._deps, self.hub)
            await self._binding.close()
        finally:
            if self in owners:
                owners.discard(self)
                if not owners:
                    await self._deps.close()

    async def delete(self) -> None:
        """Remove the agent and everything stored of it.

        Raises:
            LeaseLostError: Somebody drives it.
        """
        with self._noting_gone():
            await remove(self._deps.store, self.agent_id, self.uid)
        self.gone = True
        await self.close()

    @property
    def driving(self) -> bool:
        """Whether this handle drives the agent just now, or is about to."""
        return bool(self.drives)

    def release_window(self) -> None:
        """Let the messages and events in memory go; they are read again when somebody needs them."""
        if self._resident is not None and not self.drives:
            self._resident.release()
            self.hub.forget()

    # ---- inside -----------------------------------------------------------------------------------------------

    async def drive(
        self,
        *,
        strategy: ResumeStrategy = "continue",
        by_hand: bool = False,
        until: float | None = None,
        margin_s: float | None = None,
    ) -> DriveResult:
        """Drive until nothing is open, under a lease of our own; see ``Driver.run``. What a pool calls."""
        if self._owns_deps:
            self._deps.owners.add(self)  # it was closed, and is used again
        driver = Driver(
            self.agent_id, self.uid, self._resident, self._binding, self._deps, self.hub, self.limits, self.within
        )
        self.drives.append(driver)
        try:
            with self._noting_gone():
                return await driver.run(strategy=strategy, by_hand=by_hand, until=until, margin_s=margin_s)
        finally:
            self._resident = driver.resident
            self.drives.remove(driver)

    async def _household(self) -> Household:
        return Household(await self._state(), self.template, self.limits, self._deps)

    def _until(self, timeout_s: float | None) -> float | None:
        if not isinstance(timeout_s, int | float | None):
            raise UsageError(f"timeout_s is {timeout_s!r}; give seconds, or None.", code="bad_option")
        return None if timeout_s is None else self._deps.clock.monotonic() + timeout_s
