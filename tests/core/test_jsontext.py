from __future__ import annotations

import json
import math
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kode.core.errors import UsageError
from kode.core.jsontext import canonical, digest, dump, parse, well_formed
from kode.core.testing.strategies import json_values


class Color(StrEnum):
    RED = "red"


class Size(IntEnum):
    BIG = 3


@dataclass
class Thing:
    x: int = 1


def nested(depth: int, kind: str = "[") -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value] if kind == "[" else {"k": value}
    return value


def cyclic() -> list[Any]:
    inner: list[Any] = []
    inner.append(inner)
    inner.append(inner)
    return inner


# ---- what is allowed


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (0, "0"),
        (-0.0, "-0.0"),
        (0.1, "0.1"),
        (1e16, "1e+16"),
        (1.0, "1.0"),
        (5e-324, "5e-324"),
        (2**64, "18446744073709551616"),
        ("é\n\x00", '"é\\n\\u0000"'),
        ((1, (2,)), "[1,[2]]"),
        ({"b": 1, "a": 2}, '{"b":1,"a":2}'),
        (Color.RED, '"red"'),
        ({Color.RED: Size.BIG}, '{"red":3}'),
        ([], "[]"),
    ],
)
def test_values_have_one_text(value: Any, text: str) -> None:
    assert dump(value) == text
    assert canonical(text) == text


@given(json_values)
def test_what_came_in_can_be_read_back(value: Any) -> None:
    text = dump(value)
    assert parse(text) == value
    assert canonical(text) == text
    assert canonical(json.dumps(value, indent=1)) == text
    assert json.dumps(parse(text)) == json.dumps(value)  # tells -0.0 from 0.0 and 1 from 1.0 and True


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_are_exact(number: float) -> None:
    assert math.copysign(1, parse(dump(number))) == math.copysign(1, number)
    assert parse(dump([number])) == [number]


def test_integers_are_exact_up_to_the_limit() -> None:
    largest = 10**4300 - 1
    assert parse(dump([largest, -largest])) == [largest, -largest]
    assert canonical(str(largest)) == str(largest)


def test_negative_zero_as_an_integer_is_zero() -> None:
    assert canonical("-0") == "0"


@pytest.mark.parametrize("kind", ["[", "{"])
def test_depth_is_counted_by_containers(kind: str) -> None:
    value = nested(100, kind)
    assert parse(dump(value)) == value
    with pytest.raises(UsageError, match="nested deeper than 100"):
        dump(nested(101, kind))
    with pytest.raises(UsageError, match="nested deeper than 100"):
        parse(json.dumps(nested(101, kind)))


# ---- what is refused, and what the message says


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (math.nan, "$ is nan"),
        ({"a": [0, 1, 2, math.inf]}, "$.a[3] is inf"),
        (-math.inf, "$ is -inf"),
        ({"a": 10**4300}, "$.a is an integer of more than 4,300 digits"),
        ([-(10**4300)], "$[0] is an integer of more than 4,300 digits"),
        ([10**10_000], "$[0] is an integer of more than 4,300 digits"),
        ({1: 2}, "$ is an object with the key 1 (int)"),
        ({"a": {True: 2}}, "$.a is an object with the key True (bool)"),
        ({None: 2}, "$ is an object with the key None (NoneType)"),
        ({10**5000: 2}, "$ is an object with the key a value of type int"),
        ({"a b": [b"raw"]}, "$[\"a b\"][0] is b'raw' (bytes)"),
        ({"a": {1}}, "$.a is a value of type set"),
        ([Thing()], "$[0] is a value of type Thing"),
        ([object], "$[0] is a value of type type"),
        (1j, "$ is a value of type complex"),
        (cyclic(), "nested deeper than 100"),
        (dict.fromkeys(["\ud800", "\udc01"]), "'\ufffd' twice"),
    ],
)
def test_the_rest_is_refused_by_name(value: Any, says: str) -> None:
    with pytest.raises(UsageError) as raised:
        dump(value)
    assert raised.value.code == "bad_json"
    assert says in raised.value.message
    assert len(raised.value.message) < 500


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1, column 1"),
        ("{'a': 1}", "line 1, column 2"),
        ("[1,]", "no JSON text"),
        ("[1] 2", "Extra data"),
        ("\ufeff[]", "no JSON text"),
        ("NaN", "NaN"),
        ("[-Infinity]", "-Infinity"),
        ("[1, 1e400]", "$[1] is inf"),
        ('{"a":1,"b":{"c":1,"c":1}}', "'c' twice"),
        ("9" * 4301, "4,300 digits"),
        ("[" * 100_000, "nested deeper than 100"),
        ('{"a":' * 50_000, "nested deeper than 100"),
        ('"a\nb"', "no JSON text"),
    ],
)
@pytest.mark.parametrize("read", [parse, canonical])
def test_foreign_text_is_refused_by_the_same_rule(read: Any, text: str, says: str) -> None:
    with pytest.raises(UsageError) as raised:
        read(text)
    assert raised.value.code == "bad_json"
    assert says in raised.value.message
    assert len(raised.value.message) < 500


@pytest.mark.parametrize("text", [b"{}", None, 1])
def test_text_must_be_text(text: Any) -> None:
    with pytest.raises(UsageError, match="must be a str"):
        parse(text)


# ---- Unicode


def test_a_lone_surrogate_is_replaced_and_noted() -> None:
    notes: list[str] = []
    assert dump({"a": ["ok", "x\ud800y"]}, notes=notes) == '{"a":["ok","x\ufffdy"]}'
    assert [note.partition(":")[0] for note in notes] == ["$.a[1]"]
    assert canonical('{"\\udfff": 1}', notes=notes) == '{"\ufffd":1}'
    assert len(notes) == 2
    assert parse('"\\ud83d\\ude00"') == "😀"
    assert parse('["\\udfff", "\ud800"]') == ["\ufffd", "\ufffd"]


def test_halves_of_a_pair_are_joined() -> None:
    assert dump("\ud83d\ude00") == '"😀"'
    assert well_formed("\ude00\ud83d") == "\ufffd\ufffd"


@given(st.text(st.characters(categories=["Cs", "Lu"])))
def test_any_text_becomes_well_formed(text: str) -> None:
    mended = well_formed(text)
    assert mended.encode().decode() == mended
    assert well_formed(mended) is mended
    assert parse(dump(text)) == mended


# ---- digests


def test_a_digest_does_not_see_the_order_of_keys() -> None:
    one = digest({"a": 1, "b": {"d": [1, 2], "c": "é"}})
    assert one == digest('{"b": {"c": "\\u00e9", "d": [1, 2]}, "a": 1}')
    assert one != digest({"a": 1, "b": {"d": [2, 1], "c": "é"}})


def test_a_digest_never_changes() -> None:
    assert digest({"b": 1, "a": [True, None, 0.1, "é"]}) == (
        "f8b261a920d949f389566479c756efbc8e058deb9cbd6e7d3cf56d641edf8405"
    )
    assert digest(dump("text")) != digest(dump("texts"))
