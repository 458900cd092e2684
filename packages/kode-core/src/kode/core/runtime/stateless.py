"""`StatelessAgent`: one request loads an agent, moves it on, and leaves nothing behind but what is stored.

For serverless functions, web requests and queue workers: no pool, no background task, no local disk. Every call may
come to another process; the store decides who drives, and the inbox keeps what waits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal, TypeAlias, TypeVar

import anyio

from kode.core.clock import Reading
from kode.core.config import AgentConfig, Dependencies
from kode.core.errors import AgentExistsError, StoreUnavailableError, UsageError
from kode.core.event.base import Position
from kode.core.event.subscription import Subscription
from kode.core.kernel.events import Channel
from kode.core.kernel.limits import Limits
from kode.core.kernel.message import Json
from kode.core.runtime.agent import Agent
from kode.core.runtime.binding import bind
from kode.core.runtime.birth import LONGEST, recipe_digest, stored_recipe
from kode.core.runtime.outcome import Goal, find_result
from kode.core.runtime.resident import Resident
from kode.core.runtime.result import RunResult
from kode.core.runtime.sending import Content, Sent
from kode.core.runtime.streaming import Stream
from kode.core.store.base import Store
from kode.core.store.lookups import no_agent
from kode.core.template import AgentTemplate

__all__ = ["StatelessAgent"]

FLOOR_S = 2.0
"""What the store gets to answer in all, however short a request's time is."""
LAST_WORD_S = 0.5
"""And what it gets after that to say how things stand."""
T = TypeVar("T")
Busy: TypeAlias = Literal["wait", "queue"]


