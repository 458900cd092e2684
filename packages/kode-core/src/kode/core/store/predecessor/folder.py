"""Reads the directories of the predecessor's file store, and only reads.

What its own start-up would repair on the disk is done in memory here.

Of a file beside which a whole ``.wal`` lies, that one is the newer; lines of an events' ``.wal`` follow those of its
log. What is torn is taken as far as it goes, and each mend is noted.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from kode.core.errors import StoreError

__all__ = ["Origin", "find_origins", "read_origin"]

CHANNELS: Final = ("progress", "control", "monitor")
INSIDE: Final = frozenset({"runtime", "events", "history", "snapshots"})
"""Folders that are part of an agent; any other may be a fork, which lies in its parent's folder."""
POOL: Final = "__pool_meta__"
"""No agent: the list of those that ran when a pool was shut down."""
MAX_FILE_BYTES: Final = 1 << 30
"""More than the predecessor could read again: it took files into one string."""
MAX_DEPTH: Final = 200
"""Folders within folders. Only a fork of a fork of a fork lies deep, and its path ends at the system's limit."""
MAX_NUMBER: Final = 1e14
"""Milliseconds until the year 5138. No moment, position or step is beyond it; times are kept in 64 bits."""


@dataclass(slots=True)
class Origin:
    """An agent as the predecessor left it."""

    agent_id: str
    """Its path below the store's folder."""
    path: Path
    meta: dict[str, Any] = field(default_factory=dict)
    messages: list[Any] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    todos: Any = None
    snapshots: list[dict[str, Any]] = field(default_factory=list)
    """Where their messages are the beginning of the agent's, ``messages`` is how many; else None."""
    events: list[dict[str, Any]] = field(default_factory=list)
    """Envelopes, in the order of time."""
    left: Counter[str] = field(default_factory=Counter)
    """What is not read at all, by kind."""
    mended: Counter[str] = field(default_factory=Counter)
    """What was damaged and how it was dealt with."""
    modified_at: int = 0
    """When its messages were last written, microseconds since the epoch."""


def find_origins(base: Path) -> Iterator[tuple[str, Path]]:
    """Find the agents below a folder, forks in their parents' folders too; by id, in order."""
    for place, folders, files in os.walk(base):
        path = Path(place)
        if len(path.parts) - len(base.parts) >= MAX_DEPTH:
            folders.clear()
        agent = path != base and ("meta.json" in files or _has_messages(path))
        folders[:] = sorted(name for name in folders if name != POOL and not (agent and name in INSIDE))
        if agent:
            yield path.relative_to(base).as_posix(), path


def _has_messages(path: Path) -> bool:
    return any((path / "runtime" / name).is_file() for name in ("messages.json", "messages.wal"))


