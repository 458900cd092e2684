r"""Lines: how an act is written down, and how it is read back.

A line is a JSON array and one atomic act:

    [1,98,{"put":[["message","u","10",23,84,3735928559]],"del":[]},[{"role":"user"},{"1":{…}}],"8d777f38"]

``1`` is the version of the format and ``98`` the size of the object behind it. That says which records the act puts
(kind, uid, key; where the record's body begins, its size and CRC-32; the file of a body that lies apart) and which it
deletes. The records follow, each ``[columns, body]``; columns that are null are left out. The last is the CRC-32 of
all bytes before it. A line ends with a line feed and holds no other, nor any NUL: so what lacks its end or has a hole
was never written to its end.

A body is kept byte for byte: as ``{"1":{…}}`` if it is a version and JSON, as the codec makes them (a blob never is);
as a JSON string if it is other text; as ``{"base64":"…"}`` if it is neither and small; else as
``{"file":…,"size":…,"crc":…}``.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias
from zlib import crc32

from kode.core.errors import RecordCorruptError, SchemaTooNewError
from kode.core.store.contract import Kind, Record, Value
from kode.core.store.json import names
from kode.core.store.records.columns import COLUMNS

__all__ = [
    "LARGE",
    "VERSION",
    "Address",
    "Line",
    "Place",
    "Raw",
    "Torn",
    "body_file",
    "body_text",
    "corrupt",
    "encode",
    "parse",
    "raw_record",
    "read_record",
    "seal",
    "unseal",
]

VERSION: Final = 1
LARGE: Final = 262_144
"""Bytes above which a body is a file of its own."""
_BINARY: Final = 1_024
"""The same for bodies that are not text."""
_TAIL: Final = 12
"""Bytes of ``,"8d777f38"]``."""
_VERSIONED: Final = re.compile(rb"\d{1,4}[\[{]")
_VERSION: Final = re.compile(rb"\[(\d{1,9})[],]")
_HEAD: Final = re.compile(rb"\[\d,(\d{1,12}),")
_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_decode: Final = json.JSONDecoder().raw_decode
_strict: Final = json.JSONDecoder(parse_constant=lambda name: _refuse(name)).raw_decode
_EMPTY: Final[dict[Kind, dict[str, Value]]] = {
    kind: {name: None for name, _ in columns} for kind, columns in COLUMNS.items()
}

Address: TypeAlias = tuple[Kind, str, str]
"""Kind, uid and key of a record."""


class Place(NamedTuple):
    """Where a record lies."""

    file: int
    """Number of the journal it was written to, which is its segment's when that is closed."""
    at: int
    """Offset of the record in the file."""
    head: int
    """Offset of the body in the record."""
    size: int
    """Bytes of the record."""
    crc: int
    apart: str = ""
    """Name of the file that holds the body; "": it is in the record."""


class Raw(NamedTuple):
    """A record as it is written."""

    address: Address
    data: bytes
    head: int
    apart: str = ""


class Torn(Exception):  # noqa: N818 - the end of a journal, not an error; it never leaves this package
    """A line was not written to its end."""


@dataclass(slots=True)
class Line:
    """What a line says."""

    puts: list[tuple[Address, Place]] = field(default_factory=list)
    deletes: list[Address] = field(default_factory=list)
    head: dict[str, Any] = field(default_factory=dict)


# ---- records -----------------------------------------------------------------------------------------------


def body_text(record: Record) -> bytes | None:
    """Write a record's body as JSON; None if it is to lie in a file of its own."""
    body = record.body
    if len(body) > LARGE:
        return None
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return _dump({"base64": b64encode(body).decode()}) if len(body) <= _BINARY else None
    found = None if record.kind == "blob" else _VERSIONED.match(body)
    if found and b"\n" not in body and b"\0" not in body and _is_json(text[found.end() - 1 :]):
        end = found.end() - 1
        return b'{"%b":%b}' % (body[:end], body[end:])
    return _dump(text)


def _is_json(text: str) -> bool:
    """Tell whether it is one array or object and nothing else: other programs read these lines too."""
    try:
        return _strict(text)[1] == len(text)
    except (ValueError, RecursionError):
        return False


def _refuse(name: str) -> Any:
    raise ValueError(name)


def body_file(name: str, body: bytes) -> bytes:
    """Say in which file a body lies."""
    return _dump({"file": name, "size": len(body), "crc": crc32(body)})


def raw_record(record: Record, body: bytes, apart: str = "") -> Raw:
    """Write a record down, its body as `body_text` or `body_file` wrote it."""
    columns = {name: value for name, value in record.columns.items() if value is not None}
    head = b"[%b," % _dump(columns)
    return Raw((record.kind, record.uid, record.key), b"%b%b]" % (head, body), len(head), apart)


