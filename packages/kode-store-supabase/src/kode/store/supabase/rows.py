"""Acts and records as JSON for the project's functions, and their answers.

A row that is read is ``[owner, key, body, columns…]``, one that is written is ``[act, owner, key, columns…]``, its body
apart. Bodies are base64; columns stand in the order of the closed list. The functions in ``schema.sql`` know the same
places.
"""

from __future__ import annotations

from base64 import b64encode
from binascii import a2b_base64
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

from kode.core.store import Appended, Condition, Key, Kind, Record
from kode.core.store.contract import Scan
from kode.core.store.primitives import prefix_end
from kode.core.store.records import COLUMNS

__all__ = ["ALL", "PAGE", "Ask", "acts", "appended", "applied", "behind", "found", "gets", "item", "record", "scan"]

Row: TypeAlias = list[Any]
Ask: TypeAlias = dict[str, Any]

NAMES: Final = {kind: tuple(name for name, _ in columns) for kind, columns in COLUMNS.items()}
ALL: Final = 2**62
"""A limit that is none."""
PAGE: Final = 1_000
PAGE_BYTES: Final = 8_388_608
"""Bodies in one answer to a scan, roughly; a larger record comes alone."""


def record(kind: Kind, row: Row) -> Record:
    """Read a row."""
    owner, key, body, *values = row
    return Record(kind, owner, key, dict(zip(NAMES[kind], values, strict=True)), a2b_base64(body))


def _body(one: Record) -> str:
    return b64encode(one.body).decode()


# ---- writing -----------------------------------------------------------------------------------------------


def acts(
    agent_id: str,
    conditions: Sequence[Condition],
    puts: Sequence[Record],
    deletes: Sequence[Key],
    look: tuple[str, str] | None,
) -> dict[str, Any]:
    """Write one act as the argument of `rest_apply_v1`."""
    sent: dict[str, list[Any]] = {"agents": [agent_id]}
    for i, condition in enumerate(conditions):
        at_once = condition.key.kind in ("header", "lease") or condition.op == "no_inbox_after"
        sent.setdefault("plain" if at_once else "rare", []).append(_condition(i, condition))
    # Of two puts of one key the last counts, and what is put is not deleted.
    last = {(row.kind, row.uid, row.key): row for row in puts}
    for row in last.values():
        columns = [row.columns[name] for name in NAMES[row.kind]]
        sent.setdefault(row.kind, []).append([1, row.uid, row.key, *columns])
        sent.setdefault(f"{row.kind}_b", []).append(_body(row))
    gone = [[1, key.kind, key.uid, key.key] for key in deletes if (key.kind, key.uid, key.key) not in last]
    if gone:
        sent["delete"] = gone
    if look is not None:
        sent["look"] = [[1, *look]]
    return sent


def _condition(i: int, condition: Condition) -> Row:
    key, value = condition.key, condition.value
    number, text = (value, None) if isinstance(value, int) else (None, value)
    return [1, i, number, condition.op, key.kind, key.uid, key.key, condition.column, text]


def applied(answer: dict[str, Any]) -> tuple[int | None, list[Record]]:
    """Read the answer of `rest_apply_v1` to one act."""
    ((_, failed),) = answer["failed"] or ((1, None),)
    return failed, [record("inbox", row[1:]) for row in answer["inbox"] or ()]


def item(agent_id: str, one: Record, now: int, bounded: bool) -> dict[str, Any]:
    """Write one item as the arguments of `rest_append_v1`."""
    held = one.columns
    numbers = [held[name] for name in ("at", "not_before", "priority", "size")]
    row = [one.uid, agent_id, held["id"], held["kind"], held["tenant"], 1, *numbers, now, int(bounded)]
    return {"items": [row], "bodies": [_body(one)]}


def appended(answer: dict[str, Any]) -> Appended:
    """Read the answer of `rest_append_v1` to one item."""
    ((_, outcome, position, limit, waiting, row),) = answer["items"]
    known = None if row is None else record("inbox" if waiting else "consumed", row)
    return Appended(outcome, position, limit=limit, known=known)


# ---- reading -----------------------------------------------------------------------------------------------


def gets(keys: Sequence[Key]) -> list[Ask]:
    """Ask for records by key, all of one kind at once."""
    return [{"kind": kind, "at": [(key.uid, key.key) for key in held]} for kind, held in _by_kind(keys).items()]


def found(keys: Sequence[Key], answers: Sequence[list[Row | None] | None]) -> list[Record | None]:
    """Read the answers to `gets`, in the order of the keys."""
    known = {
        key: row
        for held, rows in zip(_by_kind(keys).values(), answers, strict=True)
        for key, row in zip(held, rows or (), strict=True)
    }
    return [None if (row := known[key]) is None else record(key.kind, row) for key in keys]


def _by_kind(keys: Sequence[Key]) -> dict[Kind, list[Key]]:
    kinds: dict[Kind, list[Key]] = {}
    for key in keys:
        kinds.setdefault(key.kind, []).append(key)
    return kinds


def behind(ask: Scan, found: Sequence[Record]) -> Scan:
    """Ask for what is left of a range."""
    if not found:
        return ask
    last, left = found[-1].key, ask.limit - len(found)
    return replace(ask, before=last, limit=left) if ask.reverse else replace(ask, after=last, limit=left)


def scan(ask: Scan, tenant: str | None = None) -> Ask:
    """Ask for one page of a range."""
    ends = [end for end in (ask.before, prefix_end(ask.prefix)) if end is not None]
    return {
        "kind": ask.kind,
        "owner": ask.uid,
        "after": ask.after,
        "prefix": ask.prefix,
        "before": min(ends, default=None),
        "limit": min(ask.limit, PAGE),
        "reverse": ask.reverse,
        "tenant": tenant,
        "bytes": PAGE_BYTES,
    }
