"""The door for JSON: values and foreign text become canonical JSON text, the same on every store and in every version.

The rule: objects have string keys, no key twice, in the order given; numbers are finite, floats in their shortest form,
integers exact and of at most 4,300 digits; nothing nests deeper than 100; text is well-formed Unicode (two halves of a
surrogate pair are joined, a lone one becomes U+FFFD and is noted); no blanks between tokens. Tuples are written as
lists. Whatever else a value holds is refused with the path to it: what came through this door can always be read back.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any, Final

from kode.core.errors import UsageError
from kode.core.kernel.message import Json

__all__ = ["MAX_DEPTH", "MAX_DIGITS", "canonical", "digest", "dump", "parse", "well_formed"]

MAX_DEPTH: Final = 100
"""Lists and objects inside each other; ``[]`` is 1 deep."""
MAX_DIGITS: Final = 4_300
"""Of an integer. Python itself reads no more of them without being told to."""

_LARGE: Final = 10**MAX_DIGITS
_SAFE: Final = 1 << 1_024  # far below _LARGE; comparing with it is cheap
_WRITER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), check_circular=False)
_SORTED: Final = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), check_circular=False, sort_keys=True
)
_LEAVES: Final = frozenset({str, bool, type(None)})


def dump(value: Any, *, notes: list[str] | None = None) -> Json:
    """Write a value as canonical JSON text.

    Args:
        value: None, bool, int, float, str, and lists, tuples and dicts of such; subclasses count as what they extend.
        notes: Gets a line for each text that had to be mended.

    Raises:
        UsageError: The rule does not allow the value (``bad_json``); the message names the path and the value.
    """
    # Nearly every value is fine and is judged without keeping a path; the others are walked again with one.
    if _is_plain(value, MAX_DEPTH):
        text = _WRITER.encode(value)
        if text.isascii() or _encodable(text):
            return Json(text)
    return Json(_WRITER.encode(_walk(value, [], notes)))


def parse(text: str) -> Any:
    """Read JSON text as plain values; what ``dump`` and ``canonical`` would refuse is refused here too.

    Raises:
        UsageError: It is no JSON text, or breaks the rule (``bad_json``).
    """
    value = _load(text)
    if _is_plain(value, MAX_DEPTH) and "\\u" not in text and (text.isascii() or _encodable(text)):
        return value
    return _walk(value, [], None)  # raises with the path, or mends what an escape has hidden


def canonical(text: str, *, notes: list[str] | None = None) -> Json:
    """Write JSON text from outside as canonical JSON text.

    Raises:
        UsageError: It is no JSON text, or breaks the rule (``bad_json``).
    """
    return dump(_load(text), notes=notes)


def digest(text_or_value: Any) -> str:
    """Give the SHA-256 (hex) of a value's JSON with sorted keys: equal for objects that differ in order only.

    A ``str`` is taken as JSON text; to digest a plain string, give ``dump(string)``.

    Raises:
        UsageError: As ``dump`` or ``canonical``.
    """
    text = canonical(text_or_value) if isinstance(text_or_value, str) else dump(text_or_value)
    return hashlib.sha256(_SORTED.encode(json.loads(text)).encode()).hexdigest()


def well_formed(text: str) -> str:
    """Join halves of surrogate pairs and put U+FFFD for each lone one; other text is returned as it is."""
    if text.isascii() or _encodable(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_plain(value: Any, room: int) -> bool:
    """Whether ``_WRITER`` writes the value by the rule, but for ill-formed text, which its caller sees."""
    kind = type(value)
    if kind in _LEAVES:
        return True
    if kind is int:
        small: bool = -_SAFE < value < _SAFE
        return small
    if kind is float:
        return math.isfinite(value)
    if room <= 0:
        return False
    if kind is dict:
        for key in value:
            if type(key) is not str:
                return False
        items = value.values()
    elif kind is list or kind is tuple:
        items = value
    else:
        return False
    return all(type(item) in _LEAVES or _is_plain(item, room - 1) for item in items)


def _walk(value: Any, path: list[str | int], notes: list[str] | None) -> Any:
    """Rebuild a value by the rule, or say where it breaks it."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _mended(str.__str__(value), path, notes)
    if isinstance(value, int):
        # Tells a size and no digits: to write them out is what is not allowed.
        if not -_LARGE < value < _LARGE:
            raise _bad(path, f"an integer of more than {MAX_DIGITS:,} digits", "Give it as a string.")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _bad(path, repr(float(value)), "Give a finite number, a string or None.")
        return float(value)
    if not isinstance(value, dict | list | tuple):
        raise _bad(path, _shown(value), "Give None, bool, int, float, str, or lists and dicts of them.")
    if len(path) >= MAX_DEPTH:
        raise _bad(path, f"nested deeper than {MAX_DEPTH}", "Flatten it, or give the inner part as JSON text.")
    if isinstance(value, dict):
        return _walk_dict(value, path, notes)
    return [_walk(item, [*path, index], notes) for index, item in enumerate(value)]