class StatelessAgent:
    """Run agents request by request.

    All methods take the agent's id and these keywords:

    - ``store``: where agents live, open. Or ``dependencies`` in its place, to keep providers' connections between
      requests; what is made of ``store`` and further fields of ``Dependencies`` (``tools=``, ``providers=``, …) is
      closed at the end of the request.
    - ``timeout_s``: the request's time, opening included. Nothing new is started in the last ``margin_s`` of it
      (None: 2 s, or a tenth of the time if that is less); streams are then cancelled and asked for again later, tools
      are cancelled and have the rest of the margin to answer. The result has status ``deadline`` and names in
      ``unfinished`` the calls that did not stop; ``continue_``, or a pool, goes on. A tool that refuses to be
      cancelled holds the request up; one in a worker thread is left behind. A store that does not answer has its
      call given up: at the end of that time, or after ``FLOOR_S`` if that is later, so that a message is stored also
      by a request that has no time to drive.
    - ``on_busy``: when another request drives the agent just now, ``wait`` for what comes of this one, or leave it in
      the ``queue``: that request serves it if its own time allows, else the next one, or a pool. The result then says
      how it stands: ``queued`` if no run took it yet, ``deadline`` if one did and goes on.
    """

    @staticmethod
    async def run(
        agent_id: str,
        message: Content,
        *,
        store: Store | None = None,
        template_id: str | AgentTemplate = "default",
        config: AgentConfig | None = None,
        timeout_s: float | None = None,
        margin_s: float | None = None,
        request_id: str | None = None,
        on_busy: Busy = "wait",
        limits: Limits | None = None,
        sender: str | None = None,
        metadata: Json | None = None,
        context: Json | None = None,
        dependencies: Dependencies | None = None,
        **bound: Any,
    ) -> RunResult:
        """Send a message and drive until its run ends, rests for a person, or the time is over.

        Args:
            agent_id: Which; one that is not stored is created.
            message: Text or content blocks.
            store: See the class.
            template_id: What an unknown agent is made from: a registered template's id, or the template.
            config: More than a template for an unknown agent, in its place; its ``agent_id`` is not looked at.
            timeout_s: See the class.
            margin_s: See the class.
            request_id: Yours, such as the id of the delivery. A request that comes twice under one id runs once, and
                both get the result of that run, across processes; the same id with another message is refused.
            on_busy: See the class.
            limits: Bounds of this request's run, within the agent's.
            sender: Who speaks; stored.
            metadata: JSON text, stored with the message.
            context: Trace context, as JSON text.
            dependencies: See the class.
            **bound: Fields of ``Dependencies``.

        Raises:
            NotBoundError: A template, tool or provider is not registered here; nothing was stored.
            UsageError: A value is wrong, the inbox is full, or the id was used for another message.
            StoreUnavailableError: The store did not answer in time.
        """
        async with _Request(agent_id, store, dependencies, bound, timeout_s, margin_s, on_busy) as request:
            sent = await request.send(
                _wanted(config, template_id), message,
                item_id=request_id, limits=limits, sender=sender, metadata=metadata, context=context,
            )  # fmt: skip
            return await request.finish(sent)

    @staticmethod
    async def continue_(
        agent_id: str,
        *,
        store: Store | None = None,
        timeout_s: float | None = None,
        margin_s: float | None = None,
        on_busy: Busy = "wait",
        by_hand: bool = False,
        dependencies: Dependencies | None = None,
        **bound: Any,
    ) -> RunResult:
        """Go on with what an earlier request left: a run that rests, messages that wait, calls that a crash cut off.

        Returns the result of the last run, also when nothing was left to do; status ``queued`` if there was none yet,
        or another request drives the agent and ``on_busy`` or the time does not allow to wait for it.

        Args:
            agent_id: Which.
            store: See the class.
            timeout_s: See the class.
            margin_s: See the class.
            on_busy: See the class.
            by_hand: Also if the agent was parked after too many crashes (result ``error``, stop reason ``crash_loop``).
            dependencies: See the class.
            **bound: Fields of ``Dependencies``.

        Raises:
            NotFoundError: No such agent.
        """
        async with _Request(agent_id, store, dependencies, bound, timeout_s, margin_s, on_busy) as request:
            return await request.go_on(by_hand=by_hand)

    @staticmethod
    async def decide(
        agent_id: str,
        call: str,
        decision: Literal["allow", "deny"],
        *,
        by: str | None = None,
        note: str | None = None,
        input: Json | None = None,
        n: int | None = None,
        store: Store | None = None,
        timeout_s: float | None = None,
        margin_s: float | None = None,
        on_busy: Busy = "wait",
        dependencies: Dependencies | None = None,
        **bound: Any,
    ) -> RunResult:
        """Answer a question of a call and go on; see ``Agent.decide``. The same answer twice counts once.

        Returns the result of the call's own run. ``RunResult.questions`` names what is asked: give its ``n``. Without,
        only the call's first question is answered.

        Raises:
            NotFoundError: No such agent.
            UsageError: That question is not open, or somebody answered it otherwise.
        """
        async with _Request(agent_id, store, dependencies, bound, timeout_s, margin_s, on_busy) as request:
            await request.decide(call, decision, by=by, note=note, input=input, n=n)
            return await request.go_on(run=int(call.split(".", 1)[0]))

    @staticmethod
    def stream(
        agent_id: str,
        message: Content,
        *,
        store: Store | None = None,
        template_id: str | AgentTemplate = "default",
        config: AgentConfig | None = None,
        timeout_s: float | None = None,
        margin_s: float | None = None,
        request_id: str | None = None,
        on_busy: Busy = "wait",
        limits: Limits | None = None,
        sender: str | None = None,
        metadata: Json | None = None,
        context: Json | None = None,
        channels: Collection[Channel] | None = None,
        kinds: Collection[str] | None = None,
        since: Position | str | int | None = None,
        dependencies: Dependencies | None = None,
        **bound: Any,
    ) -> Stream:
        """``async with StatelessAgent.stream(…) as events: async for envelope in events: …``; as ``run``, with events.

        Its arguments are those of ``run``, and ``channels`` and ``kinds`` (only these; None: all) and ``since`` (the
        position behind which to begin; None: from now on, what another request drives just now included).

        ``events.result`` is the ``RunResult`` once the loop has ended by itself. A client that lost its connection
        asks again with the same ``request_id`` and, as ``since``, the position of the last event it saw: it misses
        nothing and nothing runs twice. Leaving the ``async with`` early cancels the run; the agent stays resumable.
        """
        request = _Request(agent_id, store, dependencies, bound, timeout_s, margin_s, on_busy)
        sent: list[Sent] = []

        async def subscribe() -> Subscription:
            events = await request.subscribe(_wanted(config, template_id), channels, since, kinds)
            # Before anything is shown: what is refused is refused where the ``async with`` is entered.
            done = await request.send(
                None, message, item_id=request_id, limits=limits, sender=sender, metadata=metadata, context=context
            )
            sent.append(done)
            return events

        return Stream(subscribe, lambda: request.finish(sent[0]), request.wake, request.close)


