"""`import_predecessor`: files that are torn, hostile, without end, or of values that nobody wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.stores.predecessor.folders import SECRET, T0, WHOLE, Old, moved, only, recipe, result, said, texts

from kode.core.store import MemoryStore
from kode.core.store.predecessor import Origin, import_predecessor
from kode.core.store.predecessor.agent import build


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
