"""`Agent`: the handle to a durable agent. It may be made, thrown away and made again at any time.

Everything that changes an agent goes through its inbox or through one driver at a time; the handle itself holds
nothing that matters after a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

from kode.core.config import AgentConfig, Dependencies
from kode.core.errors import (
    ConflictError,
    FencedError,
    LeaseLostError,
    NotFoundError,
    UsageError,
)
from kode.core.event.base import Position
from kode.core.event.hub import Hub, Subscription, switchboard
from kode.core.kernel.events import Channel
from kode.core.kernel.inputs import ApprovalDecided, InboxInput, InterruptRequested, MessageReceived, SnapshotTaken
from kode.core.kernel.limits import Limits
from kode.core.kernel.message import Json
from kode.core.kernel.run import MAX_CONTEXT
from kode.core.kernel.state import State
from kode.core.kernel.words import Breakpoint, ResumeStrategy, Status
from kode.core.runtime.binding import Binding, bind
from kode.core.runtime.birth import create_agent, given, read_template
from kode.core.runtime.driver import Drive, Driver
from kode.core.runtime.once import apply_once
from kode.core.runtime.resident import Resident
from kode.core.runtime.result import RunResult, last_stored, queued, result_of, stored_for
from kode.core.runtime.sending import Content, check_text, content_blocks, json_option, whole_number
from kode.core.runtime.streaming import Stream
from kode.core.store.contract import Enqueued
from kode.core.store.records import input_item
from kode.core.template import AgentTemplate

__all__ = ["Agent", "AgentView", "Content", "Sent"]


@dataclass(frozen=True, slots=True)
class Sent:
    """The message is durable. It is taken in its turn, also by another process, also after a crash."""

    item_id: str
    position: int
    duplicate: bool = False
    """The same id with the same content was sent before; nothing was added."""


@dataclass(frozen=True, slots=True)
class AgentView:
    """What an agent is at, as stored."""

    agent_id: str
    uid: str
    status: Status
    breakpoint: Breakpoint
    run: int | None
    step: int
    messages: int
    cursor: int
    version: int
    driven: bool
    """Whether somebody's lease on it lives."""
    pending: tuple[str, ...]
    """Calls that wait for a decision."""
    waiting: int
    """Items in the inbox."""
    template: str
    parked: str | None = None


