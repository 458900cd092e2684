from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kode.core.errors import RecordCorruptError, SchemaTooNewError, UsageError
from kode.core.kernel.effects import Attempt, CallModel, RunTool
from kode.core.kernel.message import MediaBlock, Message, TextBlock, ToolResultBlock, Usage
from kode.core.kernel.state import RunRecord, State
from kode.core.kernel.toolcall import Call, CallStatus, Plan
from kode.core.kernel.window import Compaction, Snapshot, Window
from kode.core.kernel.words import StopReason
from kode.core.store.contract import Item
from kode.core.store.records import codec
from kode.core.store.records.codec import APART, HeaderBody, decode, encode
from kode.core.store.records.schema import Adapter
from kode.core.testing import strategies as draw

KINDS: dict[codec.BodyKind, st.SearchStrategy[Any]] = {
    "header": st.builds(
        HeaderBody,
        draw.states(),
        st.lists(draw.texts).map(tuple),
        st.lists(st.tuples(draw.texts, draw.texts, draw.texts)).map(tuple),
    ),
    "message": draw.messages,
    "call": draw.calls,
    "events": st.lists(draw.json_values),
    "inbox": draw.items,
    "consumed": st.tuples(draw.texts),
    "run": draw.run_records,
    "compaction": draw.compactions,
    "snapshot": draw.snapshots,
    "document": st.tuples(draw.texts),
    "orphan": st.tuples(draw.texts, draw.texts),
}
INPUTS: list[codec.BodyKind] = [
    "input.message",
    "input.decision",
    "input.resolve",
    "input.interrupt",
    "input.instruction",
]


def whole(value: Any, like: Any) -> Any:
    """Put the fields that a body leaves out back from the value it was made of."""
    for name in APART.get(type(value), ()):
        object.__setattr__(value, name, getattr(like, name))
    if is_dataclass(value):
        for field in fields(value):
            inner = getattr(value, field.name)
            if is_dataclass(inner):
                whole(inner, getattr(like, field.name))
    return value


def message(**changes: Any) -> Message:
    return replace(Message(0, "user", (TextBlock("hi"),), 0), **changes)


def test_every_kind_is_tested() -> None:
    assert set(KINDS) | set(INPUTS) == set(get_args(codec.BodyKind)) == set(codec._TYPES)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_encoded_is_decoded_equal(kind: codec.BodyKind) -> None:
    @settings(max_examples=60)
    @given(KINDS[kind])
    def check(value: Any) -> None:
        data = encode(kind, value)
        assert data[:2] in (b"1{", b"1[")
        assert b"\n" not in data
        assert whole(decode(kind, data), value) == value
        assert encode(kind, whole(decode(kind, data), value)) == data

    check()


# ---- what is stored


def test_defaults_are_not_written_and_tags_always_are() -> None:
    assert encode("message", message()) == b'1{"blocks":[{"text":"hi","type":"text"}]}'


def other_than_none(cls: Any, seen: set[Any]) -> list[str]:
    """Name the fields of a class, and of those inside it, that may be None and have another default."""
    seen.add(cls)
    hints, found = get_type_hints(cls), []
    for field in fields(cls):
        inside = list(parts(hints[field.name]))
        if type(None) in inside and field.default is not MISSING and field.default is not None:
            found.append(f"{cls.__name__}.{field.name}")
        for part in inside:
            if is_dataclass(part) and part not in seen:
                found += other_than_none(part, seen)
    return found


def parts(hint: Any) -> Iterator[Any]:
    """Walk through unions and tuples."""
    if get_args(hint) and get_origin(hint) is not Literal:
        for arg in get_args(hint):
            yield from parts(arg)
    else:
        yield hint


def test_an_absent_optional_field_is_none() -> None:
    """A body never says None, so that is what a missing field must mean, whatever it defaults to elsewhere."""
    seen: set[Any] = set()
    assert [name for cls in codec._TYPES.values() if is_dataclass(cls) for name in other_than_none(cls, seen)] == []
    assert {State, Message, Call, Usage, Plan, CallModel, TextBlock} <= seen
    run = RunRecord(1, "ok", StopReason.END_TURN, 0, None, None, 0, 0, 0, 0, 0, 0, 0, Usage(), 0)
    assert b'"item"' not in encode("run", run)
    assert decode("run", encode("run", run)).item is None


@pytest.mark.parametrize("cls", APART)
def test_fields_kept_apart_exist(cls: Any) -> None:
    assert APART[cls] <= {field.name for field in fields(cls)}


# ---- what is refused at the door, so that all that is stored can be read


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_refused(number: float) -> None:
    state = State("a", "u", 0, 0, effects=(CallModel("1.1.0", Attempt(1), 0, timeout_s=number),))
    with pytest.raises(UsageError, match="finite") as raised:
        encode("header", HeaderBody(state))
    assert raised.value.code == "bad_value"
    with pytest.raises(UsageError, match="finite"):
        encode("events", [["done", 0, 0, {"x": number}]])


