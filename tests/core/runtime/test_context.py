"""Histories that outgrow the window: what is summed up, what is shown, and that every request is a valid one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import anyio
import pytest

from kode.core.errors import NotBoundError, NotFoundError, UsageError
from kode.core.kernel.context import ContextPolicy
from kode.core.kernel.invariants import check, check_history
from kode.core.kernel.limits import Limits
from kode.core.kernel.message import MediaBlock, Message, TextBlock, ToolResultBlock, ToolUseBlock, Usage
from kode.core.kernel.words import StopReason
from kode.core.provider.base import ModelRequest
from kode.core.provider.failure import provider_error
from kode.core.provider.script import Turn, call, calls, fail, say
from kode.core.provider.scripted import ScriptedProvider
from kode.core.runtime.agent import Agent
from kode.core.runtime.context.estimate import request_tokens, tokens_of
from kode.core.runtime.context.summary import HEAD
from kode.core.template import AgentTemplate
from kode.core.tools.base import ToolContext, ToolOutcome
from kode.core.tools.define import tool

SUMMARY = "Goal: count. Done: much. Open: the rest."
Answer = Callable[[ModelRequest], Turn | str]


@tool
async def look(n: int) -> str:
    """Look at page n."""
    return f"page {n}: " + "words and more words. " * 40


def valid(request: ModelRequest) -> None:
    """Hold a request to what every provider asks: each call answered next, in order, nothing answered twice."""
    asked: list[str] = []
    for message in request.messages:
        answers = [b.tool_use_id for b in message.blocks if isinstance(b, ToolResultBlock)]
        assert answers == asked, f"answers {answers} to calls {asked}"
        asked = [b.id for b in message.blocks if isinstance(b, ToolUseBlock)]
        assert message.blocks
    assert not asked
    assert request.messages[0].role == "user"
    assert request.messages[-1].role == "user"


def is_summary(request: ModelRequest) -> bool:
    return request.system.startswith("You write the summary") if isinstance(request.system, str) else False


class World:
    """A model that counts what it is shown, and does what ``answer`` says; it writes summaries by ``sums_up``."""

    def __init__(self, answer: Answer, *, sums_up: Answer = lambda _: SUMMARY, counts: bool = True) -> None:
        self.answer, self.sums_up, self.counts = answer, sums_up, counts
        self.sizes: list[int] = []
        self.requests: list[ModelRequest] = []
        self.summaries: list[ModelRequest] = []

    def __call__(self, request: ModelRequest) -> Turn:
        summing = is_summary(request)
        if not summing:
            valid(request)
        given = (self.sums_up if summing else self.answer)(request)
        turn = say(given) if isinstance(given, str) else given
        (self.summaries if summing else self.requests).append(request)
        size = request_tokens(request)
        if not summing:
            self.sizes.append(size)
        if turn.error is None and turn.usage is None:
            turn = replace(turn, usage=Usage(size, tokens_of(turn.blocks)) if self.counts else Usage())
        return turn


def steps(n: int, size: int = 1) -> Answer:
    """Call a tool ``n`` times, ``size`` calls each, then end."""
    done = 0

    def answer(request: ModelRequest) -> Turn:
        nonlocal done
        done += 1
        if done > n:
            return say("finished")
        return calls(*[("look", {"n": done}, f"id-{done}-{k}") for k in range(size)])

    return answer


async def make(lab: Any, world: World, *tools: Any, system: str = "", id: str = "a", **policy: Any) -> Agent:
    deps = lab.deps(world, *tools)
    template = AgentTemplate(
        "t", system, model="m", tools=tuple(t.name for t in tools), context=ContextPolicy(**policy),
        limits=Limits(max_steps_per_run=None, processing_timeout_s=None),
    )  # fmt: skip
    return await Agent.create(template=template, agent_id=id, **_kept(deps))


def _kept(deps: Any) -> dict[str, Any]:
    return {name: getattr(deps, name) for name in ("store", "tools", "providers", "clock", "ids", "random", "modes")}


async def compressions(lab: Any, id: str = "a") -> list[str]:
    return [e.data["phase"] for e in await lab.events(id) if e.type == "context_compression"]


def text_of(message: Message) -> str:
    return " ".join(b.text for b in message.blocks if isinstance(b, TextBlock))


# ---- a long run ------------------------------------------------------------------------------------------------


async def test_three_hundred_steps_stay_within_the_window(lab: Any) -> None:
    world = World(steps(300))
    agent = await make(lab, world, look, max_tokens=4_000)
    result = await agent.run("Look at everything.")
    assert (result.status, result.text, result.steps) == ("ok", "finished", 301)
    # A step more than the bound is the most that can be: what a step brings is known when it is over.
    assert 3_000 < max(world.sizes) < 4_000 + 400
    made = await agent.compactions()
    assert 15 < len(made) < 60, "a compaction is worth it: it takes many steps to the next one"
    assert {one.method for one in made} == {"model"}
    assert all(one.tokens_after < one.tokens_before for one in made)
    assert all("Look at everything." in [text_of(m) for m in r.messages] for r in world.requests), "the run's own word"
    assert all(HEAD in text_of(world.requests[-1].messages[0]) for _ in made)
    history = (await lab.store.read_messages("a", limit=1_000)).items
    assert len(history) == 602
    check_history(history)
    state = await lab.store.read_state("a")
    check(state)
    assert len(state.window.ranges) == 1
    assert state.window.pinned == (0,)


async def test_a_summary_is_input_of_the_next_one(lab: Any) -> None:
    written = iter(range(100))
    world = World(steps(60), sums_up=lambda _: f"Summary number {next(written)}.")
    agent = await make(lab, world, look, max_tokens=3_000)
    await agent.run("go")
    told = [text_of(request.messages[0]) for request in world.summaries]
    assert "earlier summary" not in told[0]
    for n, text in enumerate(told[1:]):
        assert f"Summary number {n}." in text
        assert f"Summary number {n - 1}." not in text
    assert "calls look" in told[0]
    assert "result: page 1" in told[0]
    assert not world.summaries[0].tools
    assert world.summaries[0].max_tokens


async def test_a_run_counts_what_its_summaries_used(lab: Any) -> None:
    world = World(steps(20), sums_up=lambda _: say(SUMMARY, usage=Usage(100_000, 7)))
    agent = await make(lab, world, look, max_tokens=3_000)
    result = await agent.run("go")
    made = await agent.compactions()
    assert [one.usage for one in made] == [Usage(100_000, 7)] * len(made)
    assert result.usage.input == 100_000 * len(made) + sum(world.sizes)
    state = await lab.store.read_state("a")
    assert state.tokens == world.sizes[-1] + 2, "the size of the window is not that of the summary's request"


async def test_without_any_count_by_the_provider(lab: Any) -> None:
    world = World(steps(60), counts=False)
    agent = await make(lab, world, look, max_tokens=3_000)
    lab.provider.count_tokens = None  # not one that counts on request either
    await agent.run("go")
    assert 2_000 < max(world.sizes) < 3_000 + 400
    assert await agent.compactions()


async def test_a_provider_that_counts_on_request_is_believed(lab: Any) -> None:
    world = World(steps(40), counts=False)
    agent = await make(lab, world, look, max_tokens=3_000)
    asked = []

    async def count(request: ModelRequest) -> int:
        asked.append(request)
        return 2 * request_tokens(request)

    lab.provider.count_tokens = count
    await agent.run("go")
    assert asked
    assert max(world.sizes) < 2_000, "it finds everything twice as large"

    async def broken(request: ModelRequest) -> int:
        raise OSError("no")

    lab.provider.count_tokens = broken
    world.answer = steps(10)
    assert (await agent.run("again")).ok


# ---- where it is cut -------------------------------------------------------------------------------------------


async def test_many_calls_in_a_step_are_never_parted(lab: Any) -> None:
    world = World(steps(40, size=5))
    agent = await make(lab, world, look, max_tokens=4_000)
    assert (await agent.run("go")).ok
    assert len(await agent.compactions()) > 5


async def test_calls_that_nobody_runs_fill_the_window_too(lab: Any) -> None:
    """They are answered with the reply that makes them, and the next request follows in the same commit."""

    def answer(request: ModelRequest) -> Turn:
        n = sum(message.role == "assistant" for message in request.messages)
        done = len(world.sizes) >= 12
        return (
            say("done")
            if done
            else call("gone", {"why": f"{n} " + "words and more words. " * 40}, id=f"c{len(world.sizes)}")
        )

    world = World(answer)
    agent = await make(lab, world, max_tokens=900)
    result = await agent.run("go")
    assert (result.text, len(await agent.compactions()) > 1) == ("done", True)
    assert max(world.sizes) <= 900


async def test_it_is_cut_before_what_a_person_said(lab: Any) -> None:
    world = World(lambda r: "well " * 100)
    agent = await make(lab, world, max_tokens=3_000)
    for n in range(40):
        assert (await agent.run(f"question {n} " + "about it " * 30)).ok
    for one in await agent.compactions():
        page = await lab.store.read_messages("a", after=one.stop - 1, before=one.stop + 1)
        assert page.items[0].role == "user"
    assert max(world.sizes) < 3_400
    assert len((await lab.store.read_state("a")).window.pinned) <= 1, "first messages of former runs do not pile up"


async def test_pinned_messages_stay(lab: Any) -> None:
    world = World(lambda r: "well " * 100)
    agent = await make(lab, world, max_tokens=3_000)
    await agent.run("Always answer in verse.", metadata='{"pinned": true}')
    for n in range(30):
        await agent.run(f"question {n} " + "about it " * 30)
    assert all("Always answer in verse." in [text_of(m) for m in request.messages] for request in world.requests)
    assert "question 1 about" not in "".join(text_of(m) for m in world.requests[-1].messages)


async def test_what_was_said_and_never_answered_counts(lab: Any) -> None:
    world = World(lambda r: say("well " * 100))
    agent = await make(lab, world, max_tokens=3_000)
    await talk(agent, 6)
    world.answer = lambda _: fail("bad_request")
    assert (await agent.run("so much " * 800)).status == "error"
    assert await agent.compactions() == ()
    world.answer = lambda _: say("fine")
    await agent.run("and a little " * 300)
    assert len(await agent.compactions()) == 1


async def test_nothing_is_compacted_below_the_bound_or_when_off(lab: Any) -> None:
    world = World(steps(10))
    agent = await make(lab, world, look, max_tokens=100_000)
    await agent.run("go")
    assert await agent.compactions() == ()
    world = World(steps(30))
    agent = await make(lab, world, look, id="b", max_tokens=2_000, method="off")
    await agent.run("go")
    assert await agent.compactions() == ()
    assert max(world.sizes) > 6_000


# ---- what cannot be made smaller ------------------------------------------------------------------------------


async def test_one_giant_message_is_shown_in_part_and_kept_whole(lab: Any) -> None:
    giant = "head " + "x" * 400_000 + " tail"
    world = World(steps(5))
    agent = await make(lab, world, look, max_tokens=4_000)
    assert (await agent.run(giant)).ok
    for request in world.requests:
        (said,) = [text_of(m) for m in request.messages if text_of(m).startswith("head ")]
        assert said.endswith(" tail")
        assert "characters not shown" in said
        assert len(said) < 9_000
    assert text_of((await lab.store.read_messages("a", limit=1)).items[0]) == giant
    assert max(world.sizes) < 4_400


async def test_giant_results_are_bounded_too(lab: Any) -> None:
    @tool
    def flood() -> str:
        """Say much."""
        return "first " + "y" * 60_000 + " last"

    done = 0

    def answer(request: ModelRequest) -> Turn:
        nonlocal done
        done += 1
        return calls(*[("flood", {}, f"{done}-{k}") for k in range(3)]) if done < 12 else say("ok")

    world = World(answer)
    agent = await make(lab, world, flood, max_tokens=4_000)
    assert (await agent.run("go")).ok
    assert max(world.sizes) < 4_400, "the results of one step are one message"
    block: Any = world.requests[-1].messages[-1].blocks[0]
    assert block.content[0].text.startswith("first ")
    assert block.content[0].text.endswith(" last")


async def test_what_cannot_shrink_is_not_compacted_for_ever(lab: Any) -> None:
    world = World(steps(30))
    agent = await make(lab, world, look, system="rules " * 4_000, max_tokens=4_000)
    assert (await agent.run("go")).ok
    phases = await compressions(lab)
    assert 1 <= phases.count("stuck") <= phases.count("start") + 1, "said once each time"
    assert phases.count("start") <= 31 * 240 // 400 + 1, "only when a tenth of the bound would be freed"
    assert phases.count("start") == phases.count("end")


async def test_the_model_fails_and_a_digest_stands_in(lab: Any) -> None:
    answers = [fail("bad_request"), say("   "), say("No.", stop=StopReason.REFUSAL), fail("overloaded")]
    left = iter(answers * 100)
    world = World(steps(60), sums_up=lambda _: next(left))
    agent = await make(lab, world, look, max_tokens=3_000)
    async with anyio.create_task_group() as tasks:
        result = await lab.pass_until(lab.later(tasks, lambda: agent.run("go")))
    assert result.ok
    made = await agent.compactions()
    assert len(made) > 3
    assert {one.method for one in made} == {"digest"}
    assert all(one.tokens_after < one.tokens_before for one in made)
    assert "look" in str(made[-1].summary[0])
    assert max(world.sizes) < 3_400
    failures = [e for e in await lab.events() if e.type == "error" and e.data["code"] == "no_summary"]
    assert len(failures) == len(made)


async def test_a_digest_by_wish_asks_nobody(lab: Any) -> None:
    world = World(steps(60))
    agent = await make(lab, world, look, max_tokens=3_000, method="digest")
    assert (await agent.run("go")).ok
    assert world.summaries == []
    assert {one.method for one in await agent.compactions()} == {"digest"}
    assert max(world.sizes) < 3_400


async def test_a_long_winded_summary_is_bounded(lab: Any) -> None:
    world = World(steps(60), sums_up=lambda _: "much " * 50_000)
    agent = await make(lab, world, look, max_tokens=3_000)
    assert (await agent.run("go")).ok
    assert max(world.sizes) < 3_400
    made = await agent.compactions()
    assert len(made) < 30
    assert max(tokens_of(one.summary) for one in made) < 450, "a quarter of the target"


async def test_another_model_and_another_prompt(lab: Any) -> None:
    world, other = World(steps(30)), ScriptedProvider(lambda r: "by the other", clock=lab.clock, model="small")
    deps = lab.deps(world, look)
    deps.providers = {**deps.providers, "o": other}
    template = AgentTemplate(
        "t", model="m", tools=("look",), context=ContextPolicy(max_tokens=3_000, model="o", prompt="Be brief.")
    )
    agent = await Agent.create(template=template, agent_id="a", **_kept(deps))
    await agent.run("go")
    assert [r.system for r in other.requests] == ["Be brief."] * len(await agent.compactions()) != []
    assert (await agent.compactions())[0].model == "small"
    assert "by the other" in text_of(world.requests[-1].messages[0])
    with pytest.raises(NotBoundError):
        await Agent.create(template=replace(template, context=ContextPolicy(model="nobody")), **_kept(deps))


# ---- a request that is too long --------------------------------------------------------------------------------


async def test_a_request_that_was_too_long_is_made_again_with_less(lab: Any) -> None:
    world = World(steps(30))

    def strict(request: ModelRequest) -> Turn:
        if not is_summary(request) and request_tokens(request) > 2_500:
            raise provider_error("context_too_long", "too long for me")
        return world(request)

    agent = await make(lab, strict, look, max_tokens=50_000)  # type: ignore[arg-type]
    result = await agent.run("go")
    assert (result.status, result.text, result.steps) == ("ok", "finished", 31)
    assert len(await agent.compactions()) >= 3
    check(await lab.store.read_state("a"))
    check_history((await lab.store.read_messages("a", limit=1_000)).items)


async def test_it_is_tried_once_for_each_step(lab: Any) -> None:
    asked = 0

    def strict(request: ModelRequest) -> Turn:
        nonlocal asked
        if is_summary(request):
            return say(SUMMARY)
        asked += 1
        if asked > 10:
            raise provider_error("context_too_long", "too long for me")
        return call("look", {"n": asked}, id=f"c{asked}")

    agent = await make(lab, strict, look, max_tokens=50_000)  # type: ignore[arg-type]
    result = await agent.run("go")
    assert (result.status, result.stop_reason, asked) == ("error", StopReason.CONTEXT_TOO_LONG, 12)
    assert len(await agent.compactions()) == 1
    assert (await agent.run("again")).stop_reason is StopReason.CONTEXT_TOO_LONG


# ---- what is shown ---------------------------------------------------------------------------------------------


async def test_only_the_newest_media_are_shown(lab: Any) -> None:
    @tool
    def shoot(n: int) -> Any:
        """Take a picture."""
        return ToolOutcome((TextBlock(f"shot {n}"), MediaBlock("image", "image/png", data="AAAA", name=f"{n}.png")))

    done = 0

    def answer(request: ModelRequest) -> Turn:
        nonlocal done
        done += 1
        return call("shoot", {"n": done}, id=f"c{done}") if done <= 6 else say("ok")

    world = World(answer)
    agent = await make(lab, world, shoot, max_tokens=50_000, keep_media=2)
    photo = MediaBlock("image", "image/jpeg", url="https://example.org/a.jpg")
    await agent.run([TextBlock("like this"), photo])

    def media(request: ModelRequest) -> list[str]:
        flat = [b for m in request.messages for b in m.blocks]
        flat += [b for one in flat if isinstance(one, ToolResultBlock) for b in one.content]
        return [b.name or "url" for b in flat if isinstance(b, MediaBlock)]

    assert [media(r) for r in world.requests] == [
        ["url"], ["url", "1.png"], ["1.png", "2.png"], ["2.png", "3.png"], ["3.png", "4.png"], ["4.png", "5.png"],
        ["5.png", "6.png"],
    ]  # fmt: skip
    shown = json.dumps([str(b) for m in world.requests[-1].messages for b in m.blocks])
    assert "[image: image/jpeg, https://example.org/a.jpg] (not shown any more)" in shown
    assert "[image: 1.png, image/png] (not shown any more)" in shown
    stored = (await lab.store.read_messages("a", limit=1_000)).items
    assert stored[0].blocks[1] == photo, "the history keeps them"


async def test_what_needs_no_change_is_shown_as_the_same_object(lab: Any) -> None:
    world = World(steps(6))
    agent = await make(lab, world, look, max_tokens=50_000)
    await agent.run("go")
    first, last = world.requests[-2].messages, world.requests[-1].messages
    assert all(a is b for a, b in zip(first, last, strict=False))


# ---- by hand ---------------------------------------------------------------------------------------------------


async def talk(agent: Agent, n: int) -> None:
    for k in range(n):
        assert (await agent.run(f"question {k} " + "about it " * 30)).ok


async def test_a_compaction_by_hand_and_back(lab: Any) -> None:
    world = World(lambda r: "well " * 100)
    agent = await make(lab, world, max_tokens=90_000)
    await talk(agent, 10)
    before = await lab.store.read_state("a")
    await agent.compact()
    await agent.complete()
    (one,) = await agent.compactions()
    state = await lab.store.read_state("a")
    assert (one.method, state.window.compaction) == ("model", one.id)
    assert state.tokens == one.tokens_after < before.tokens
    await agent.run("and now?")
    assert world.sizes[-1] < world.sizes[-2]
    assert abs(world.sizes[-1] - one.tokens_after) < 30
    await agent.revert(one.id)
    await agent.run("all of it?")
    assert world.sizes[-1] > world.sizes[-3]
    shown = [text_of(m) for m in world.requests[-1].messages]
    assert shown[0].startswith("question 0 ")
    assert "and now?" in shown, "what came since stays"
    with pytest.raises(NotFoundError, match="no compaction and no snapshot 'x'"):
        await agent.revert("x")


async def test_there_may_be_nothing_to_compact(lab: Any) -> None:
    world = World(lambda r: "hello")
    agent = await make(lab, world)
    await agent.compact()
    await agent.complete()
    await agent.run("hi")
    await agent.compact()
    await agent.complete()
    assert await agent.compactions() == ()
    assert (await lab.kinds()).count("input_rejected") == 2


async def test_back_to_a_snapshot(lab: Any) -> None:
    world = World(lambda r: "well " * 100)
    agent = await make(lab, world, max_tokens=90_000)
    await talk(agent, 3)
    name = await agent.snapshot("three")
    await talk(agent, 3)
    await agent.compact()
    await agent.complete()
    await agent.revert(name)
    await agent.run("where were we?")
    assert len(world.requests[-1].messages) == 7
    check_history((await lab.store.read_messages("a", limit=1_000)).items)
    fork = await agent.fork("b", at="three")
    assert (await fork.run("hi")).ok


async def test_a_revert_past_a_prune_is_refused(lab: Any) -> None:
    world = World(lambda r: "well " * 100)
    agent = await make(lab, world, max_tokens=90_000)
    await talk(agent, 10)
    await agent.compact()
    await agent.complete()
    (one,) = await agent.compactions()
    before = await lab.store.read_state("a")
    await lab.store.prune("a", before=None, keep_messages=0)
    assert (await lab.store.read_state("a")).first_seq > before.first_seq
    with pytest.raises(UsageError) as caught:
        await agent.revert(one.id)
    assert caught.value.code == "pruned"
    again = await Agent.open("a", lab.deps(world))
    assert (await again.run("go on")).ok
    await again.compact()
    assert (await again.complete()).ok


async def test_no_revert_in_the_middle_of_a_run(lab: Any) -> None:
    @tool
    def hold(context: ToolContext) -> Any:
        """Wait for somebody."""
        return context.suspend()

    world = World(lambda r: call("hold", {}, id="c") if "hold" in text_of(r.messages[-1]) else say("well " * 100))
    agent = await make(lab, world, hold, max_tokens=90_000)
    await talk(agent, 6)
    await agent.compact()
    await agent.complete()
    (one,) = await agent.compactions()
    assert (await agent.run("hold")).status == "paused"
    with pytest.raises(UsageError) as caught:
        await agent.revert(one.id)
    assert caught.value.code == "not_safe"