def _walk_dict(value: dict[Any, Any], path: list[str | int], notes: list[str] | None) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, item in value.items():
        if not isinstance(key, str):
            raise _bad(path, f"an object with the key {_shown(key)}", "Give string keys.")
        name = _mended(str.__str__(key), [*path, key], notes)
        if name in out:
            raise _bad(path, f"an object with the key {name!r} twice", "Give each key once.")
        out[name] = _walk(item, [*path, name], notes)
    return out


def _mended(text: str, path: list[str | int], notes: list[str] | None) -> str:
    mended = well_formed(text)
    if mended is not text and notes is not None:
        notes.append(f"{_written(path)}: the text was not well-formed Unicode; U+FFFD stands for what was wrong.")
    return mended


def _load(text: str) -> Any:
    if not isinstance(text, str):
        raise UsageError(f"JSON text must be a str, this is {_shown(text)}. Decode or dump it first.", code="bad_json")
    try:
        return _READER.decode(text)
    except RecursionError:
        raise _bad([], f"nested deeper than {MAX_DEPTH}", "Flatten it.") from None
    except json.JSONDecodeError as error:
        raise UsageError(
            f"This is no JSON text: {error.msg} at line {error.lineno}, column {error.colno}. Mend the text.",
            code="bad_json",
            position=error.pos,
        ) from None
    except ValueError:
        # The only other one: Python refuses to read so long an integer.
        raise _bad([], f"or holds an integer of more than {MAX_DIGITS:,} digits", "Give it as a string.") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise UsageError(
            f"The JSON text has an object with the key {twice!r} twice. Give each key once.", code="bad_json"
        )
    return out


def _constant(name: str) -> Any:
    raise UsageError(f"The JSON text holds {name}, which JSON does not have. Give a finite number.", code="bad_json")


_READER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_constant)


def _written(path: list[str | int]) -> str:
    def part(step: str | int) -> str:
        if isinstance(step, int):
            return f"[{step}]"
        return f".{step}" if step.isidentifier() else f"[{json.dumps(step)}]"

    text = "$" + "".join(map(part, path))
    return text if len(text) <= 200 else f"{text[:100]}…{text[-90:]}"


def _shown(value: Any) -> str:
    """Name a value that is refused: its type always, its text only while that is short and safe to make."""
    kind = type(value).__name__
    if isinstance(value, str | bytes | int | float | bool | None) and (
        not isinstance(value, int) or abs(value) < _SAFE
    ):
        text = repr(value)
        return f"{text} ({kind})" if len(text) <= 40 else f"{text[:37]}… ({kind})"
    return f"a value of type {kind}"


def _bad(path: list[str | int], what: str, todo: str) -> UsageError:
    where = _written(path)
    return UsageError(f"Not allowed in JSON: {where} is {what}. {todo}", code="bad_json", path=where)