def test_the_words_for_such_numbers_may_stand_in_a_text() -> None:
    state = State("a", "u", 0, 0, sandbox_ref="NaN Infinity null")
    assert decode("header", encode("header", HeaderBody(state))).state.sandbox_ref == "NaN Infinity null"
    assert decode("message", encode("message", message(metadata='{"a":null}'))).metadata == '{"a":null}'


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("message", message(blocks=(TextBlock(None),))),  # type: ignore[arg-type]
        ("message", message(blocks=(TextBlock(1),))),  # type: ignore[arg-type]
        ("message", message(blocks=(Usage(),))),
        ("message", message(blocks=(MediaBlock("gif"),))),  # type: ignore[arg-type]
        ("message", message(blocks=(ToolResultBlock("x", (RunTool("1", Attempt(1)),)),))),  # type: ignore[arg-type]
        ("message", message(usage=Usage(None))),  # type: ignore[arg-type]
        ("message", message(usage=Usage(1.5))),  # type: ignore[arg-type]
        ("call", Call(1, 1, 0, "p", "t", 0, 0, CallStatus.PENDING, Plan("maybe"), 0)),  # type: ignore[arg-type]
        ("call", {"provider_id": "x"}),
        ("document", (object(),)),
    ],
)
def test_values_of_another_type_are_refused(kind: codec.BodyKind, value: Any) -> None:
    with pytest.raises(UsageError) as raised:
        encode(kind, value)
    assert raised.value.code == "bad_value"
    assert kind in raised.value.message


@given(st.text(st.characters(categories=["Cs", "Ll"])))
def test_ill_formed_text_is_mended(text: str) -> None:
    found = decode("message", encode("message", message(origin=text, blocks=(TextBlock(text),))))
    assert found.origin == found.blocks[0].text == text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    rows = [["done", 0, 0, {text: text}]]
    assert encode("events", rows) == encode("events", decode("events", encode("events", rows)))


# ---- damaged and newer records


GOOD = encode("message", message(usage=Usage(1), provider="p"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1",
        b"{}",
        b"x{}",
        b'1{"blocks":[]',
        b"1[]",
        b"1{}",
        b'1{"blocks":null}',
        b'1{"blocks":[{"text":"x"}]}',
        b'1{"blocks":[{"type":"none"}]}',
        b'1{"blocks":[{"type":"text","text":"x","more":1}]}',
        b'1{"blocks":[],"seq":1}',
        b'1{"blocks":[],"usage":{"input":"1"}}',
        b'1{"blocks":[],"usage":{"input":true}}',
        b'1{"blocks":[]}{}',
        b'1{"blocks":[],"origin":"\xff"}',
        b"0" + GOOD[1:],
        b"-1" + GOOD[1:],
    ],
)
def test_damage_is_told_and_kept(data: bytes) -> None:
    with pytest.raises(RecordCorruptError) as raised:
        decode("message", data, "uid/15")
    assert raised.value.fields["raw"] == data
    assert "uid/15" in raised.value.message


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_no_flipped_byte_raises_anything_else(place: int, byte: int) -> None:
    data = GOOD[:place] + bytes([byte]) + GOOD[place + 1 :]
    try:
        found = decode("message", data)
    except (RecordCorruptError, SchemaTooNewError):
        return
    assert type(found) is Message


@pytest.mark.parametrize("version", [2, 10, 12345])
def test_a_newer_version_is_left_alone(version: int) -> None:
    with pytest.raises(SchemaTooNewError) as raised:
        decode("message", b"%d" % version + GOOD[1:], "uid/15")
    assert raised.value.fields["found"] == version
    assert raised.value.fields["known"] == codec.VERSION
    assert "message record uid/15" in raised.value.message


def test_older_versions_are_taken_up_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def first(kind: str, parsed: Any) -> Any:
        return parsed | {"provider": f"{kind} {parsed['provider']} 2"}

    def second(kind: str, parsed: Any) -> Any:
        return parsed | {"provider": parsed["provider"] + " 3"}

    monkeypatch.setattr(codec, "VERSION", 3)
    monkeypatch.setattr(codec, "_NOW", b"3")
    monkeypatch.setattr(codec, "_OPENINGS", (b"3{", b"3["))
    monkeypatch.setattr(codec, "UPGRADES", {1: first, 2: second})
    assert decode("message", GOOD).provider == "message p 2 3"
    assert decode("message", b"2" + GOOD[1:]).provider == "p 3"
    assert decode("message", encode("message", message(provider="new"))).provider == "new"
    with pytest.raises(RecordCorruptError, match="never a version 0"):
        decode("message", b"0" + GOOD[1:])
    with pytest.raises(RecordCorruptError):
        decode("message", b"1{")


# ---- schemas


def test_a_field_without_a_rule_is_refused_when_the_schema_is_built() -> None:
    @dataclass(frozen=True, slots=True)
    class Odd:
        names: set[str]

    for hint in (Odd, State | str, Message | Usage, bytes, int | tuple[int]):
        with pytest.raises(TypeError):
            Adapter(hint, {})


def test_nothing_heavy_is_imported_before_the_first_use() -> None:
    program = (
        "import sys, kode.core.store.records\nprint([m for m in ('pydantic', 'pydantic_core') if m in sys.modules])\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


def test_windows_and_records_of_old_stay_readable() -> None:
    """A change of a default would change what is stored already: these are written out on purpose."""
    assert decode("header", b'1{"state":{}}').state.window == Window()
    compaction = decode("compaction", b'1{"summary":[],"method":"model","window_before":{}}')
    assert isinstance(compaction, Compaction)
    assert isinstance(decode("snapshot", b'1{"at":1,"window":{}}'), Snapshot)
    assert isinstance(decode("inbox", b'1{"payload":"{}"}'), Item)
