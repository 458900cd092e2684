"""Folders as the predecessor wrote them, for the tests of their import."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from kode.core import AgentTemplate
from kode.core.kernel.message import ToolResultBlock, ToolUseBlock
from kode.core.store import Store
from kode.core.store.predecessor import Imported, ImportedAgent, Origin, Recipe, import_predecessor
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
