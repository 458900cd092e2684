"""What tools remember: seen at once by all calls of an agent, durable with the commit that comes anyway."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import anyio.from_thread
import pytest

from kode.core import jsontext
from kode.core.kernel.history import MAX_DOCUMENTS
from kode.core.kernel.limits import Limits
from kode.core.kernel.message import Json
from kode.core.provider.script import call, calls, say
from kode.core.provider.scripted import ScriptedProvider
from kode.core.runtime.agent import Agent
from kode.core.testing.crash import crash_at, until_crash
from kode.core.testing.faulty import Fault, FaultyStore
from kode.core.tools.base import ToolContext
from kode.core.tools.define import tool
from kode.core.tools.documents import MAX_BYTES, Documents, Version


@tool(recovery="retry")
async def count(context: ToolContext, name: str = "") -> str:
    """Count up."""
    text = await context.documents.get("count", name)
    number = 1 if text is None else jsontext.parse(text) + 1
    await context.documents.put("count", name, str(number))
    return str(number)


@tool
async def forget(context: ToolContext) -> str:
    """Forget the count."""
    await context.documents.remove("count")
    return f"now {await context.documents.get('count')}"


@tool
async def plain(context: ToolContext) -> str:
    """Touch no document."""
    return "nothing"


async def stored(lab: Any, kind: str | None = "count") -> dict[str, str]:
    return {document.name: document.data for document in await lab.store.read_documents("a", kind)}


# ---- in an agent -------------------------------------------------------------------------------------------


async def test_a_document_is_seen_at_once_and_rides_in_the_next_commit(lab: Any) -> None:
    script = [calls(("count", {}), ("count", {}), ("count", {"name": "b"})), call("count", {}), say("end")]
    agent = await lab.agent(script, count)
    await agent.run("go")
    assert await lab.texts() == [
        "user: go", "assistant: <count> <count> <count>", "user: [1] [2] [1]", "assistant: <count>", "user: [3]",
        "assistant: end",
    ]  # fmt: skip
    assert await stored(lab) == {"": "3", "b": "1"}


async def test_a_document_costs_no_commit_and_none_costs_nothing(lab: Any) -> None:
    versions = []
    for id, name in (("a", "count"), ("b", "plain")):
        deps = lab.deps([call(name, {}), call(name, {}), say("end")], count, plain)
        agent = await lab.agent((), count, plain, id=id, deps=deps)
        await agent.run("go")
        versions.append((await lab.store.load(id)).version)
    assert versions[0] == versions[1]
    changed = [event for event in await lab.events() if event.type == "documents_changed"]
    assert [event.data for event in changed] == [{"count": 1, "removed": 0}] * 2
    assert "documents_changed" not in await lab.kinds("b")


async def test_the_same_text_again_is_no_change(lab: Any) -> None:
    @tool
    async def same(context: ToolContext) -> str:
        """Write the same."""
        await context.documents.put("d", "", '{ "a" : 1 }')
        return "ok"

    agent = await lab.agent([call("same", {}), call("same", {}), say("end")], same)
    await agent.run("go")
    assert (await lab.kinds()).count("documents_changed") == 1
    assert await stored(lab, "d") == {"": '{"a":1}'}


async def test_another_process_goes_on_with_what_was_stored(lab: Any) -> None:
    agent = await lab.agent([call("count", {}), say("end")], count)
    await agent.run("go")
    again = await Agent.open("a", lab.deps([call("count", {}), say("end")], count))
    await again.run("more")
    assert await stored(lab) == {"": "2"}


async def test_a_fork_goes_its_own_way_from_the_same_documents(lab: Any) -> None:
    agent = await lab.agent([call("count", {}), say("end"), call("count", {}), say("end")], count)
    await agent.run("go")
    fork = await agent.fork("b")
    await fork.run("more")
    (document,) = await lab.store.read_documents("b", "count")
    assert (document.data, await stored(lab)) == ("2", {"": "1"})


async def test_what_is_removed_is_named_no_more(lab: Any) -> None:
    agent = await lab.agent([call("count", {}), call("forget", {}), call("count", {}), call("forget", {}), say("end")],
                            count, forget)  # fmt: skip
    await agent.run("go")
    assert (await lab.texts())[4] == "user: [now None]"
    assert (await lab.texts())[6] == "user: [1]"
    assert await stored(lab) == {}


@pytest.mark.parametrize("point", ["before commit", "after commit"])
@pytest.mark.parametrize("nth", range(1, 8))
async def test_a_crash_loses_a_document_with_the_result_of_its_call_or_not_at_all(
    lab: Any, point: str, nth: int
) -> None:
    """Counted twice or lost would show: the count is exactly that of the results in the history."""
    script = [call("count", {}), call("count", {}), say("end")]
    plan = crash_at(point, nth)
    first = lab.deps(script, store=plan.store(lab.store))
    first.tools = [plan.tool(count)]
    await lab.agent((), count)
    agent = await Agent.open("a", first)
    await until_crash(plan, lambda: agent.run("go"))
    await lab.clock.advance(60)
    second = lab.deps((), count)
    second.providers = {"m": ScriptedProvider(script, clock=lab.clock, by="replies")}  # goes on where the history is
    again = await Agent.resume("a", second)
    async with anyio.create_task_group() as tasks:
        await lab.pass_until(lab.later(tasks, again.complete))
    texts = await lab.texts()
    if texts:
        assert texts[-5:] == ["assistant: <count>", "user: [1]", "assistant: <count>", "user: [2]", "assistant: end"]
        assert await stored(lab) == {"": "2"}


async def test_a_commit_that_fails_is_repeated_with_its_documents(lab: Any) -> None:
    for nth in range(2, 6):
        store = FaultyStore(lab.store, Fault("commit", "fail", nth=nth, times=2), clock=lab.clock)
        deps = lab.deps([call("count", {}), call("count", {}), say("end")], count, store=store)
        agent = await lab.agent((), count, deps=deps, id=f"a{nth}")
        async with anyio.create_task_group() as tasks:
            await lab.pass_until(lab.later(tasks, lambda agent=agent: agent.run("go")), 0.1)
        (document,) = await lab.store.read_documents(f"a{nth}", "count")
        assert document.data == "2"
        assert store.struck


async def test_a_document_waits_for_a_commit_that_is_needed_anyway(lab: Any) -> None:
    """A tool that goes on after its put: beats of the clock commit nothing."""

    @tool
    async def slow(context: ToolContext) -> str:
        """Put, then work."""
        await context.documents.put("d", "", "1")
        await context.clock.sleep(20)
        return "ok"

    agent = await lab.agent([call("slow", {}), say("end")], slow)
    async with anyio.create_task_group() as tasks:
        run = lab.later(tasks, lambda: agent.run("go"))
        await lab.clock.advance(2)
        before = (await lab.store.load("a")).version
        await lab.clock.advance(10)
        assert (await lab.store.load("a")).version == before
        assert await stored(lab, "d") == {}
        await lab.pass_until(run)
    assert await stored(lab, "d") == {"": "1"}


async def test_what_a_cancelled_call_put_is_kept(lab: Any) -> None:
    """It says what was done; the commit that seals the call takes it along."""

    @tool
    async def stuck(context: ToolContext) -> str:
        """Put, then hang."""
        await context.documents.put("d", "", "1")
        await context.clock.sleep(10**6)
        return "no"

    agent = await lab.agent([call("stuck", {})], stuck, limits=Limits(tool_timeout_s=None))
    async with anyio.create_task_group() as tasks:
        run = lab.later(tasks, lambda: agent.run("go"))
        await lab.clock.advance(1)
        await agent.interrupt()
        assert (await lab.pass_until(run)).status == "interrupted"
    assert await stored(lab, "d") == {"": "1"}


async def test_a_plain_function_reaches_them_through_the_event_loop(lab: Any) -> None:
    @tool
    def threaded(context: ToolContext) -> str:
        """Count in a thread."""
        anyio.from_thread.run(context.documents.put, "d", "", "5")
        return str(anyio.from_thread.run(context.documents.get, "d"))

    agent = await lab.agent([call("threaded", {}), say("end")], threaded)
    await agent.run("go")
    assert "user: [5]" in await lab.texts()


async def test_a_tool_cannot_fill_the_header_or_touch_the_recipe(lab: Any) -> None:
    """Refused where it is put, as the call's own error; the agent goes on."""

    @tool
    async def greedy(context: ToolContext) -> str:
        """Put too many."""
        for n in range(MAX_DOCUMENTS - 4):  # four are the runtime's: recipe, seen files, todos, media
            await context.documents.put("d", str(n), "0")
        await context.documents.put("d", "5", "1")  # known: not one more
        await context.documents.remove("d", "0")
        await context.documents.put("d", "again", "0")
        await context.documents.put("d", "more", "0")
        return "no"

    agent = await lab.agent([call("greedy", {}), say("end")], greedy)
    assert (await agent.run("go")).text == "end"
    assert "d/more would be one more" in (await lab.texts())[2]
    assert len((await lab.store.load("a")).state.documents) == MAX_DOCUMENTS - 3