class _Request:
    """What one request holds while it lasts: dependencies of its own, and a handle."""

    def __init__(
        self,
        agent_id: str,
        store: Store | None,
        dependencies: Dependencies | None,
        bound: dict[str, Any],
        timeout_s: float | None,
        margin_s: float | None,
        on_busy: Busy,
    ) -> None:
        _positive(timeout_s=timeout_s, margin_s=margin_s)
        if on_busy not in ("wait", "queue"):
            raise UsageError(f"on_busy is {on_busy!r}; give 'wait' or 'queue'.", code="bad_option", option="on_busy")
        self.agent_id = agent_id
        self.owned = dependencies is None
        self.deps = dependencies or _dependencies(store, bound)
        if dependencies is not None and (store is not None or bound):
            extra = sorted(bound) or ["store"]
            raise UsageError(f"Give dependencies or {', '.join(extra)}, not both.", code="bad_argument")
        began = self.deps.clock.monotonic()
        self.until = None if timeout_s is None else began + timeout_s
        self.ends = None if timeout_s is None else began + max(timeout_s, FLOOR_S)
        self.timeout_s = timeout_s
        self.margin_s = margin_s
        self.wait = on_busy == "wait"
        self.agent: Agent | None = None

    async def __aenter__(self) -> _Request:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self, config: AgentConfig | None = None) -> Agent:
        """The agent, made first if there is none and ``config`` says how.

        Raises:
            NotFoundError: There is none.
            StoreUnavailableError: It took all of the request's time.
        """
        if self.agent is None:
            self.agent = await self._in_time(lambda: _opened(self.agent_id, config, self.deps))
        return self.agent

    async def send(self, config: AgentConfig | None, message: Content, **options: Any) -> Sent:
        """Put the message into the inbox."""
        agent = await self.open(config)
        return await self._in_time(lambda: agent.send(message, **options))

    async def subscribe(
        self,
        config: AgentConfig,
        channels: Collection[Channel] | None,
        since: Position | str | int | None,
        kinds: Collection[str] | None,
    ) -> Subscription:
        """Follow the agent's events."""
        agent = await self.open(config)
        return await self._in_time(lambda: agent.subscribe(channels, since=since, kinds=kinds))

    async def decide(self, call: str, decision: Literal["allow", "deny"], **options: Any) -> Sent:
        """Put the decision into the inbox."""
        agent = await self.open()
        return await self._in_time(lambda: agent.decide(call, decision, **options))

    async def _in_time(self, ask: Callable[[], Awaitable[T]], *, extra_s: float = 0) -> T:
        """Ask the store for as long as the request lasts."""
        clock = self.deps.clock
        with clock.move_on_after(None if self.ends is None else self.ends - clock.monotonic() + extra_s):
            return await ask()
        raise StoreUnavailableError(
            f"The store did not answer within the request's {self.timeout_s} s. What was asked of it may be done or "
            "not: ask again, with the same request_id.",
            code="no_answer",
        )

    async def finish(self, sent: Sent) -> RunResult:
        """Drive until what was sent is done, or the time is over."""
        agent = await self.open()
        return await self._drive(
            agent, sent, lambda: agent.finish(sent, until=self.until, margin_s=self.margin_s, wait=self.wait)
        )

    async def go_on(self, *, run: int | None = None, by_hand: bool = False) -> RunResult:
        """Drive what is there, or one run, until it rests or the time is over."""
        agent = await self.open()
        return await self._drive(
            agent, run,
            lambda: agent.go_on(
                until=self.until, margin_s=self.margin_s, wait=self.wait, by_hand=by_hand, run=run
            ),
        )  # fmt: skip

    async def _drive(self, agent: Agent, goal: Goal, drive: Callable[[], Awaitable[RunResult]]) -> RunResult:
        """Drive; what did not come to rest in time is cancelled, and told as it is stored."""
        try:
            return await self._in_time(drive)
        except StoreUnavailableError as error:
            if error.code != "no_answer":
                raise
        return await self._in_time(lambda: find_result(self.deps.store, agent, goal), extra_s=LAST_WORD_S)

    def wake(self) -> None:
        """Have followers in this process look."""
        if self.agent is not None:
            self.agent.hub.wake()

    async def close(self) -> None:
        """Let go of everything; the agent is stored."""
        with anyio.CancelScope(shield=True):
            if self.agent is not None:
                await self.agent.close()
            if self.owned:
                await self.deps.close()


async def _opened(agent_id: str, config: AgentConfig | None, deps: Dependencies) -> Agent:
    agent = await _found(agent_id, deps)
    if agent is None and config is not None:
        try:
            return await Agent.create(replace(config, agent_id=agent_id), deps)
        except AgentExistsError:
            # Another request made it meanwhile.
            agent = await _found(agent_id, deps)
    if agent is None:
        raise no_agent(agent_id)
    return agent


async def _found(agent_id: str, deps: Dependencies) -> Agent | None:
    """Load an agent whole, so that it can be driven without another look."""
    asked_at = deps.clock.monotonic()
    loaded = await deps.store.load(agent_id, recipe=True)
    if loaded is None:
        return None
    uid, template = loaded.state.uid, stored_recipe(agent_id, loaded.recipe)
    binding = bind(template, deps, recipe_digest(loaded.state))
    footing = loaded.footing
    reading = None if footing is None else Reading(footing.at, asked_at, deps.clock.monotonic())
    resident = Resident(loaded, footing, reading)
    return Agent(agent_id, uid, binding, deps, resident=resident)


def _wanted(config: AgentConfig | None, template: str | AgentTemplate) -> AgentConfig:
    return AgentConfig(template) if config is None else config


def _dependencies(store: Store | None, bound: dict[str, Any]) -> Dependencies:
    known = {name for name, field in Dependencies.__dataclass_fields__.items() if field.init}
    strange = sorted(set(bound) - known)
    if strange:
        raise UsageError(
            f"StatelessAgent knows no {', '.join(map(repr, strange))}; of Dependencies it takes "
            f"{', '.join(sorted(known))}.",
            code="bad_argument",
        )
    if store is None:
        raise UsageError("StatelessAgent needs store=… (open), or dependencies=….", code="bad_argument")
    return Dependencies(store, **bound)


def _positive(**given: float | None) -> None:
    for name, value in given.items():
        if value is not None and (type(value) not in (int, float) or not 0 <= value <= LONGEST):
            raise UsageError(f"{name} is {value!r}; give seconds, 0 or more.", code="bad_option", option=name)