class Agent:
    """A durable agent, by its id.

    Make one with ``create``, ``open``, ``resume`` or ``resume_or_create``; ``async with agent:`` closes its sandbox.
    """

    def __init__(
        self,
        agent_id: str,
        uid: str,
        template: AgentTemplate,
        binding: Binding,
        deps: Dependencies,
        *,
        owns_deps: bool = False,
    ) -> None:
        self.agent_id = agent_id
        self.uid = uid
        self.template = template
        self._binding = binding
        self._deps = deps
        self._owns_deps = owns_deps
        self.hub: Hub = switchboard(deps.store, agent_id)
        self.hub.keep = template.limits.event_buffer
        self.hub.keep_live = template.limits.live_buffer_bytes
        self._resident: Resident | None = None
        self._driver: Driver | None = None

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
            recipe = recipe.changed(tools=tuple(binding.tools))
        id = config.agent_id or deps.ids.agent_id()
        await create_agent(id, uid, recipe, config, deps)
        return cls(id, uid, recipe, binding, deps, owns_deps=deps is not dependencies)

    @classmethod
    async def open(cls, agent_id: str, dependencies: Dependencies) -> Agent:
        """Get a handle to an agent that is stored; nothing is written and nothing runs.

        Raises:
            NotFoundError: No such agent.
            NotBoundError: Its template names something that is not registered here.
        """
        uid, template = await read_template(agent_id, dependencies)
        return cls(agent_id, uid, template, bind(template, dependencies), dependencies)

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
                await agent.drive(strategy=strategy, by_hand=by_hand)
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
            priority: Higher is taken first.
            not_before: Microseconds since the epoch.

        Raises:
            UsageError: The message is empty or has a wrong shape, the inbox is full, the id was used otherwise.
            NotFoundError: The agent is gone.
        """
        if context is not None and len(context) > MAX_CONTEXT:
            raise UsageError(
                f"The context has {len(context):,} characters; give at most {MAX_CONTEXT:,}: "
                "a traceparent and little more.",
                code="context_too_big",
            )
        id = item_id or self._deps.ids.item_id()
        check_text(item_id=id, sender=sender)
        whole_number("priority", priority)
        whole_number("not_before", not_before)
        if kind not in ("user", "reminder"):
            raise UsageError(f"The kind is {kind!r}; give 'user' or 'reminder'.", code="bad_option", option="kind")
        data, trace = json_option("metadata", metadata), json_option("context", context)
        input = MessageReceived(id, content_blocks(message), kind, sender, data, trace)
        done = await self._enqueue(input, priority=priority, not_before=not_before)
        return Sent(id, done.position, done.duplicate)

    async def run(
        self, message: Content, *, item_id: str | None = None, timeout_s: float | None = None, **options: Any
    ) -> RunResult:
        """Send a message and drive until the run that took it ends or rests.

        If somebody else drives the agent, their work is followed; if they die, it is taken over here.
        ``timeout_s``: the run then rests (status ``deadline``) and goes on with the next call.
        """
        until = None if timeout_s is None else self._deps.clock.monotonic() + timeout_s
        sent = await self.send(message, item_id=item_id, **options)
        return await self._follow(sent, until)

    chat = run

    async def complete(self, message: Content | None = None, *, timeout_s: float | None = None) -> RunResult:
        """Drive until nothing is left to do, after sending a message if one is given; the last run's result."""
        if message is not None:
            return await self.run(message, timeout_s=timeout_s)
        until = None if timeout_s is None else self._deps.clock.monotonic() + timeout_s
        while True:
            try:
                drive = await self.drive(until=until)
                break
            except (LeaseLostError, ConflictError, FencedError):
                if until is not None and self._deps.clock.monotonic() >= until:
                    return queued(self.agent_id)
                await self.hub.wait(self._deps.clock, self.limits.due_poll_s)
        return await self._last_result(drive)

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

    # ---- watching ---------------------------------------------------------------------------------------------

    async def subscribe(
        self,
        channels: Collection[Channel] | None = None,
        *,
        since: Position | str | int | None = None,
        kinds: Collection[str] | None = None,
    ) -> Subscription:
        """Follow events from now on, or from a place; from any process. See ``Subscription``."""
        place = since if isinstance(since, Position) or since is None else Position.parse(since)
        start = 0
        if place is None:
            start = self.hub.cursor if self.hub.driven and self.hub.cursor is not None else await self._cursor()
        return Subscription(
            self.hub, self._deps.store, self._deps.clock, since=place, start=start, channels=channels, kinds=kinds,
            poll_s=self.limits.due_poll_s,
        )  # fmt: skip

    def on(self, kind: str, handler: Callable[[Any], None]) -> Callable[[], None]:
        """Call ``handler(envelope)`` for each event of that type that a driver of this process publishes.

        It is called in the driver's task and must be quick; what it raises is logged and changes nothing. Returns a
        function that takes it off. To miss nothing, also what other processes do, use ``subscribe``.
        """
        return self.hub.on(kind, handler)

    async def status(self) -> AgentView:
        """What the agent is at, as stored."""
        loaded = await self._deps.store.load(self.agent_id)
        if loaded is None:
            raise NotFoundError(f"Agent {self.agent_id!r} is gone.", agent_id=self.agent_id)
        state = loaded.state
        return AgentView(
            agent_id=self.agent_id,
            uid=state.uid,
            status=state.status,
            breakpoint=state.breakpoint,
            run=None if state.run is None else state.run.number,
            step=state.step,
            messages=state.next_seq,
            cursor=state.next_cursor - 1,
            version=loaded.version,
            driven=loaded.lease is not None,
            pending=tuple(c.id for c in state.calls if c.approval is not None),
            waiting=len(loaded.inbox),
            template=state.template,
            parked=None if state.parked is None else state.parked.value,
        )

    info = status

    # ---- steering ---------------------------------------------------------------------------------------------

    async def decide(
        self,
        call: str,
        decision: Literal["allow", "deny"],
        *,
        by: str | None = None,
        note: str | None = None,
        input: Json | None = None,
    ) -> Sent:
        """Answer the open question of a call. Of several deciders exactly one wins.

        Args:
            call: ``run.step.n``.
            decision: ``allow`` or ``deny``.
            by: Who; stored, and told to the model on a denial.
            note: Why; stored, and told to the model on a denial.
            input: Other arguments to run it with, as JSON text; they are checked again.

        Raises:
            UsageError: No question of that call is open, or somebody else answered first.
        """
        if decision not in ("allow", "deny"):
            raise UsageError(f"The decision is {decision!r}; give 'allow' or 'deny'.", code="bad_decision")
        state = await self._state()
        found = state.call(call)
        asked = None if found is None else found.approval
        if asked is not None and asked.kind == "recovery" and input is not None:
            raise UsageError(
                f"Call {call!r} may have run already, so its input cannot be changed; allow or deny it as it was.",
                code="bad_decision",
            )
        if asked is None:
            open_ = ", ".join(c.id for c in state.calls if c.approval is not None) or "none"
            raise UsageError(
                f"No question of call {call!r} waits for an answer (open: {open_}).", code="not_pending", call=call
            )
        id = f"decision:{call}:{asked.n}"
        check_text(by=by, note=note)
        changed = json_option("input", input)
        done = await self._enqueue(ApprovalDecided(id, call, asked.n, decision, by, note, changed))
        return Sent(id, done.position, done.duplicate)

    async def interrupt(self, note: str | None = None, *, by: str | None = None) -> Sent:
        """Stop the run: running tools get ``cancel_grace_s``, what has not answered then is sealed.

        Durable like a message; when nobody drives the agent, it takes effect with the next drive.
        """
        id = self._deps.ids.item_id()
        check_text(note=note, by=by)
        done = await self._enqueue(InterruptRequested(id, note, by))
        return Sent(id, done.position, done.duplicate)

    async def snapshot(self, id: str | None = None, *, tags: Collection[str] = ()) -> str:
        """Name the present safe point, to fork from it later.

        Raises:
            UsageError: Calls are open (``not_safe``).
            LeaseLostError: Somebody drives the agent just now.
        """
        name = id or f"snap-{self._deps.ids.uid()}"
        await apply_once(self.agent_id, SnapshotTaken(name, tuple(tags)), self._deps, self.limits)
        return name

    async def fork(self, agent_id: str | None = None, *, at: str | None = None) -> Agent:
        """Make another agent with this one's history, up to now or to a snapshot. It starts READY, with its own uid."""
        new_id = agent_id or self._deps.ids.agent_id()
        state = await self._deps.store.fork(self.agent_id, new_id, new_uid=self._deps.ids.uid(), at=at)
        # A fork of a handle that owns its dependencies shares them, and so their connections: whoever is last closes.
        binding = bind(self.template, self._deps)
        return Agent(new_id, state.uid, self.template, binding, self._deps, owns_deps=self._owns_deps)

    def stop(self) -> None:
        """Have a drive of this handle rest at the next moment: tools get the grace, the agent stays resumable."""
        if self._driver is not None:
            self._driver.stop()

    async def close(self) -> None:
        """Let go of the sandbox and what is resident; the agent stays stored and can be opened again.

        A handle that was created from keywords owns what was made of them: its providers are closed too.
        """
        self.stop()
        self._resident = None
        await self._binding.close()
        if self._owns_deps:
            await self._deps.close()

    async def delete(self) -> None:
        """Remove the agent and everything stored of it.

        Raises:
            LeaseLostError: Somebody drives it.
        """
        await self._deps.store.delete(self.agent_id)
        await self.close()

    @property
    def limits(self) -> Limits:
        """The bounds it runs under."""
        return self.template.limits

    def release_window(self) -> None:
        """Let the messages and events in memory go; they are read again when somebody needs them."""
        if self._resident is not None and self._driver is None:
            self._resident.release()
            self.hub.forget()

    # ---- inside -----------------------------------------------------------------------------------------------

    async def drive(
        self, *, strategy: ResumeStrategy = "continue", by_hand: bool = False, until: float | None = None
    ) -> Drive:
        """Drive until nothing is open, under a lease of our own; see ``Driver.run``. What a pool calls."""
        driver = Driver(self.agent_id, self.uid, self._resident, self._binding, self._deps, self.hub, self.limits)
        self._driver, former = driver, self._driver
        try:
            return await driver.run(strategy=strategy, by_hand=by_hand, until=until)
        finally:
            self._resident = driver.resident
            self._driver = former

    async def _follow(self, sent: Sent, until: float | None) -> RunResult:
        """Drive, or follow whoever drives, until the run that took the item ends or rests."""
        clock = self._deps.clock
        look = sent.duplicate
        while True:
            if look:
                found = await stored_for(self._deps.store, self.agent_id, sent.item_id)
                # A pause may be over by now: somebody decided, and nobody has driven since.
                if found is not None and found.status != "paused":
                    return found
            look = True
            try:
                drive = await self.drive(until=until)
            except (LeaseLostError, ConflictError, FencedError):
                left = None if until is None else until - clock.monotonic()
                if left is not None and left <= 0:
                    return queued(self.agent_id)
                poll = self.limits.due_poll_s
                await self.hub.wait(clock, poll if left is None else min(poll, left))
                continue
            record = drive.runs.get(drive.taken.get(sent.item_id, 0))
            if record is not None:
                answer = None if record.answer_seq is None else drive.answers.get(record.answer_seq)
                return result_of(self.agent_id, record, answer)
            # Nothing is open and no run took it just now: it was taken before, or it has to wait.
            found = await stored_for(self._deps.store, self.agent_id, sent.item_id)
            return found or queued(self.agent_id, await self._cursor())

    async def _last_result(self, drive: Drive) -> RunResult:
        if drive.runs:
            record = drive.runs[max(drive.runs)]
            answer = None if record.answer_seq is None else drive.answers.get(record.answer_seq)
            return result_of(self.agent_id, record, answer)
        return await last_stored(self._deps.store, self.agent_id) or queued(self.agent_id)

    async def _enqueue(self, input: InboxInput, *, priority: int = 0, not_before: int | None = None) -> Enqueued:
        now = self._deps.clock.now()
        item = input_item(input, at=now, priority=priority, not_before=not_before)
        done = await self._deps.store.enqueue(self.agent_id, item, uid=self.uid)
        self.hub.ring()
        return done

    async def _state(self) -> State:
        return await self._deps.store.read_state(self.agent_id)

    async def _cursor(self) -> int:
        return (await self._state()).next_cursor - 1
