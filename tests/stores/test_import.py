"""`import_predecessor`: agents of the predecessor's file store, whole, torn and odd, as agents that can go on."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kode.core import Agent, AgentTemplate, Dependencies, ScriptedProvider
from kode.core.errors import NotFoundError
from kode.core.kernel.invariants import check_history
from kode.core.kernel.message import ToolResultBlock, ToolUseBlock
from kode.core.kernel.toolcall import CallStatus
from kode.core.store import MemoryStore, SqliteStore, Store
from kode.core.store import records as rec
from kode.core.store.predecessor import Imported, ImportedAgent, Origin, Recipe, import_predecessor
from kode.core.store.predecessor.agent import build
from kode.core.store.predecessor.history import convert
from kode.core.template import encode_template

T0 = 1_760_000_000_000
"""Milliseconds."""
SECRET = "sk-canary-42"


def recipe(origin: Origin) -> Recipe:
    template = AgentTemplate("moved", model="m")
    return Recipe(template.label, *encode_template(template))


def use(id: str, name: str = "bash_run", **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": name, "input": arguments}


def result(id: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id, "content": content, **more}


def said(role: str, *blocks: Any, **more: Any) -> dict[str, Any]:
    blocks = tuple({"type": "text", "text": one} if isinstance(one, str) else one for one in blocks)
    return {"role": role, "content": list(blocks), **more}


WHOLE = [
    said("user", "How many files are there?"),
    said("assistant", "I count.", use("tu_1", cmd="ls | wc -l")),
    said("user", result("tu_1", {"ok": True, "data": {"stdout": "7\n"}})),
    said("assistant", "Seven."),
    said("user", "And now?"),
    said("assistant", "Still seven."),
]


class Old:
    """A folder as the predecessor writes it: pretty JSON in files, one envelope per line in logs."""

    def __init__(self, base: Path) -> None:
        self.base = base

    def agent(self, id: str, messages: list[Any] | None = WHOLE, **meta: Any) -> Path:
        folder = self.base / id
        for name in ("runtime", "events", "history/windows", "snapshots"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        settings = {"provider": "anthropic", "model": "some-model", "apiKey": SECRET}
        self.put(
            folder / "meta.json",
            {
                "agentId": id,
                "templateId": "coder",
                "createdAt": "2025-10-09T08:53:20.000Z",
                "lineage": [],
                "configVersion": "v2.7.0",
                "messageCount": len(messages or ()),
                "lastBookmark": {"seq": 9, "timestamp": T0},
                "metadata": {"modelConfig": settings, "sandboxConfig": {"workDir": "/w", "accessToken": SECRET}},
                **meta,
            },
        )
        if messages is not None:
            self.put(folder / "runtime/messages.json", messages)
        return folder

    def put(self, path: Path, value: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, indent=2))

    def log(self, path: Path, *events: tuple[int, dict[str, Any]]) -> None:
        lines = []
        for seq, event in events:
            mark = {"seq": seq, "timestamp": T0 + seq * 10}
            lines.append(json.dumps({"cursor": seq, "bookmark": mark, "event": {**event, "bookmark": mark}}))
        path.write_text("".join(f"{line}\n" for line in lines))

    def snapshot(self) -> dict[str, tuple[bytes, int]]:
        """Everything below the folder, to see that nothing changed."""
        found = {}
        for place, folders, files in os.walk(self.base):
            for name in [*folders, *files]:
                path = Path(place, name)
                found[str(path)] = (path.read_bytes() if path.is_file() else b"", path.stat().st_mtime_ns)
        return found


@pytest.fixture
def old(tmp_path: Path) -> Old:
    return Old(tmp_path / "old")


async def moved(old: Old, store: Store, **options: Any) -> Imported:
    """Import, see that the source is untouched, and that all that came is sound."""
    before = old.snapshot()
    report = await import_predecessor(old.base, store, recipe, **options)
    assert old.snapshot() == before
    for info in await store.list_agents():
        assert (await store.check_consistency(info.agent_id)).problems == ()
    return report


async def only(old: Old, store: Store) -> ImportedAgent:
    (one,) = (await moved(old, store)).agents
    assert one.outcome.what == "copied"
    return one


async def texts(store: Store, id: str = "agt-1") -> list[str]:
    """Each message in a line: role, text, uses as <name>, results in brackets."""
    lines = []
    for message in (await store.read_messages(id, limit=1_000)).items:
        parts = []
        for block in message.blocks:
            if isinstance(block, ToolUseBlock):
                parts.append(f"<{block.name}>")
            elif isinstance(block, ToolResultBlock):
                parts.append(f"[{' '.join(getattr(one, 'text', one.type) for one in block.content)}]")
            else:
                parts.append(getattr(block, "text", f"({block.type})"))
        lines.append(f"{message.role[0]}: {' '.join(parts)}")
    return lines


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


# ---- damaged files -------------------------------------------------------------------------------------------


async def test_a_write_ahead_file_is_the_newer_one(old: Old) -> None:
    folder = old.agent("agt-1", WHOLE[:1])
    old.put(folder / "runtime/messages.wal", {"data": WHOLE, "timestamp": T0})
    async with MemoryStore() as store:
        one = await only(old, store)
        assert one.taken["messages"] == 6
        assert "messages.wal was newer than messages.json and was taken" in one.mended


async def test_torn_files_are_taken_as_far_as_they_go(old: Old) -> None:
    folder = old.agent("agt-1")
    whole = (folder / "runtime/messages.json").read_text()
    (folder / "runtime/messages.json").write_text(whole[: whole.index("Still seven")])
    (folder / "runtime/messages.wal").write_text('{"data": [{"role"')
    (folder / "runtime/tool-calls.json").write_text("[")
    (folder / "runtime/todos.json").write_text('{"todos": [')
    (folder / "meta.json").write_text('{"agentId": "agt-1", "templ')
    (folder / "snapshots/bad.json").write_bytes(b"\xff\xfe")
    async with MemoryStore() as store:
        one = await only(old, store)
        assert (await texts(store))[-1] == "u: And now?"
        assert one.mended == {
            "meta.json is damaged and was left out": 1,
            "messages.wal is torn; messages.json was taken": 1,
            "messages.json is torn; its first 5 entries were taken": 1,
            "tool-calls.json is torn; its first 0 entries were taken": 1,
            "todos.json is damaged and was left out": 1,
            "bad.json: bytes that are no UTF-8 were replaced": 1,
            "bad.json is damaged and was left out": 1,
        }


async def test_hostile_files(old: Old) -> None:
    folder = old.agent("agt-1", None)
    (folder / "runtime/messages.json").write_text("[" * 100_000)
    os.mkfifo(folder / "runtime/todos.json")
    (folder / "events/progress.log").write_text('nonsense\n{"event": 1}\n[]\n' + "[" * 50_000 + "\n")
    (folder / "meta.json").write_text('{"createdAt": 1e400, "templateId": 7, "metadata": [], "lastBookmark": "x"}')
    other = old.agent(
        "agt-2", [said("user", {"type": "text", "text": "deep", "meta": json.loads("[" * 300 + "]" * 300)})]
    )
    old.put(other / "runtime/tool-calls.json", [3, {"id": 5, "approval": [], "auditTrail": {}, "createdAt": "x"}])
    (other / "loop").symlink_to(other)
    async with MemoryStore() as store:
        report = await import_predecessor(old.base, store, recipe)
        assert [(one.agent_id, one.outcome.what) for one in report.agents] == [("agt-1", "copied"), ("agt-2", "copied")]
        assert (await store.check_consistency("agt-1")).ok
        assert report.agents[0].mended["progress.log: lines that are no event were left out"] == 4
        assert await texts(store, "agt-2") == ["u: deep"]


async def test_nothing_outside_of_an_agents_folder_is_read(old: Old, tmp_path: Path) -> None:
    outside = Old(tmp_path / "elsewhere").agent("x", [said("user", SECRET)])
    for id, link in [("file", "runtime/messages.json"), ("settings", "meta.json"), ("folder", "runtime")]:
        folder = old.agent(id)
        (folder / link).rename(folder / "was")
        (folder / link).symlink_to(outside / link)
    inside = old.agent("inside")
    (inside / "runtime/messages.json").rename(inside / "moved.json")
    (inside / "runtime/messages.json").symlink_to("../moved.json")
    async with MemoryStore() as store:
        why = {one.agent_id: one.outcome.why for one in (await moved(old, store)).agents}
        assert [info.agent_id for info in await store.list_agents()] == ["inside"]
        assert [id for id, text in why.items() if "leads out of its agent's folder" in text] == [
            "file",
            "folder",
            "settings",
        ]


async def test_a_file_that_would_fill_the_memory(old: Old) -> None:
    folder = old.agent("agt-1")
    with (folder / "runtime/todos.json").open("wb") as file:
        file.truncate(1 << 41)
    old.agent("agt-2")
    async with MemoryStore() as store:
        report = await import_predecessor(old.base, store, recipe)
        assert "todos.json' has 2199023255552 bytes" in report.agents[0].outcome.why
        assert [info.agent_id for info in await store.list_agents()] == ["agt-2"]


async def test_folders_and_values_without_end(old: Old) -> None:
    old.agent("agt-1")
    old.put(old.base / "agt-1/runtime/todos.json", 0)
    (old.base / "agt-1/meta.json").write_text('{"a":' * 700 + "1" + "}" * 700)
    old.agent("agt-2")
    old.agent("/".join("d" * 300))
    async with MemoryStore() as store:
        report = await import_predecessor(old.base, store, recipe)
        assert [one.outcome.why for one in report.agents] == ["Its folder cannot be read: a file nests too deep.", ""]


ODD = [None, True, -1, 2**200, float("inf"), float("-inf"), float("nan"), "", "\ud800", "a\0b", [], {}, [[]], [{}]]


MADE = {("snapshots", "messages"), ("events", "event")}
"""What reading has looked at."""


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each place of a tree: what holds it, and under which key."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []:
        yield value, key
        yield from places(value[key])


def test_an_odd_value_anywhere_breaks_nothing(tmp_path: Path) -> None:
    # No store: an agent's records are made, and all they hold must fit every store's columns.
    image = {"type": "image_url", "image_url": {"url": "https://example.test"}}
    raws = [*WHOLE[:3], said("user", image), *WHOLE[3:], said("user", result("tu_1", [image, "x"]), metadata={"a": 1})]
    trail = [{"state": "EXECUTING", "timestamp": T0, "note": "n"}]
    decided = {"decision": "allow", "decidedBy": "me", "decidedAt": T0, "note": "n"}
    call = {"id": "tu_1", "state": "COMPLETED", "createdAt": T0, "startedAt": T0, "completedAt": T0, "result": 1}
    event = {"type": "tool:start", "call": {"id": "tu_1", "name": "n"}, "step": 1, "reason": "x"}
    origin = Origin("a", tmp_path)
    origin.meta = {"createdAt": T0, "lineage": ["x"], "metadata": {"apiKey": SECRET}}
    origin.messages = raws
    origin.calls = [{**call, "approval": decided, "auditTrail": trail}]
    origin.todos = {"todos": [{"id": "1"}]}
    origin.events = [{"bookmark": {"seq": 1, "timestamp": T0}, "event": event}]
    origin.snapshots = [{"id": "s", "messages": 1, "createdAt": T0}]
    tree = {name: json.loads(json.dumps(getattr(origin, name))) for name in ("meta", "messages", "calls", "events")}
    tree["snapshots"] = origin.snapshots
    for name, whole in tree.items():
        for holder, key in places(whole):
            if (holder is whole and name not in ("meta", "messages")) or (name, key) in MADE:
                continue
            held = holder[key]
            for odd in ODD:
                holder[key] = odd
                built = build("a", replace(origin, **{name: whole}), recipe(origin))
                numbers = [one for row in built.records for one in row.columns.values() if isinstance(one, int)]
                assert all(-(2**63) <= number < 2**63 for number in numbers)
                assert all(row.key is not None for row in built.records)
            holder[key] = held


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
    guide = (Path(__file__).parents[2] / "docs/guides/move-stores.md").read_text()
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
