"""Records on their way to their place, and marks of identities without a header."""

from __future__ import annotations

import json
from typing import Any, Literal, TypeAlias

from kode.core.store.contract import Key, Kind, Record
from kode.core.store.records import codec
from kode.core.store.records.columns import COLUMNS, int_key, read_body, reader, where

__all__ = [
    "Act",
    "orphan_key",
    "orphan_record",
    "read_orphan",
    "read_staged",
    "staged_record",
]


Act: TypeAlias = Literal["fork", "drop"]
"""Why records of a uid have no header: they are being made, or removed."""


def staged_record(commit_id: str, n: int, at: int, uid: str, row: Record | Key) -> Record:
    """Wrap the n-th record of a commit, or the key of one to delete; the body is taken over as it is."""
    said: list[Any] = [row.kind, row.key]
    body = b""
    if isinstance(row, Record):
        said.append(dict(row.columns))
        body = b"\n" + row.body
    line = json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode()
    return Record("staged", uid, f"{commit_id}/{int_key(n)}", {"at": at}, b"%d%b%b" % (codec.VERSION, line, body))


def read_staged(record: Record) -> Record | Key:
    """Unwrap what ``staged_record`` wrapped."""
    line, feed, body = record.body.partition(b"\n")
    version, said = codec.decode_line(line, record.body, where(record))
    if version > codec.VERSION:
        raise codec.too_new("staged", version, where(record))
    if not (isinstance(said, list) and len(said) == 2 + len(feed) and said[0] in COLUMNS and type(said[1]) is str):
        raise codec.corrupt("staged", record.body, where(record), "it is no [kind, key, columns]")
    kind: Kind = said[0]
    if not feed:
        return Key(kind, record.uid, said[1])
    if not isinstance(said[2], dict) or said[2].keys() != {name for name, _ in COLUMNS[kind]}:
        raise codec.corrupt("staged", record.body, where(record), f"its columns are not those of {kind} records")
    return Record(kind, record.uid, said[1], said[2], body)


def orphan_key(uid: str) -> Key:
    """Where it is marked that records of a uid may be without a header."""
    return Key("staged", "", uid)


def orphan_record(uid: str, agent_id: str, act: Act, at: int) -> Record:
    """Make such a mark."""
    return Record("staged", "", uid, {"at": at}, codec.encode("orphan", (act, agent_id)))


@reader
def read_orphan(record: Record) -> tuple[str, str]:
    """Read a mark: what goes on, and the agent id that tells where the records lie."""
    act, agent_id = read_body(record, "orphan")
    return act, agent_id
