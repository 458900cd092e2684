"""The parser of server-sent events: any cut gives the same, as the specification has it."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kode.core.errors import ProviderError
from kode.core.provider.wire.sse import SseEvent, SseParser

PIECES = st.sampled_from(
    [b"data", b"data:", b"data: ", b"event: e", b"id: 7", b"id: \0", b"retry: 15", b"retry: x", b": note", b":",
     b"x: y", b"\n", b"\r", b"\r\n", b"\n\n", b"\xef\xbb\xbf", "é€😀".encode(), b"\xe2\x82", b"\xff", b" ",
     b"  a", b"{}"]
)  # fmt: skip
FIELDS = st.sampled_from([b"data: a", b"data:b", b"event: e", b"id: 7", b": note", b""])
LINES = st.lists(st.tuples(FIELDS, st.sampled_from([b"\n", b"\r", b"\r\n"])).map(b"".join), max_size=12)
STREAMS = LINES.map(b"".join) | st.lists(PIECES | st.binary(max_size=5), max_size=30).map(b"".join)


def naive(stream: bytes) -> list[SseEvent]:
    """The specification, word for word, over the whole text."""
    lines = re.split("\r\n|\r|\n", stream.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace"))[:-1]
    events, data, kind, last = [], "", "", ""
    for line in lines:
        if line == "":
            if data != "":
                events.append(SseEvent(data[:-1], kind or "message", last))
            data, kind = "", ""
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data += value + "\n"
        elif name == "event":
            kind = value
        elif name == "id" and "\0" not in value:
            last = value
    return events


def parse(stream: bytes, cuts: list[int]) -> list[SseEvent]:
    parser, events, at = SseParser(), [], 0
    for cut in [*sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]:
        events += parser.feed(stream[at:cut])
        at = cut
    return events


@given(STREAMS, st.lists(st.integers(0, 500), max_size=12))
@example(b"data: a\r\ndata: b\r\n\r\n", [8])  # between CR and LF
@example(b"data: \xe2\x82\xac\n\n", [7, 8])  # inside a character
@example(b"\xef\xbb\xbfdata: a\n\n", [1, 2])  # inside the byte order mark
@example(b"\r\n\xef\xbb\xbfdata: a\n\n", [])  # it is none behind the first line
def test_any_cut_gives_what_the_specification_says(stream: bytes, cuts: list[int]) -> None:
    expected = naive(stream)
    assert parse(stream, cuts) == expected
    assert parse(stream, list(range(len(stream)))) == expected


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n\n", [SseEvent("a")]),
        (b"data:a\ndata:  b\n\n", [SseEvent("a\n b")]),
        (b"data\n\ndata:\n\n", [SseEvent(""), SseEvent("")]),
        (b": keep-alive\n\nevent: x\n\n", []),
        (b"event: x\nid: 1\ndata: a\n\ndata: b\n\n", [SseEvent("a", "x", "1"), SseEvent("b", "message", "1")]),
        (b"data: a\n\ndata: never sent off\n", [SseEvent("a")]),
        (b"data: a\r\rdata: b\r\n\r\n", [SseEvent("a"), SseEvent("b")]),
    ],
)
def test_examples(stream: bytes, expected: list[SseEvent]) -> None:
    assert SseParser().feed(stream) == expected == naive(stream)


def test_retry() -> None:
    parser = SseParser()
    parser.feed(b"retry: 3000\nretry: soon\nretry: \xb2\n\n")
    assert parser.retry_ms == 3000


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize(
    ("stream", "what"),
    [
        (b"data: " + b"x" * 2_000 + b"\n\n", "line"),
        (b"data: " + b"x" * 2_000, "line"),
        (b"data: 12345\n" * 300, "event"),
    ],
)
def test_what_it_holds_is_bounded_however_it_comes(stream: bytes, what: str, size: int) -> None:
    parser = SseParser(max_event_bytes=1_000)
    with pytest.raises(ProviderError, match=f"a {what} of more than 1,000 bytes") as caught:
        [parser.feed(stream[at : at + size]) for at in range(0, len(stream), size)]
    assert (caught.value.code, caught.value.retryable) == ("protocol", False)


def test_a_huge_line_may_come_byte_by_byte() -> None:
    parser, line = SseParser(), b"x" * 100_000
    assert [event for byte in b"data: " + line for event in parser.feed(bytes((byte,)))] == []
    assert parser.feed(b"\n\n") == [SseEvent(line.decode())]