# ---- alone -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "text", "code"),
    [
        ("template", "", "{}", "reserved_kind"),
        ("", "", "{}", "bad_name"),
        ("a/b", "", "{}", "bad_name"),
        ("a", "b\n", "{}", "bad_name"),
        ("a", "", "{", "bad_json"),
        ("a", "", "NaN", "bad_json"),
        ("a", "", '"' + "ü" * (MAX_BYTES // 2) + '"', "document_too_big"),
    ],
)
async def test_what_cannot_be_put(kind: str, name: str, text: str, code: str) -> None:
    documents = Documents()
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the code is what counts
        await documents.put(kind, name, text)
    assert getattr(caught.value, "code", None) == code
    assert documents.pending() == {}
    await Documents().put("a", "", '"' + "ü" * (MAX_BYTES // 2 - 1) + '"')


async def test_the_recipe_cannot_be_removed() -> None:
    with pytest.raises(Exception, match="the runtime's own"):
        await Documents().remove("template")


def _version(text: str) -> Version:
    return Version(jsontext.digest(text), Json(text))


class Durable:
    """A store of documents, with a hook where a read waits."""

    def __init__(self) -> None:
        self.digests: dict[tuple[str, str], str] = {}
        self.texts: dict[tuple[str, str], str] = {}
        self.reads = 0
        self.meanwhile: Callable[[], Any] | None = None
        self.documents = Documents(lambda: self.digests, self.read)

    async def read(self, kind: str, name: str) -> Any:
        self.reads += 1
        text = self.texts.get((kind, name))
        hook, self.meanwhile = self.meanwhile, None
        if hook is not None:
            await hook()
        return text

    def commit(self, changes: Any) -> None:
        for key, version in changes.items():
            if version is None:
                self.digests.pop(key, None)
            else:
                self.digests[key], self.texts[key] = version.digest, version.text


async def test_what_is_put_during_a_commit_is_not_lost() -> None:
    durable = Durable()
    documents = durable.documents
    await documents.put("d", "", "1")
    flying = documents.pending()
    await documents.put("d", "", "2")
    durable.commit(flying)
    assert await documents.get("d") == "2"
    await documents.put("d", "", "1")  # what is durable now: nothing is left to write
    assert documents.pending() == {}
    await documents.put("d", "", "2")
    flying = documents.pending()
    await documents.put("d", "", "1")  # back to what was durable before: it must be written again
    durable.commit(flying)
    assert (await documents.get("d"), len(documents.pending())) == ("1", 1)


async def test_a_read_never_hides_what_was_put_meanwhile() -> None:
    durable = Durable()
    durable.commit({("d", ""): _version("1")})
    durable.documents = Documents(lambda: durable.digests, durable.read)
    durable.meanwhile = lambda: durable.documents.put("d", "", "2")
    assert await durable.documents.get("d") == "2"

    async def committed() -> None:
        durable.commit({("d", ""): _version("3")})

    durable = Durable()
    durable.commit({("d", ""): _version("1")})
    durable.documents = Documents(lambda: durable.digests, durable.read)
    durable.meanwhile = committed
    assert await durable.documents.get("d") == "3"


async def test_a_document_is_read_from_the_store_once() -> None:
    durable = Durable()
    durable.commit({("d", ""): _version("1")})
    durable.documents = Documents(lambda: durable.digests, durable.read)
    assert [await durable.documents.get("d") for _ in range(3)] == ["1", "1", "1"]
    assert await durable.documents.get("other") is None
    assert durable.reads == 1
    await durable.documents.put("d", "", "2")
    durable.commit(durable.documents.pending())
    assert durable.documents.pending() == {}
    assert (await durable.documents.get("d"), durable.reads) == ("2", 1)
