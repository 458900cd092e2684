"""What becomes of a request is told as it is: also when time, the store, the lease or the process went away."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

import anyio
import pytest
from tests.core.runtime.requests import NEAR, PLAIN, echo, in_time, ping, risky, using
from tests.sandboxes.near import Near

from kode.core.errors import DuplicateIdError, NotFoundError, StoreUnavailableError, UsageError
from kode.core.kernel.limits import Limits
from kode.core.provider.script import Gate, call, say
from kode.core.runtime.agent import Agent
from kode.core.runtime.lease import Holding
from kode.core.runtime.stateless import StatelessAgent
from kode.core.sandbox.catalog import SandboxFactory
from kode.core.store.base import Store
from kode.core.testing.wrapped import WrappedStore
from kode.core.tools.base import ToolContext
from kode.core.tools.define import tool

T = TypeVar("T")


async def run(lab: Any, *args: Any, **more: Any) -> Any:
    """One request."""
    return await StatelessAgent.run(*args, template_id=more.pop("template_id", PLAIN), **more)


# ---- questions ------------------------------------------------------------------------------------------------


async def interrupted_payment(lab: Any, paid: list[str]) -> Any:
    """An approved call whose request was cut off: a person is asked whether it may run again."""

    @tool(needs_approval=True, recovery="ask")
    async def pay(context: ToolContext) -> str:
        """Pay."""
        paid.append(context.call_id)
        if len(paid) == 1:
            await context.clock.sleep(1_000)
        return "paid"

    deps = lab.deps([call("pay", {}), say("end")], pay, sandboxes=NEAR)
    result = await run(lab, "a", "go", template_id=using(pay), dependencies=deps)
    assert [(q.call, q.n, q.kind, q.tool) for q in result.questions] == [("1.1.1", 1, "permission", "pay")]
    async with anyio.create_task_group() as tasks:
        decided = lab.later(
            tasks, lambda: StatelessAgent.decide("a", "1.1.1", "allow", by="Ann", dependencies=deps)
        )  # fmt: skip
        while not paid:
            await lab.clock.advance(0.1)
        await decided.cancel()
    return deps


async def test_an_approval_that_comes_again_never_answers_the_question_after_a_crash(lab: Any) -> None:
    paid: list[str] = []
    deps = await interrupted_payment(lab, paid)
    for _ in range(3):
        result = await StatelessAgent.decide("a", "1.1.1", "allow", by="Ann", dependencies=deps)
        assert (result.status, result.pending, len(paid)) == ("paused", ("1.1.1",), 1)
        assert [(q.n, q.kind) for q in result.questions] == [(2, "recovery")]
    plain = json.loads(json.dumps(result.to_dict()))
    assert plain["questions"] == [{"call": "1.1.1", "n": 2, "kind": "recovery", "tool": "pay"}]
    assert (await (await Agent.open("a", deps)).status()).questions == result.questions
    assert (await StatelessAgent.continue_("a", dependencies=deps)).questions == result.questions
    with pytest.raises(
        UsageError, match=r"No question 1 of call '1.1.1' waits .*: 2 of call 1.1.1 \(recovery\)"
    ) as caught:
        await StatelessAgent.decide("a", "1.1.1", "allow", by="Bob", dependencies=deps)
    assert caught.value.code == "not_pending"
    result = await StatelessAgent.decide("a", "1.1.1", "allow", by="Bob", n=2, dependencies=deps)
    assert (result.status, result.questions, len(paid)) == ("ok", (), 2)


async def test_a_decision_is_told_the_result_of_its_own_run(lab: Any) -> None:
    deps = lab.deps([call("risky", {}), say("for Ann"), say("for Bob")], risky, sandboxes=NEAR)
    await run(lab, "a", "go", template_id=using(risky), dependencies=deps)
    decided = await StatelessAgent.decide("a", "1.1.1", "allow", by="Ann", dependencies=deps)
    assert (decided.text, decided.run) == ("for Ann", 1)
    assert (await run(lab, "a", "Bob asks", dependencies=deps)).text == "for Bob"
    again = await StatelessAgent.decide("a", "1.1.1", "allow", by="Ann", dependencies=deps)
    assert again == decided


# ---- a store that is away -------------------------------------------------------------------------------------


class Away(WrappedStore):
    """It fails at, or does not answer, one kind of operation; or all reads, too, once it is."""

    def __init__(self, inner: Store, operation: str, *, hangs: bool, altogether: bool = False) -> None:
        super().__init__(inner)
        self.broken, self.hangs, self.altogether, self.gone = operation, hangs, altogether, False

    async def around(self, method: str, call: Callable[[], Awaitable[T]]) -> T:
        self.gone = self.gone or (self.altogether and self.operation == self.broken)
        if not (self.gone or self.operation == self.broken):
            return await call()
        if self.hangs:
            await anyio.sleep_forever()
        raise StoreUnavailableError("away")


@pytest.mark.parametrize("operation", ["acquire", "commit"])
async def test_a_store_that_hangs_takes_no_more_than_the_time(lab: Any, operation: str) -> None:
    await run(lab, "a", "one", dependencies=lab.deps(echo))
    deps = lab.deps(echo, store=Away(lab.store, operation, hangs=True))
    result, took = await in_time(lab, lambda: run(lab, "a", "two", timeout_s=5.0, dependencies=deps), 0.1)
    assert result.status == "queued"
    assert 4.5 <= took <= 6
    dead = lab.deps(echo, store=Away(lab.store, operation, hangs=True, altogether=True))
    began = lab.clock.monotonic()
    async with anyio.create_task_group() as tasks:
        later = lab.later(tasks, lambda: StatelessAgent.continue_("a", timeout_s=5.0, dependencies=dead))
        with pytest.raises(StoreUnavailableError) as caught:
            await lab.pass_until(later, 0.1)
    assert caught.value.code == "no_answer"
    assert lab.clock.monotonic() - began <= 6


async def test_a_store_that_fails_is_not_asked_again_when_the_time_is_over(lab: Any) -> None:
    await run(lab, "a", "one", dependencies=lab.deps(echo))
    deps = lab.deps(echo, store=Away(lab.store, "commit", hangs=False))
    began = lab.clock.monotonic()
    async with anyio.create_task_group() as tasks:
        agent = await Agent.open("a", deps)
        later = lab.later(tasks, lambda: agent.run("two", timeout_s=5.0))
        with pytest.raises(StoreUnavailableError, match="away"):
            await lab.pass_until(later, 0.1)
    assert 4 <= lab.clock.monotonic() - began <= 6


@pytest.mark.parametrize("timeout_s", [0, 0.001])
async def test_a_request_without_time_leaves_its_message(lab: Any, timeout_s: float) -> None:
    class Slow(WrappedStore):
        async def around(self, method: str, call: Callable[[], Awaitable[T]]) -> T:
            await lab.clock.sleep(0.05)
            return await call()

    deps = lab.deps(echo, store=Slow(lab.store))
    result, took = await in_time(lab, lambda: run(lab, "a", "go", timeout_s=timeout_s, dependencies=deps), 0.05)
    assert (result.status, lab.provider.requests) == ("deadline", [])
    assert took < 2
    assert (await StatelessAgent.continue_("a", dependencies=lab.deps(echo))).text == "re go"


# ---- what became of it ----------------------------------------------------------------------------------------


async def test_the_time_is_over_before_the_sandbox_is_open(lab: Any) -> None:
    class SlowBox(Near):
        kind = "slowbox"

        async def open(self) -> None:
            await lab.clock.sleep(5)

    boxes = SandboxFactory()
    boxes.register("slowbox", SlowBox)
    deps = lab.deps(echo, ping, sandboxes=boxes)
    request = {"template_id": using(ping, sandbox="slowbox"), "request_id": "r", "dependencies": deps}
    for _ in range(2):
        result, _ = await in_time(lab, lambda: run(lab, "a", "go", timeout_s=1.0, **request), 0.1)
        assert (result.status, result.run) == ("deadline", 1)
        assert (await lab.store.read_run("a", 1)).status == "deadline", "the run that it began rests, and is told of"
    assert (await in_time(lab, lambda: run(lab, "a", "go", **request)))[0].text == "re go"


async def test_who_waits_for_a_run_that_another_drives_is_not_told_that_none_took_it(lab: Any) -> None:
    gate = Gate()
    deps = lab.deps([say("there", gate=gate)])
    request = {"request_id": "r", "dependencies": deps}
    async with anyio.create_task_group() as tasks:
        first = lab.later(tasks, lambda: run(lab, "a", "go", **request))
        await gate.reached()
        result = await lab.pass_until(lab.later(tasks, lambda: run(lab, "a", "go", timeout_s=3.0, **request)), 0.5)
        assert (result.status, result.run, result.cursor > 0) == ("deadline", 1, True)
        result = await run(lab, "a", "go", on_busy="queue", **request)
        assert (result.status, result.run) == ("deadline", 1)
        gate.release()
        assert (await first.wait()).status == "ok"


async def test_what_somebody_decided_and_drives_is_not_asked_any_more(lab: Any) -> None:
    gate = Gate()
    deps = lab.deps([call("risky", {}), say("end", gate=gate)], risky, sandboxes=NEAR)
    request = {"template_id": using(risky), "request_id": "r", "dependencies": deps}
    assert (await run(lab, "a", "go", **request)).status == "paused"
    async with anyio.create_task_group() as tasks:
        decided = lab.later(tasks, lambda: StatelessAgent.decide("a", "1.1.1", "allow", dependencies=deps))
        await gate.reached()
        meanwhile = await run(lab, "a", "go", on_busy="queue", **request)
        assert (meanwhile.status, meanwhile.run, meanwhile.questions) == ("deadline", 1, ())
        gate.release()
        assert (await decided.wait()).text == "end"


async def test_a_lease_that_was_lost_in_the_end_does_not_hide_the_result(lab: Any) -> None:
    others = lab.deps([say("by the other")])

    class Loses(WrappedStore):
        done = False

        async def commit(self, commit: Any) -> Any:
            if commit.answered and not self.done:
                self.done = True
                lease = await self.inner.lease_of("a")
                assert lease is not None
                await self.inner.release(lease)
                assert (await run(lab, "a", "go", request_id="r", dependencies=others)).ok
                await lab.clock.sleep(3)
            return await super().commit(commit)

    deps = lab.deps([say("mine")], store=Loses(lab.store))
    result, _ = await in_time(lab, lambda: run(lab, "a", "go", request_id="r", timeout_s=2.5, dependencies=deps), 0.1)
    assert (result.status, result.text) == ("ok", "by the other")


async def test_an_item_that_the_store_did_not_show_is_looked_for_again(lab: Any) -> None:
    class Blip(WrappedStore):
        left = 2

        async def read_inbox(self, *args: Any, **more: Any) -> Any:
            if self.left:
                self.left -= 1
                raise StoreUnavailableError("blip")
            return await super().read_inbox(*args, **more)

        async def acquire_on(self, footing: Any, holder: str, ttl_s: float) -> Any:
            return None

    await run(lab, "a", "one", dependencies=lab.deps(echo))
    deps = lab.deps(echo, store=Blip(lab.store))
    result, _ = await in_time(lab, lambda: run(lab, "a", "two", timeout_s=10.0, dependencies=deps))
    assert (result.status, result.text) == ("ok", "re two")


async def test_of_a_run_whose_record_was_pruned_so_much_is_told(lab: Any) -> None:
    deps = lab.deps(echo)
    for n in range(4):
        await run(lab, "a", f"{n}", request_id=f"r{n}", dependencies=deps)
    await lab.store.prune("a", before=None, keep_runs=1, keep_messages=2, keep_snapshots=0)
    result = await run(lab, "a", "0", request_id="r0", dependencies=deps)
    assert (result.status, result.run, result.error.code) == ("error", 1, "record_pruned")
    assert (await run(lab, "a", "3", request_id="r3", dependencies=deps)).ok
    assert len(lab.provider.requests) == 4


async def test_a_parked_agent_says_so_at_once_and_goes_on_by_hand(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(max_recoveries=1, lease_s=1.0)
    deps = lab.deps(echo)
    await (await lab.agent(echo, limits=limits, deps=deps)).send("go")

    class Dies(WrappedStore):
        async def commit(self, commit: Any) -> Any:
            done = await super().commit(commit)
            if commit.state.effects:
                raise NotFoundError("this process is dead")
            return done

    async def dead(*_: Any, **__: Any) -> None:
        pass

    with monkeypatch.context() as dying:
        dying.setattr(Holding, "let_go", dead)
        for _ in range(4):
            with suppress(NotFoundError):
                await StatelessAgent.continue_("a", dependencies=lab.deps(echo, store=Dies(lab.store)))
            await lab.clock.advance(2)
    parked = await StatelessAgent.continue_("a", dependencies=deps)
    assert (parked.status, parked.stop_reason) == ("error", "crash_loop")
    for _ in range(2):
        result = await run(lab, "a", "hello?", request_id="r", dependencies=deps)
        assert (result.status, result.stop_reason, result.run) == ("error", "crash_loop", None)
        assert "by hand" in result.error.text
    assert (await StatelessAgent.continue_("a", by_hand=True, dependencies=deps)).ok
    assert (await run(lab, "a", "hello?", request_id="r", dependencies=deps)).ok


# ---- who waits ------------------------------------------------------------------------------------------------


async def test_who_waits_is_not_woken_by_every_piece_of_text(lab: Any) -> None:
    class Counting(WrappedStore):
        asked: Counter[str]

        async def around(self, method: str, call: Callable[[], Awaitable[T]]) -> T:
            self.asked[method] += 1
            return await call()

    store = Counting(lab.store)
    store.asked = Counter()
    deps = lab.deps([say("word " * 100, chunk=5, gap_s=0.01), say("rest")], store=store)
    async with anyio.create_task_group() as tasks:
        first = lab.later(tasks, lambda: run(lab, "a", "1", dependencies=deps))
        await lab.clock.advance(0.1)
        waits = lab.later(tasks, lambda: run(lab, "a", "2", dependencies=deps))
        await lab.clock.advance(0.1)
        store.asked.clear()
        await lab.pass_until(first, 0.01)
        assert (await lab.pass_until(waits, 0.01)).text == "rest"
    assert sum(store.asked.values()) < 40
    assert lab.clock.monotonic() < 2, "nor does it wait for the next look when its turn has come"


async def test_whose_turn_it_is_begins_when_the_one_before_rests(lab: Any) -> None:
    """And who waits for the first run is told of its end while the second is at work; none waits for the next look."""
    gate = Gate()
    deps = lab.deps([say("late", delay_s=1_000.0), say("one", delay_s=1.0), say("two", gate=gate)])
    template = PLAIN.changed(limits=Limits(due_poll_s=25.0, lease_s=100.0))
    again = {"request_id": "r", "dependencies": deps}
    async with anyio.create_task_group() as tasks:
        first = lab.later(tasks, lambda: run(lab, "a", "1", template_id=template, timeout_s=5.0, **again))
        await lab.clock.advance(1)
        second = lab.later(tasks, lambda: run(lab, "a", "2", dependencies=deps))
        assert (await lab.pass_until(first, 0.5)).status == "deadline"
        await lab.clock.advance(0.1)
        third = lab.later(tasks, lambda: run(lab, "a", "1", **again))
        told = await lab.pass_until(third, 0.5)
        assert (told.text, told.run) == ("one", 1)
        gate.release()
        told = await lab.pass_until(second, 0.5)
        assert (told.text, told.run) == ("two", 2)
    assert lab.clock.monotonic() < 10


# ---- twice ----------------------------------------------------------------------------------------------------


async def test_a_repeated_request_may_bring_other_metadata_and_limits_but_not_another_sender(lab: Any) -> None:
    deps = lab.deps(echo)
    told = {"sender": "ann", "metadata": '{"try":1}', "limits": Limits(max_steps_per_run=5)}
    first = await run(lab, "a", "x", request_id="r", dependencies=deps, **told)
    again = {**told, "metadata": '{"try":2}', "limits": None, "context": '{"traceparent":"x"}'}
    assert await run(lab, "a", "x", request_id="r", dependencies=deps, **again) == first
    for other in ({"sender": "mallory"}, {"sender": None}, {"message": "y"}):
        options = {"message": "x", **told, **other}
        with pytest.raises(DuplicateIdError):
            await run(lab, "a", options.pop("message"), request_id="r", dependencies=deps, **options)
    with pytest.raises(UsageError) as caught:
        await run(lab, "a", "x", request_id="", dependencies=deps)
    assert caught.value.code == "bad_item_id"


# ---- events ---------------------------------------------------------------------------------------------------


async def test_a_place_that_the_agent_has_not_reached_is_refused(lab: Any) -> None:
    deps = lab.deps(echo)
    result = await run(lab, "a", "x", dependencies=deps)
    for beyond in (result.cursor + 100, "999999999999999"):
        with pytest.raises(UsageError) as caught:
            async with StatelessAgent.stream("a", "y", since=beyond, dependencies=deps):
                pass
        assert caught.value.code == "bad_position"
    assert (await lab.store.load("a")).inbox == ()
    async with StatelessAgent.stream("a", "z", since=result.cursor, dependencies=deps) as events:
        seen = [e.cursor async for e in events if not e.delta]
    assert seen[0] in (result.cursor, result.cursor + 1)


async def test_a_reader_can_tell_that_events_were_pruned(lab: Any) -> None:
    deps = lab.deps(echo)
    await run(lab, "a", "x", dependencies=deps)
    agent = await Agent.open("a", deps)
    for pruned in (False, True):
        if pruned:
            await lab.store.prune("a", before=None, keep_events=3)
        agent.hub.forget()
        events = await agent.subscribe(since=0)
        events.done = lambda: True
        first, *_ = [e.cursor async for e in events]
        assert (first > 1, events.pruned) == (pruned, pruned)


async def test_what_is_refused_is_refused_before_a_stream_begins(lab: Any) -> None:
    deps = lab.deps(echo)
    await run(lab, "a", "x", request_id="r", dependencies=deps)
    for message, code in ((" ", "bad_message"), ("y", "duplicate_id")):
        entered = False
        with pytest.raises(UsageError) as caught:
            async with StatelessAgent.stream("a", message, request_id="r", dependencies=deps):
                entered = True
        assert (caught.value.code, entered) == (code, False)
    with pytest.raises(UsageError, match="async with"):
        await anext(StatelessAgent.stream("a", "z", dependencies=deps))


# ---- the lease ------------------------------------------------------------------------------------------------


async def test_a_lease_that_arrives_after_its_asker_was_cancelled_is_given_back(lab: Any) -> None:
    """The write is under way while its caller is told to stop; later writes come behind it."""

    class Behind(WrappedStore):
        def __init__(self, inner: Store) -> None:
            super().__init__(inner)
            self.begun, self.land = anyio.Event(), anyio.Event()
            self.late: Callable[[], Awaitable[Any]] | None = None

        async def around(self, method: str, call: Callable[[], Awaitable[T]]) -> T:
            write = method in ("apply", "apply_and_look")
            if write and self.operation == "acquire":
                self.late = call
                self.begun.set()
                await anyio.sleep_forever()
            if write and self.late is not None:
                late, self.late = self.late, None
                await late()
            return await call()

    await run(lab, "a", "one", dependencies=lab.deps(echo))
    store = Behind(lab.store)
    async with anyio.create_task_group() as tasks:
        later = lab.later(tasks, lambda: run(lab, "a", "two", dependencies=lab.deps(echo, store=store)))
        await store.begun.wait()
        await later.cancel()
    assert store.late is None, "the write has landed"
    assert await lab.store.lease_of("a") is None
