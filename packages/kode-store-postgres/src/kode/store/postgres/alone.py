"""One commit alone, as the arguments of `commit_v1`; what is another act goes by `apply_v1`, which does any.

Both judge and write alike. This one takes half the time, and half of what the log holds beside the rows themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kode.core.store import Condition, Key, Kind, Record
from kode.store.postgres.rows import Act
from kode.store.postgres.tables import LAYOUTS

__all__ = ["ARGUMENTS", "WRITTEN", "commit"]

WRITTEN: Final[tuple[Kind, ...]] = ("message", "call", "events", "consumed", "run", "lease")
"""Kinds of which a commit may put one row beside its header; with more it goes by `apply_v1`."""
_CONDITIONS: Final = {
    ("equals", "header", "uid"): "uid",
    ("equals", "header", "version"): "version",
    ("equals", "header", "staged"): "staged",
    ("equals", "lease", "fence"): "fence",
    ("free", "lease", ""): "free",
    ("no_inbox_after", "inbox", ""): "quiet",
}
_NOTHING: Final[Mapping[Kind, list[None]]] = {kind: [None] * (len(LAYOUTS[kind].names) + 2) for kind in WRITTEN}
ARGUMENTS: Final = 9 + len(LAYOUTS["header"].names) + sum(map(len, _NOTHING.values()))
"""How many there are."""


def commit(act: Act) -> list[Any] | None:
    """Write an act as arguments; None: it is no plain commit."""
    known = _known(act)
    if known is None or not act.puts:
        return None
    uid = known["uid"]
    *puts, header = act.puts
    if header.kind != "header" or header.key != act.agent_id or header.uid:
        return None
    rows: dict[Kind, Record] = {}
    for row in puts:
        if row.kind not in _NOTHING or row.kind in rows or row.uid != uid:
            return None
        rows[row.kind] = row
    if any(key.kind != "inbox" or key.uid != uid for key in act.deletes):
        return None
    look = None if act.look is None else act.look[1]
    arguments = [act.agent_id, uid, known["version"], known.get("fence"), known.get("free"), known.get("quiet"), look]
    arguments.append([key.key for key in act.deletes] or None)
    arguments += _columns(header)
    for kind, nothing in _NOTHING.items():
        found = rows.get(kind)
        arguments += nothing if found is None else [found.key, *_columns(found)]
    return arguments


def _known(act: Act) -> dict[str, Any] | None:
    """What must hold, by name; None: something that `commit_v1` does not judge, or not all that it does."""
    found: dict[str, Any] = {}
    for condition in act.conditions:
        name = _CONDITIONS.get((condition.op, condition.key.kind, condition.column))
        if name is None or name in found:
            return None
        found[name] = condition.value
    uid = found.get("uid")
    ok = (
        isinstance(uid, str)
        and isinstance(found.get("version"), int)
        and found.get("staged", "") is None
        and isinstance(found.get("fence", found.get("free")), int)
        and ("fence" in found) != ("free" in found)
        and all(_placed(condition, act.agent_id, uid) for condition in act.conditions)
        and (act.look is None or act.look[0] == uid)
    )
    return found if ok else None


def _placed(condition: Condition, agent_id: str, uid: str) -> bool:
    key: Key = condition.key
    if key.kind == "header":
        return key.key == agent_id and not key.uid
    return key.uid == uid and not key.key


def _columns(row: Record) -> list[Any]:
    held = row.columns
    return [*[held[name] for name in LAYOUTS[row.kind].names], row.body]