def read_origin(agent_id: str, path: Path) -> Origin:
    """Read all of an agent that can be read.

    Raises:
        OSError: The system refuses it.
        StoreError: ``leads_out``, ``too_large``: a file that is not to be read.
    """
    origin = Origin(agent_id, path)
    origin.meta = mapping(_value(origin, path / "meta.json"))
    runtime = path / "runtime"
    origin.messages = _logged(origin, runtime / "messages")
    origin.calls = [one for one in _logged(origin, runtime / "tool-calls") if isinstance(one, dict)]
    origin.todos = _value(origin, runtime / "todos.json")
    for name in _names(path / "snapshots", ".json"):
        snapshot = _value(origin, name)
        if isinstance(snapshot, dict):
            # Each holds a copy of the whole history; all of them at once would fill the memory.
            count = _beginning_of(origin.messages, snapshot.get("messages"))
            origin.snapshots.append({"id": name.stem, **snapshot, "messages": count})
    origin.events = _events(origin, path / "events")
    if (runtime / "media-cache.json").is_file():
        origin.left["media cache"] += 1
    for kind in ("windows", "compressions", "recovered"):
        count = len(_names(path / "history" / kind, ""))
        if count:
            origin.left[f"history {kind}"] += count
    newest = [runtime / "messages.json", runtime / "messages.wal", path / "meta.json"]
    origin.modified_at = max((one.stat().st_mtime_ns // 1_000 for one in newest if one.is_file()), default=0)
    return origin


# ---- files -------------------------------------------------------------------------------------------------


def _names(folder: Path, ending: str) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(one for one in folder.iterdir() if one.name.endswith(ending) and one.is_file())


def _text(origin: Origin, path: Path) -> str | None:
    """Read a file; None if there is none. What is no regular file (a pipe would never end) counts as none."""
    if not path.is_file():
        return None
    # Whoever made the folder must not choose what else of this machine ends in the store.
    if not path.resolve().is_relative_to(origin.path.resolve()):
        raise StoreError(
            f"{str(path)!r} is a link, or lies in one, that leads out of its agent's folder; put the file there.",
            code="leads_out",
            path=str(path),
        )
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise StoreError(
            f"{str(path)!r} has {size} bytes; a file of the predecessor has at most {MAX_FILE_BYTES}. Move it away.",
            code="too_large",
            path=str(path),
            size=size,
        )
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        origin.mended[f"{path.name}: bytes that are no UTF-8 were replaced"] += 1
        return data.decode("utf-8", "replace")


def _parsed(text: str) -> Any:
    """Parse JSON; raises ValueError for all that it cannot be."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it nests too deep") from None


def _value(origin: Origin, path: Path) -> Any:
    """Read a file that holds one value; None if it is not there or torn."""
    text = _text(origin, path)
    if text is None:
        return None
    try:
        return _parsed(text)
    except ValueError:
        origin.mended[f"{path.name} is damaged and was left out"] += 1
        return None


def _logged(origin: Origin, stem: Path) -> list[Any]:
    """Read a list that is written through a write-ahead file: the newer of both, or of a torn one what is whole."""
    wal, main = stem.with_suffix(".wal"), stem.with_suffix(".json")
    text = _text(origin, wal)
    if text is not None:
        try:
            ahead = _parsed(text)
            if isinstance(ahead, dict) and isinstance(ahead.get("data"), list):
                origin.mended[f"{wal.name} was newer than {main.name} and was taken"] += 1
                return list(ahead["data"])
        except ValueError:
            pass
        origin.mended[f"{wal.name} is torn; {main.name} was taken"] += 1
    text = _text(origin, main)
    if text is None:
        return []
    try:
        value = _parsed(text)
    except ValueError:
        whole = _beginning(text)
        origin.mended[f"{main.name} is torn; its first {len(whole)} entries were taken"] += 1
        return whole
    if isinstance(value, list):
        return value
    origin.mended[f"{main.name} holds no list and was left out"] += 1
    return []


def _beginning_of(messages: list[Any], said: Any) -> int | None:
    return len(said) if isinstance(said, list) and said == messages[: len(said)] else None


def _beginning(text: str) -> list[Any]:
    """Read the entries of a list up to where it is torn."""
    found: list[Any] = []
    decoder = json.JSONDecoder()
    at = text.find("[") + 1
    while at > 0:
        while at < len(text) and text[at] in " \t\r\n,":
            at += 1
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            break
        found.append(value)
    return found


def _events(origin: Origin, folder: Path) -> list[dict[str, Any]]:
    """Read the logs of all channels, in the order of time. A line that stands in log and ``.wal`` is one event."""
    found: list[dict[str, Any]] = []
    for channel in CHANNELS:
        lines = (_text(origin, folder / f"{channel}.log") or "").split("\n")
        behind = (_text(origin, folder / f"{channel}.wal") or "").split("\n")
        known = set(lines)
        for line in lines + [one for one in behind if one not in known]:
            if not line.strip():
                continue
            try:
                envelope = _parsed(line)
            except ValueError:
                envelope = None
            if isinstance(envelope, dict) and isinstance(envelope.get("event"), dict):
                found.append(envelope)
            else:
                origin.mended[f"{channel}.log: lines that are no event were left out"] += 1
    return sorted(found, key=_moment)


def _moment(envelope: dict[str, Any]) -> tuple[float, float]:
    mark = mapping(envelope.get("bookmark"))
    return number(mark.get("timestamp")), number(mark.get("seq"))


def mapping(value: Any) -> dict[str, Any]:
    """An object as it is, anything else as an empty one."""
    return value if isinstance(value, dict) else {}


def number(value: Any) -> float:
    """A number as it is, anything else as 0, also what cannot be a moment or a place."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_NUMBER
    return value if usable else 0
