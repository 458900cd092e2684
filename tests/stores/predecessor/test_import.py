"""`import_predecessor`: agents of the predecessor's file store, whole, torn and odd, as agents that can go on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.stores.predecessor.folders import SECRET, T0, WHOLE, Old, moved, only, recipe, result, said, texts, use

from kode.core import Agent, Dependencies, ScriptedProvider
from kode.core.errors import NotFoundError
from kode.core.kernel.invariants import check_history
from kode.core.kernel.message import ToolResultBlock, ToolUseBlock
from kode.core.kernel.toolcall import CallStatus
from kode.core.store import MemoryStore, SqliteStore
from kode.core.store import records as rec
from kode.core.store.predecessor import import_predecessor
from kode.core.store.predecessor.history import convert


async def test_a_whole_agent_comes_over_and_goes_on(old: Old, tmp_path: Path) -> None:
    folder = old.agent("agt-1")
    old.put(
        folder / "runtime/tool-calls.json",
        [
            {
                "id": "tu_1", "name": "bash_run", "input": {"cmd": "ls | wc -l"}, "state": "COMPLETED",
                "approval": {"required": True, "decision": "allow", "decidedBy": "api", "decidedAt": T0 + 2,
                             "note": "fine"},
                "result": {"ok": True}, "isError": False, "startedAt": T0 + 3, "completedAt": T0 + 5,
                "createdAt": T0 + 1, "updatedAt": T0 + 5,
                "auditTrail": [{"state": "PENDING", "timestamp": T0 + 1}, {"state": "EXECUTING", "timestamp": T0 + 3}],
            }
        ],
    )  # fmt: skip
    todos = {"todos": [{"id": "1", "title": "count", "status": "pending"}], "version": 2, "updatedAt": T0}
    old.put(folder / "runtime/todos.json", todos)
    async with SqliteStore(tmp_path / "a.db", durability="process") as store:
        one = await only(old, store)
        assert (one.taken["messages"], one.taken["calls"], one.mended) == (6, 1, {})
        assert await texts(store) == [
            "u: How many files are there?",
            "a: I count. <bash_run>",
            'u: [{"ok":true,"data":{"stdout":"7\\n"}}]',
            "a: Seven.",
            "u: And now?",
            "a: Still seven.",
        ]
        (call,) = (await store.read_calls("agt-1")).items
        assert (call.id, call.status, call.provider_id) == ("1.1.1", CallStatus.COMPLETED, "tu_1")
        assert (call.started_at, call.finished_at) == ((T0 + 3) * 1_000, (T0 + 5) * 1_000)
        assert [(a.state, a.by, a.note) for a in call.approvals] == [("approved", "api", "fine")]
        runs = (await store.read_runs("agt-1")).items
        assert [(run.number, run.status, run.first_seq, run.last_seq, run.steps) for run in runs] == [
            (1, "ok", 0, 3, 2),
            (2, "ok", 4, 5, 1),
        ]
        assert await store.load_document("agt-1", "todos") == todos
        assert (await store.read_state("agt-1")).status == "READY"
        assert await store.due(2**60, 9) == []

        # and on, with a model
        provider = ScriptedProvider(["Eight by now."])
        deps = Dependencies(store=store, providers={"m": provider}, tools=[])
        async with await Agent.resume("agt-1", deps) as agent:
            answer = await agent.chat("And now?")
        assert (answer.text, answer.run) == ("Eight by now.", 3)
        assert len(provider.requests[0].messages) == 7
        assert (await store.check_consistency("agt-1")).ok


async def test_secrets_stay_behind(old: Old) -> None:
    old.agent("agt-1")
    async with MemoryStore() as store:
        one = await only(old, store)
        meta = await store.load_document("agt-1", "imported", "meta")
        assert meta["metadata"]["modelConfig"] == {"provider": "anthropic", "model": "some-model"}
        assert meta["metadata"]["sandboxConfig"] == {"workDir": "/w"}
        assert SECRET not in json.dumps(meta)
        assert one.left == {"secrets in its settings": 2}


async def test_a_second_import_makes_nothing_new(old: Old) -> None:
    old.agent("agt-1")
    async with MemoryStore() as store:
        await moved(old, store)
        state = await store.read_state("agt-1")
        assert [one.outcome.what for one in (await moved(old, store)).agents] == ["same"]
        assert await store.read_state("agt-1") == state
        await store.append_message("agt-1", "user", "went on")
        report = await moved(old, store)
        assert [(one.outcome.what, report.ok) for one in report.agents] == [("conflict", False)]
        assert (await store.read_state("agt-1")).next_seq == 7


async def test_a_dry_run_tells_all_and_writes_nothing(old: Old) -> None:
    old.agent("agt-1")
    async with MemoryStore() as store:
        report = await moved(old, store, dry_run=True)
        assert [(one.outcome.what, one.taken["messages"]) for one in report.agents] == [("copied", 6)]
        assert await store.list_agents() == []


async def test_forks_nest_and_what_is_no_agent_is_passed_over(old: Old) -> None:
    old.agent("agt-1")
    old.agent("agt-1/fork-1760000000001")
    old.agent("agt-1/fork-1760000000001/fork:2")
    old.agent("__pool_meta__", runningAgents={"agentIds": ["agt-1"]})
    (old.base / "stray" / "runtime").mkdir(parents=True)
    (old.base / "stray" / "events").mkdir()
    (old.base / "stray.txt").write_text("x")
    async with MemoryStore() as store:
        report = await moved(old, store)
        assert [one.agent_id for one in report.agents] == [
            "agt-1",
            "agt-1/fork-1760000000001",
            "agt-1/fork-1760000000001/fork:2",
        ]
        assert len({one.outcome.uid for one in report.agents}) == 3
    async with MemoryStore() as store:
        assert [one.agent_id for one in (await moved(old, store, agents=["agt-1"])).agents] == ["agt-1"]


async def test_names_that_cannot_be_ids_here(old: Old) -> None:
    old.agent("mein agent")
    old.agent("mein#agent")
    async with MemoryStore() as store:
        report = await moved(old, store)
        assert [(one.agent_id, one.found_as) for one in report.agents] == [
            ("mein_agent", "mein agent"),
            ("mein_agent_2", "mein#agent"),
        ]


async def test_who_has_an_id_keeps_it_whatever_else_is_there_or_wanted(old: Old) -> None:
    names = ["a b", "a\nb", "a_b", "a" * 191 + "/..é", "x" * 198 + "/é"]
    for name in names:
        old.agent(name)
    async with MemoryStore() as store:
        ids = {one.found_as: one.agent_id for one in (await moved(old, store)).agents}
        assert (ids["a_b"], {ids["a b"], ids["a\nb"]}) == ("a_b", {"a_b_2", "a_b_3"})
        for name in names:
            (again,) = (await moved(old, store, agents=[name])).agents
            assert (again.agent_id, again.outcome.what) == (ids[name], "same")


async def test_a_folder_without_agents(tmp_path: Path) -> None:
    async with MemoryStore() as store:
        for path in (tmp_path, tmp_path / "nowhere"):
            with pytest.raises(NotFoundError, match="holds no agent"):
                await import_predecessor(path, store, recipe)


# ---- torn histories ------------------------------------------------------------------------------------------


async def test_calls_without_a_result_are_sealed(old: Old) -> None:
    old.agent("agt-1", [said("user", "Go."), said("assistant", use("a", cmd="1"), use("b", cmd="2"))])
    async with MemoryStore() as store:
        one = await only(old, store)
        assert one.mended == {"calls without a result sealed": 2}
        (_, _, answer) = (await store.read_messages("agt-1")).items
        for block in answer.blocks:
            assert isinstance(block, ToolResultBlock)
            assert block.is_error
            assert "outcome of this call is not known" in getattr(block.content[0], "text", "")
        calls = (await store.read_calls("agt-1")).items
        assert [(call.status, call.seal_reason) for call in calls] == [(CallStatus.SEALED, "imported")] * 2
        (run,) = (await store.read_runs("agt-1")).items
        assert run.status == "interrupted"


async def test_a_result_that_only_the_record_has_is_taken(old: Old) -> None:
    folder = old.agent("agt-1", [said("user", "Go."), said("assistant", use("a", cmd="1"))])
    records = [
        {"id": "a", "name": "bash_run", "state": "COMPLETED", "result": {"n": 1}, "createdAt": T0},
        {"id": "gone", "name": "bash_run", "state": "COMPLETED", "result": 2, "createdAt": T0},
    ]
    old.put(folder / "runtime/tool-calls.json", records)
    async with MemoryStore() as store:
        one = await only(old, store)
        assert one.mended == {"results taken from the call's record": 1}
        assert one.left["call records that the history does not name"] == 1
        assert (await texts(store))[-1] == 'u: [{"n":1}]'
        assert [call.status for call in (await store.read_calls("agt-1")).items] == [CallStatus.COMPLETED]


async def test_results_out_of_place(old: Old) -> None:
    old.agent(
        "agt-1",
        [
            said("user", result("cut", "its call was compressed away"), "Hello"),
            said("assistant", use("a"), use("b")),
            said("user", "wait!"),
            said("user", result("b", "second"), result("a", "first", is_error=True), "and this"),
            said("user", result("a", "once more")),
            said("assistant", "Done."),
        ],
    )
    async with MemoryStore() as store:
        one = await only(old, store)
        assert await texts(store) == [
            "u: Result of call cut, which is not open in this history:\nits call was compressed away Hello",
            "a: <bash_run> <bash_run>",
            "u: [first] [second]",
            "u: wait!",
            "u: and this",
            "u: Result of call a, which is not open in this history:\nonce more",
            "a: Done.",
        ]
        assert one.mended == {"results without an open call kept as text": 2}
        assert [call.is_error for call in (await store.read_calls("agt-1")).items] == [True, False]


async def test_ids_used_again(old: Old) -> None:
    folder = old.agent(
        "agt-1",
        [
            said("user", "Go."),
            said("assistant", use("x", "first")),
            said("assistant", use("x", "second"), use("x", "third"), use("", "fourth")),
            said("user", result("x", "of the second"), result("x", "of the third")),
        ],
    )
    old.put(folder / "runtime/tool-calls.json", [{"id": "x", "state": "FAILED", "createdAt": T0, "result": "late"}])
    async with MemoryStore() as store:
        one = await only(old, store)
        lines = await texts(store)
        assert lines[1] == "a: <first>"
        assert lines[2].startswith("u: [The outcome of this call is not known")
        assert lines[4].startswith("u: [of the second] [of the third] [The outcome")
        assert one.mended["tool uses given an id of their own"] == 2
        message = (await store.read_messages("agt-1")).items[3]
        assert [b.id for b in message.blocks if isinstance(b, ToolUseBlock)] == ["x", "x#2", "call"]


async def test_blocks_of_every_kind(old: Old) -> None:
    old.agent(
        "agt-1",
        [
            {"role": "system", "content": [{"type": "text", "text": "<context-summary>"}]},
            {"role": "user", "content": "a plain string"},
            said(
                "user",
                {"type": "image", "base64": "aGk=", "mime_type": "image/png"},
                {"type": "file", "url": "https://x.test/a.pdf", "filename": "a.pdf"},
                {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}},
                {"type": "video"},
                {"type": "hologram", "depth": 3},
                "lone \ud800 half",
                7,
            ),
            said("assistant", "short", metadata={"transport": "provider", "more": 1, "content_blocks": [
                {"type": "reasoning", "reasoning": "hm", "meta": {"signature": "sig"}},
                {"type": "text", "text": "long"},
            ]}),
            said("assistant", "kept", metadata={"transport": "omit", "content_blocks": [{"type": "text"}]}),
            {"role": "alien", "content": []},
            "no message",
            said("user", use("stray")),
        ],
    )  # fmt: skip
    async with MemoryStore() as store:
        one = await only(old, store)
        assert await texts(store) == [
            "s: <context-summary>",
            "u: a plain string",
            'u: (image) (file) (image) {"type":"video"} {"type":"hologram","depth":3} lone \ufffd half 7',
            "a: hm long",
            "a: kept",
            'u: "no message"',
            "u: Call of bash_run (stray): {}",
        ]
        assert one.mended == {
            "blocks of unknown kinds kept as text": 3,
            "messages of an unknown role taken for the user's": 1,
            "empty messages left out": 1,
            "entries that are no message kept as text": 1,
            "tool uses that are not the model's kept as text": 1,
        }
        stored = (await store.read_messages("agt-1")).items[3]
        assert (stored.metadata, getattr(stored.blocks[0], "signature", "")) == (
            '{"transport":"provider","more":1}',
            "sig",
        )


# ---- events and snapshots ------------------------------------------------------------------------------------


async def test_events_are_merged_and_numbered_anew(old: Old) -> None:
    folder = old.agent("agt-1")
    call = {"id": "tu_1", "name": "bash_run", "state": "COMPLETED", "result": "x" * 5_000}
    old.log(
        folder / "events/progress.log",
        (0, {"type": "text_chunk_start", "step": 1}),
        (1, {"type": "text_chunk", "step": 1, "delta": "I"}),
        (2, {"type": "text_chunk_end", "step": 1, "text": "I count. " * 100}),
        (3, {"type": "tool:start", "call": call}),
        (5, {"type": "tool:end", "call": call}),
        (9, {"type": "done", "step": 2, "reason": "completed"}),
    )
    old.log(
        folder / "events/monitor.log",
        (4, {"type": "state_changed", "state": "WORKING"}),
        (9, {"type": "step_complete", "step": 2}),
        (10, {"type": "from_the_future", "x": 1}),
    )
    # a crash between the append and the removal of the write-ahead file: the last line stands in both
    lines = (folder / "events/monitor.log").read_text().splitlines()
    (folder / "events/monitor.wal").write_text(lines[-1] + "\n" + lines[0].replace("WORKING", "READY") + "\n")
    async with MemoryStore() as store:
        one = await only(old, store)
        events = (await store.read_events("agt-1")).items
        assert [event.cursor for event in events] == list(range(1, 9))
        assert [event.type for event in events] == [
            "agent_created", "text_chunk_end", "tool_start", "state_changed", "state_changed", "tool_end", "done",
            "step_complete",
        ]  # fmt: skip
        assert one.taken["events"] == 7
        assert one.taken["events whose number was used twice"] == 2
        assert one.left["events shown live only"] == 2
        assert one.left["events of unknown types"] == 1
        start = events[2]
        assert (start.call, start.run, start.data["name"]) == ("1.1.1", 1, "bash_run")
        assert all(len(json.dumps(dict(event.data))) < 300 for event in events)
        assert len(events[1].preview or "") == 120
        assert [event.at for event in events] == sorted(event.at for event in events)


async def test_snapshots_of_a_beginning_of_the_history_come_too(old: Old) -> None:
    folder = old.agent("agt-1")
    stamp = {"createdAt": "2025-10-09T09:00:00.000Z", "lastSfpIndex": 3}
    old.put(folder / "snapshots/sfp-3.json", {"id": "sfp-3", "messages": WHOLE[:4], **stamp})
    old.put(folder / "snapshots/mid.json", {"id": "mid", "messages": WHOLE[:2], **stamp})
    old.put(folder / "snapshots/other.json", {"id": "other", "messages": [said("user", "else")], **stamp})
    old.put(folder / "history/windows/1760000000000.json", {"id": "window-1", "messages": []})
    async with MemoryStore() as store:
        one = await only(old, store)
        (snapshot,) = await store.list_snapshots("agt-1")
        assert (snapshot.id, snapshot.seq) == ("sfp-3", 4)
        assert one.left["snapshots of what is not the beginning of the history"] == 2
        assert one.left["history windows"] == 1
        fork = await store.fork("agt-1", "agt-2", new_uid="u2", at="sfp-3")
        assert (fork.next_seq, len(await texts(store, "agt-2"))) == (4, 4)


async def test_the_examples_of_the_guide_run(old: Old, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    guide = (Path(__file__).parents[3] / "docs/guides/move-stores.md").read_text()
    copying, importing = re.findall(r"^```python\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(importing, names)
    old.agent("agt-1")
    await names["move"](str(old.base), f"sqlite:///{tmp_path}/a.db?durability=process")
    assert capsys.readouterr().out.startswith("agt-1 copied {'messages': 6, 'calls': 1")
    exec(copying, names)
    async with SqliteStore(tmp_path / "a.db", durability="process") as source, MemoryStore() as target:
        await names["move"](source, target)
        assert await target.exists("agt-1")


IDS = st.sampled_from(["a", "b", "", "c#2"])
JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=3), lambda inner: st.lists(inner, max_size=2), max_leaves=4
)
BLOCKS = st.one_of(
    st.text(max_size=3),
    JSON,
    st.fixed_dictionaries({"type": st.sampled_from(["text", "tool_use", "tool_result", "image", "x"])}, optional={
        "text": JSON, "id": JSON, "name": JSON, "input": JSON, "tool_use_id": JSON, "content": JSON, "url": JSON,
    }),
)  # fmt: skip
CALLS = st.builds(use, IDS) | st.builds(result, IDS, JSON)
MESSAGES = st.builds(
    lambda role, content: {"role": role, "content": content},
    st.sampled_from(["user", "assistant", "system", 3]),
    st.lists(CALLS | BLOCKS, max_size=5),
)
RECORDS = st.dictionaries(IDS, st.fixed_dictionaries({"state": st.sampled_from(["COMPLETED", "FAILED", "PENDING", 1])},
                                                     optional={"result": JSON, "error": JSON}))  # fmt: skip


@settings(max_examples=250)
@given(st.lists(MESSAGES | JSON | st.fixed_dictionaries({"role": JSON, "content": JSON}), max_size=8), RECORDS)
def test_whatever_is_there_becomes_a_history_that_every_provider_accepts(
    raws: list[Any], records: dict[str, dict[str, Any]]
) -> None:
    made = convert(raws, records)
    check_history(made.messages)
    assert all(message.run >= 1 for message in made.messages)
    assert len({(one.run, one.step, one.n) for one in made.uses}) == len(made.uses)
    for one in made.uses:
        asked, answered = made.messages[one.seq].blocks[one.block], made.messages[one.result_seq].blocks[one.n - 1]
        assert isinstance(asked, ToolUseBlock)
        assert isinstance(answered, ToolResultBlock)
        assert answered.call == f"{one.run}.{one.step}.{one.n}"
    for message in made.messages:
        rec.message_record("u", message)
    assert len(made.starts) == len(raws) + 1
