"""A person decides: what is asked, what is kept, what the model hears, and what a late or second answer does."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import anyio
import pytest

from kode.core.errors import DuplicateIdError, NotFoundError, UsageError
from kode.core.kernel.invariants import check_history
from kode.core.kernel.limits import Limits
from kode.core.kernel.message import Json
from kode.core.kernel.permission import PermissionPolicy, Rule
from kode.core.kernel.toolcall import CallStatus
from kode.core.kernel.words import Breakpoint, Status
from kode.core.provider.script import call, calls, say
from kode.core.runtime.agent import Agent
from kode.core.runtime.pool import AgentPool
from kode.core.runtime.sending import decide
from kode.core.runtime.stateless import StatelessAgent
from kode.core.store.base import Store
from kode.core.store.json import JSONStore
from kode.core.store.memory import MemoryStore
from kode.core.store.sqlite import SqliteStore
from kode.core.tools.base import Tool, ToolContext
from kode.core.tools.define import tool

MONTH_S = 30 * 86_400.0


def spend(spent: list[int], **options: Any) -> Tool:
    """Give a tool that a person must allow."""

    @tool(**{"needs_approval": True, **options})
    async def spend(amount: int) -> str:
        """Spend."""
        spent.append(amount)
        return f"spent {amount}"

    return spend


async def told(lab: Any) -> str:
    """Say what the model was shown of the results of the last step."""
    return next(str(text) for text in reversed(await lab.texts()) if "[" in text)


# ---- what is kept -----------------------------------------------------------------------------------------------


async def test_who_when_and_why_are_kept_with_the_question(lab: Any) -> None:
    spent: list[int] = []
    tools = (spend(spent),)
    agent = await lab.agent([call("spend", {"amount": 9}), say("end")], *tools, limits=Limits(approval_deadline_s=60))
    asked_at = lab.clock.now()
    assert (await agent.run("go")).status == "paused"
    await lab.clock.advance(10)
    await agent.decide("1.1.1", "allow", by="Ann", note="This once.", input=Json('{"amount": 5}'))
    assert (await agent.complete()).text == "end"
    (made,) = (await lab.store.read_calls("a")).items
    (asked,) = made.approvals
    assert (asked.n, asked.kind, asked.state, asked.by, asked.note) == (
        1,
        "permission",
        "approved",
        "Ann",
        "This once.",
    )
    assert (asked.reason, asked.input, made.changed_input) == ("spend always asks.", '{"amount":5}', '{"amount":5}')
    assert (asked.due_at, asked.at) == (asked_at + 60_000_000, asked_at + 10_000_000)
    required, decided = (e for e in await lab.events() if e.type.startswith("permission_"))
    assert (required.type, required.call, required.preview) == ("permission_required", "1.1.1", "spend always asks.")
    assert required.data == {"tool": "spend", "n": 1, "kind": "permission", "due_at": asked.due_at}
    assert (decided.type, decided.call, decided.preview, decided.at) == (
        "permission_decided", "1.1.1", "This once.", asked.at,
    )  # fmt: skip
    assert decided.data == {"n": 1, "decision": "approved", "by": "Ann"}
    assert spent == [5]


# ---- what the model hears ---------------------------------------------------------------------------------------

CHANGED = 'Approved by Ann, with other arguments than you gave: {"amount":5}'


@pytest.mark.parametrize(
    ("answer", "heard"),
    [
        ({}, "spent 9"),
        ({"by": "Ann"}, "spent 9"),
        ({"by": "Ann", "note": "This once."}, "spent 9Approved by Ann: This once."),
        ({"note": "This once."}, "spent 9Approved by someone: This once."),
        ({"by": "Ann", "input": '{"amount": 5}'}, f"spent 5{CHANGED}."),
        ({"by": "Ann", "input": '{"amount":5}', "note": "It is much"}, f"spent 5{CHANGED}: It is much."),
    ],
)
async def test_the_model_hears_what_came_with_an_approval(lab: Any, answer: dict[str, Any], heard: str) -> None:
    """It sees the arguments that it gave, so it is told of others; a note is always told."""
    agent = await lab.agent([call("spend", {"amount": 9}), say("end")], spend([]))
    await agent.run("go")
    await agent.decide("1.1.1", "allow", **answer)
    await agent.complete()
    assert await told(lab) == f"user: [{heard}]"


async def test_the_model_hears_of_other_arguments_that_are_refused(lab: Any) -> None:
    agent = await lab.agent([call("spend", {"amount": 9}), say("end")], spend([]))
    await agent.run("go")
    await agent.decide("1.1.1", "allow", by="Ann", input=Json('{"amount":"x"}'))
    await agent.complete()
    assert "amount" in await told(lab)
    assert 'Approved by Ann, with other arguments than you gave: {"amount":"x"}.' in await told(lab)


async def test_of_long_arguments_the_model_hears_the_beginning(lab: Any) -> None:
    @tool(needs_approval=True)
    async def write(text: str) -> str:
        """Write."""
        return f"{len(text)} written"

    agent = await lab.agent([call("write", {"text": "x"}), say("end")], write)
    await agent.run("go")
    await agent.decide("1.1.1", "allow", by="Ann", input=Json(f'{{"text":"{"y" * 5_000}"}}'))
    await agent.complete()
    heard = await told(lab)
    assert heard.startswith("user: [5000 written")
    assert heard.endswith("y….]")
    assert len(heard) < 1_200


async def test_a_changed_input_is_planned_again(lab: Any) -> None:
    """The schema and a denial bind; to be asked again would be one time too often."""
    spent: list[int] = []
    policy = PermissionPolicy(deny=(Rule("spend", (("amount", "^666$"),)),), ask=(Rule("spend"),))
    ways = [call("spend", {"amount": 1})] * 3
    agent = await lab.agent([*ways, say("end")], spend(spent, needs_approval=False), permission=policy)
    await agent.run("go")
    await agent.decide("1.1.1", "allow", input=Json('{"amount":666}'))
    assert (await agent.complete()).pending == ("1.2.1",)
    assert "The policy denies spend." in await told(lab)
    await agent.decide("1.2.1", "allow", input=Json('{"amont":3}'))
    assert (await agent.complete()).pending == ("1.3.1",)
    await agent.decide("1.3.1", "allow", input=Json('{"amount":3}'))
    assert (await agent.complete()).text == "end"
    assert spent == [3]
    made = (await lab.store.read_calls("a")).items
    assert [c.status for c in made] == [CallStatus.DENIED, CallStatus.FAILED, CallStatus.COMPLETED]


async def test_a_tool_that_changed_since_it_was_asked_about_checks_its_arguments(lab: Any) -> None:
    """A month later its schema may be another: what was approved does not fit any more, and the model is told."""
    spent: list[int] = []
    agent = await lab.agent([call("spend", {"amount": 1})], spend(spent))
    await agent.run("go")

    @tool(name="spend", needs_approval=True)
    async def spend_for(amount: int, reason: str) -> str:
        """Spend."""
        spent.append(amount)
        return reason

    other = await Agent.open("a", lab.deps([say("end")], spend_for))
    await other.decide("1.1.1", "allow")
    assert (await other.complete()).text == "end"
    assert "reason: is required" in await told(lab)
    assert spent == []


# ---- several questions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(itertools.permutations((1, 2, 3))))
async def test_questions_are_answered_in_any_order(lab: Any, order: tuple[int, ...]) -> None:
    """What was allowed runs at once, what was denied does not, and the model hears of all when all are answered."""
    spent: list[int] = []
    script = [calls(*(("spend", {"amount": n}) for n in (1, 2, 3))), say("end")]
    agent = await lab.agent(script, spend(spent))
    left = [f"1.1.{n}" for n in (1, 2, 3)]
    assert (await agent.run("go")).pending == tuple(left)
    allowed: list[int] = []
    for n in order:
        await agent.decide(f"1.1.{n}", "deny" if n == 2 else "allow", by="Ann", note="no" if n == 2 else None)
        allowed += [n] * (n != 2)
        left.remove(f"1.1.{n}")
        result = await agent.complete()
        assert (result.pending, spent) == (tuple(left), allowed)
        if left:
            view = await agent.status()
            assert (result.status, view.status) == ("paused", Status.PAUSED)
            assert view.breakpoint is Breakpoint.AWAITING_APPROVAL
    assert await told(lab) == "user: [spent 1] [Denied by Ann: no.] [spent 3]"
    assert len(lab.provider.requests) == 2, "the model is asked when all are answered"


async def test_one_expires_and_the_other_still_waits(lab: Any) -> None:
    """Also the answer to the one that waits comes long after, and starts what it allows."""
    spent: list[int] = []
    limits = Limits(approval_deadline_s=60)
    script = [calls(("spend", {"amount": 1}), ("spend", {"amount": 2})), say("end")]
    agent = await lab.agent(script, spend(spent), limits=limits)
    await agent.run("go")
    await agent.decide("1.1.2", "allow")
    await lab.clock.advance(61)
    assert (await agent.complete()).text == "end"
    assert await told(lab) == "user: [Not run: nobody approved it in time.] [spent 2]"
    decided = [e.data["decision"] for e in await lab.events() if e.type == "permission_decided"]
    assert sorted(decided) == ["approved", "expired"]
    with pytest.raises(UsageError, match="No question"):
        await agent.decide("1.1.1", "allow")


async def test_an_interrupt_supersedes_what_is_open(lab: Any) -> None:
    """A call that was allowed and runs is cancelled, one that waits is closed; both say so, and nothing runs later."""
    spent: list[int] = []

    @tool(needs_approval=True)
    async def hang(context: ToolContext) -> str:
        """Hang."""
        await context.clock.sleep(10**6)
        return "no"

    script = [calls(("hang", {}), ("spend", {"amount": 2})), say("after")]
    agent = await lab.agent(script, hang, spend(spent))
    await agent.run("go")
    await agent.decide("1.1.1", "allow")
    async with anyio.create_task_group() as tasks:
        run = lab.later(tasks, agent.complete)
        await lab.clock.advance(1)
        await agent.interrupt("enough", by="Ann")
        assert (await lab.pass_until(run)).status == "interrupted"
    one, two = (await lab.store.read_calls("a")).items
    assert (one.status, one.approvals[-1].state) == (CallStatus.SEALED, "approved")
    assert (two.status, two.approvals[-1].state) == (CallStatus.SEALED, "superseded")
    with pytest.raises(UsageError) as caught:
        await agent.decide("1.1.2", "allow")
    assert caught.value.code == "not_pending"
    assert (await agent.run("more")).text == "after"
    assert spent == []
    check_history((await lab.store.read_messages("a")).items)


async def test_a_message_waits_for_the_decision(lab: Any) -> None:
    agent = await lab.agent([call("spend", {"amount": 1}), say("end"), say("more")], spend([]))
    await agent.run("go")
    await agent.send("and this")
    assert (await agent.complete()).status == "paused"
    await agent.decide("1.1.1", "deny")
    await agent.complete()
    texts = await lab.texts()
    assert texts[2:4] == ["user: [Denied by someone.]", "user: and this"]


# ---- who may not, or not any more -------------------------------------------------------------------------------


async def test_a_decision_that_nobody_waits_for_is_refused_at_once(lab: Any) -> None:
    @tool
    async def handed_on(context: ToolContext) -> Any:
        """Wait for somebody outside."""
        return context.suspend()

    script = [calls(("spend", {"amount": 1}), ("handed_on", {})), say("end")]
    agent = await lab.agent(script, spend([]), handed_on)
    for wrong in ("1.1.1", "", "x", "1.1", "9.9.9", "../1"):
        with pytest.raises(UsageError, match="the agent asks nothing just now") as caught:
            await decide(lab.store, "a", wrong, "allow")
        assert caught.value.code == "not_pending"
    await agent.run("go")
    told = r"question 1 of call '1.1.2' waits for an answer; those that do: 1 of call 1.1.1 \(permission\)\."
    with pytest.raises(UsageError, match=told):
        await agent.decide("1.1.2", "allow")
    with pytest.raises(UsageError, match="No question 2 of call"):
        await agent.decide("1.1.1", "allow", n=2)
    wrong_options: list[dict[str, Any]] = [
        {"decision": "yes"}, {"by": 3}, {"by": "x" * 201}, {"note": b""}, {"note": "x" * 10_001}, {"input": "{"},
        {"input": {}}, {"n": "1"}, {"call": 1},
    ]  # fmt: skip
    for bad in wrong_options:
        with pytest.raises(UsageError) as caught:
            await decide(lab.store, "a", **{"call": "1.1.1", "decision": "allow", **bad})
        assert caught.value.code in ("bad_decision", "bad_option")
    with pytest.raises(NotFoundError):
        await decide(lab.store, "b", "1.1.1", "allow")
    with pytest.raises(NotFoundError):
        await decide(lab.store, "a", "1.1.1", "allow", uid="another")
    assert (await agent.status()).waiting == 0, "nothing of it was stored"


async def test_the_same_again_is_said_to_be_so_and_anything_else_is_refused(lab: Any) -> None:
    """While it waits in the inbox, and after it was applied."""
    spent: list[int] = []
    agent = await lab.agent([call("spend", {"amount": 1}), say("end")], spend(spent))
    await agent.run("go")
    first = await agent.decide("1.1.1", "allow", by="Ann")
    again = await agent.decide("1.1.1", "allow", by="Ann")
    assert (first.duplicate, again.duplicate, again.item_id) == (False, True, first.item_id)
    for other in ({"decision": "deny", "by": "Ann"}, {"decision": "allow", "by": "Bob"}):
        with pytest.raises(DuplicateIdError, match=r"Question 1 of call '1\.1\.1' was answered already"):
            await agent.decide("1.1.1", **other)
    assert (await agent.complete()).text == "end"
    assert (await agent.decide("1.1.1", "allow", by="Ann")).duplicate
    assert (await agent.decide("1.1.1", "allow", by="Ann", n=1)).duplicate
    for other in ({"decision": "deny", "by": "Ann"}, {"decision": "allow", "by": "Bob"}):
        with pytest.raises(UsageError) as caught:
            await agent.decide("1.1.1", **other)
        assert caught.value.code == "not_pending"
    assert spent == [1]


@pytest.mark.parametrize("way", ["handle", "function", "stateless"])
async def test_every_way_to_decide_does_the_same(lab: Any, way: str) -> None:
    spent: list[int] = []
    tools = (spend(spent),)
    agent = await lab.agent([call("spend", {"amount": 1}), say("end")], *tools)
    await agent.run("go")
    answer: dict[str, Any] = {"by": "Ann", "note": "Why not", "input": Json('{"amount":2}'), "n": 1}
    if way == "stateless":
        deps = lab.deps([say("end")], *tools)
        result = await StatelessAgent.decide("a", "1.1.1", "allow", **answer, dependencies=deps)
    else:
        sent = await (
            agent.decide("1.1.1", "allow", **answer)
            if way == "handle"
            else decide(lab.store, "a", "1.1.1", "allow", **answer, uid=agent.uid)
        )
        assert (sent.item_id, sent.duplicate, spent) == ("decision:1.1.1:1", False, [])
        result = await agent.complete()
    assert (result.text, spent) == ("end", [2])
    (made,) = (await lab.store.read_calls("a")).items
    (asked,) = made.approvals
    assert (asked.state, asked.by, asked.note, asked.input) == ("approved", "Ann", "Why not", '{"amount":2}')


# ---- a call that may have run -----------------------------------------------------------------------------------


async def crashed(lab: Any, keys: list[str]) -> Agent:
    """Leave an agent whose call was allowed, began, and lost its process."""

    @tool(needs_approval=True, recovery="ask")
    async def pay(context: ToolContext) -> str:
        """Pay."""
        keys.append(context.idempotency_key)
        if len(keys) == 1:
            await context.clock.sleep(10**6)
        return "paid"

    agent = await lab.agent([call("pay", {}), say("end")], pay)
    await agent.run("go")
    await agent.decide("1.1.1", "allow", by="Ann", note="Pay it.")
    async with anyio.create_task_group() as tasks:
        run = lab.later(tasks, agent.complete)
        await lab.clock.advance(1)
        await run.cancel()
    return await Agent.resume("a", lab.deps([say("end")], pay))


async def test_a_decision_delivered_twice_does_not_answer_the_next_question(lab: Any) -> None:
    """What somebody allowed to run is not thereby allowed to run a second time."""
    keys: list[str] = []
    again = await crashed(lab, keys)
    assert (await again.status()).pending == ("1.1.1",)
    required = [e.data for e in await lab.events() if e.type == "permission_required"]
    assert [(e["n"], e["kind"]) for e in required] == [(1, "permission"), (2, "recovery")]
    assert (await again.decide("1.1.1", "allow", by="Ann", note="Pay it.", n=1)).duplicate
    assert (await again.complete()).status == "paused"
    assert len(keys) == 1
    await again.decide("1.1.1", "allow", by="Bob", note="It did not arrive.", n=2)
    assert (await again.complete()).text == "end"
    assert keys == [f"{again.uid}:1.1.1"] * 2, "it runs under the same key"
    assert await told(lab) == "user: [paidApproved by Ann: Pay it.Approved by Bob: It did not arrive.]"


async def test_a_call_that_may_not_run_again_is_sealed_as_one_that_may_have_run(lab: Any) -> None:
    keys: list[str] = []
    again = await crashed(lab, keys)
    await again.decide("1.1.1", "deny", by="Bob", note="I look first", n=2)
    assert (await again.complete()).text == "end"
    heard = await told(lab)
    assert "Not run again, decided by Bob: I look first." in heard
    assert "its outcome is unknown" in heard
    (made,) = (await lab.store.read_calls("a")).items
    assert (made.status, [a.state for a in made.approvals]) == (CallStatus.SEALED, ["approved", "refused"])
    assert len(keys) == 1


# ---- nobody is there --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["memory", "sqlite", "json"])
@pytest.mark.parametrize("answer", [None, "allow"])
async def test_a_pool_that_comes_later_finds_what_is_due(
    lab: Any, tmp_path: Path, kind: str, answer: str | None
) -> None:
    """A deadline that passed on no machine is acted on, and so is a decision that was given in time."""
    stores: dict[str, Any] = {"memory": MemoryStore, "sqlite": SqliteStore, "json": JSONStore}
    place = [] if kind == "memory" else [tmp_path / "store"]
    options: dict[str, Any] = {} if kind == "memory" else {"durability": "process"}
    store: Store = stores[kind](*place, clock=lab.clock, **options)
    spent: list[int] = []
    tools = (spend(spent),)
    limits = Limits(approval_deadline_s=MONTH_S)
    async with store:
        lab.store = store
        agent = await lab.agent([call("spend", {"amount": 1})], *tools, limits=limits)
        assert (await agent.run("go")).status == "paused"
        await agent.close()
        await lab.clock.advance(MONTH_S - 10)
        assert await store.due(await store.now(), 10) == [], "nobody is needed while a person thinks"
        if answer is not None:
            await decide(store, "a", "1.1.1", answer, by="Ann")  # type: ignore[arg-type]
        await lab.clock.advance(86_400)
        assert [due.agent_id for due in await store.due(await store.now(), 10)] == ["a"]
        async with AgentPool(lab.deps([say("end")], *tools)) as pool:
            await pool.wait_idle()
            for _ in range(1_000):
                if (await lab.texts())[-1] == "assistant: end":
                    break
                await lab.clock.advance(0.5)
        (made,) = (await store.read_calls("a")).items
        done = ("approved", [1]) if answer else ("expired", [])
        assert (made.approvals[0].state, spent) == done
        assert (await lab.texts())[-1] == "assistant: end"