def read_record(
    address: Address, data: bytes, place: Place, where: str, load: Callable[[str, Mapping[str, Any]], bytes]
) -> Record:
    """Read a record; `load` reads a body that lies apart, by its name and what the record says of it.

    Raises:
        RecordCorruptError: It is not what was written.
    """
    kind, uid, key = address
    if len(data) != place.size or crc32(data) != place.crc:
        raise corrupt(f"{where} at byte {place.at}: the {kind} record {uid}/{key} is damaged", where, data)
    columns = {**_EMPTY[kind], **_load(data[1 : place.head - 1])}
    return Record(kind, uid, key, columns, _read_body(data[place.head : -1], place.apart, load))


def _read_body(data: bytes, apart: str, load: Callable[[str, Mapping[str, Any]], bytes]) -> bytes:
    if data[:2] == b'{"' and data[2:3].isdigit():
        end = data.index(b'"', 2)
        return data[2:end] + data[end + 2 : -1]
    said = _load(data)
    if isinstance(said, str):
        return said.encode()
    return load(apart, said) if apart else b64decode(said["base64"])


# ---- lines -------------------------------------------------------------------------------------------------


def encode(
    rows: Sequence[Raw], deletes: Sequence[Address], *, file: int, at: int, head: Mapping[str, Any] | None = None
) -> tuple[bytes, Line]:
    """Write an act as the line at `at` of a file; returns it, and what `parse` will read from it."""
    puts = [[*raw.address, raw.head, len(raw.data), crc32(raw.data), *([raw.apart] * bool(raw.apart))] for raw in rows]
    said = {**(head or {}), "put": puts, "del": list(deletes)}
    data, start = seal(said, [raw.data for raw in rows])
    return data, _line(said, file, at + start)


def seal(said: Mapping[str, Any], parts: Sequence[bytes] = ()) -> tuple[bytes, int]:
    """Make a line of an object and what follows it; returns it, and where what follows begins."""
    head = _dump(said)
    start = b"[%d,%d,%b" % (VERSION, len(head), head)
    line = b",".join([start, *parts])
    return b'%b,"%08x"]\n' % (line, crc32(line)), len(start) + 1


def parse(data: bytes, file: int, at: int, where: str) -> Line:
    """Read a line, which lies at `at` of a file; 0 for a file's first line, which says its number.

    Raises:
        Torn: It was not written to its end.
        SchemaTooNewError: A newer KODE wrote it.
        RecordCorruptError: It is damaged.
    """
    said, start = unseal(data, f"{where} at byte {at}")
    line = _line(said, file or said["file"], at + start)
    for _, place in line.puts:
        if place.apart and not names.BODY.fullmatch(place.apart):
            raise corrupt(f"{where} at byte {at}: {place.apart!r} is no name of a body", where, data)
    return line


def unseal(data: bytes, where: str) -> tuple[dict[str, Any], int]:
    """Read what `seal` made; the same errors as `parse`."""
    version = _VERSION.match(data)
    if version is not None and int(version[1]) > VERSION:
        raise SchemaTooNewError(
            f"{where}: the line has version {int(version[1])} of the format; this process knows up to {VERSION}. "
            "Upgrade KODE; nothing was changed.",
            found=int(version[1]),
            known=VERSION,
        )
    if not data.endswith(b"\n") or b"\0" in data:
        raise Torn
    body = memoryview(data)[: -_TAIL - 1]
    found = _HEAD.match(data)
    if found is None or data[-_TAIL - 1 :] != b',"%08x"]\n' % crc32(body):
        raise corrupt(f"{where}: the line is damaged", where, data)
    end = found.end() + int(found[1])
    said: dict[str, Any] = _load(data[found.end() : end])
    return said, end + 1


def _line(said: dict[str, Any], file: int, start: int) -> Line:
    line = Line(head=said)
    for kind, uid, key, head, size, crc, *apart in said["put"]:
        line.puts.append(((kind, uid, key), Place(file, start, head, size, crc, *apart)))
        start += size + 1
    line.deletes = [(kind, uid, key) for kind, uid, key in said["del"]]
    return line


def _load(data: bytes) -> Any:
    return _decode(data.decode())[0]


def _dump(value: Any) -> bytes:
    return _encode(value).encode()


def corrupt(what: str, where: str, raw: bytes) -> RecordCorruptError:
    """Say what is damaged; nothing was changed."""
    return RecordCorruptError(
        f"{what}. It was left as it is; restore the folder from a backup.", where=where, raw=bytes(raw[:65_536])
    )
