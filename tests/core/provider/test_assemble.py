"""The fold: cut as you like, the reply is the same; cut short, it is none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kode.core.errors import ProviderError
from kode.core.jsontext import dump, well_formed
from kode.core.kernel.message import Block, MediaBlock, ReasoningBlock, TextBlock, ToolUseBlock, Usage
from kode.core.kernel.words import StopReason
from kode.core.provider import (
    Assembler,
    BadInput,
    BlockStart,
    BlockStop,
    BlockWhole,
    Chunk,
    InputDelta,
    ReasoningDelta,
    Reply,
    ReplyEnd,
    ReplyError,
    TextDelta,
    UsageReport,
    fold,
    provider_error,
)

END = ReplyEnd()
TEXT = st.text(st.characters(), max_size=12)  # surrogates included
VALUES = st.integers() | st.text(max_size=6) | st.none()
JSON = st.dictionaries(st.text(max_size=4), VALUES, max_size=3).map(dump)
SIGNATURE = st.none() | st.text("abc+/", min_size=1, max_size=8)


@st.composite
def blocks(draw: st.DrawFn) -> tuple[Block, ...]:
    made: list[Block] = []
    for index in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(("text", "reasoning", "tool_use")))
        if kind == "text":
            made.append(TextBlock(draw(TEXT)))
        elif kind == "reasoning":
            made.append(ReasoningBlock(draw(TEXT), draw(SIGNATURE)))
        else:
            made.append(ToolUseBlock(f"id-{index}", "tool", draw(JSON)))
    return tuple(made)


def expected(block: Block) -> Block:
    """The block as it must come out: text well-formed."""
    if isinstance(block, TextBlock):
        return TextBlock(well_formed(block.text))
    if isinstance(block, ReasoningBlock):
        return ReasoningBlock(well_formed(block.text), block.signature)
    return block


@st.composite
def chunkings(draw: st.DrawFn, whole: tuple[Block, ...]) -> list[Chunk]:
    """Cut every block somewhere, and deal the pieces of all blocks among each other; starts stay in order."""

    def cuts(text: str) -> list[str]:
        at = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
        return [text[a:b] for a, b in zip([0, *at], [*at, len(text)], strict=True)]

    queues: list[list[Chunk]] = []
    for i, block in enumerate(whole):
        queue: list[Chunk] = []
        if isinstance(block, TextBlock):
            queue += [BlockStart(i, "text"), *(TextDelta(i, piece) for piece in cuts(block.text))]
        elif isinstance(block, ReasoningBlock):
            queue += [BlockStart(i, "reasoning"), *(ReasoningDelta(i, piece) for piece in cuts(block.text))]
            queue += [ReasoningDelta(i, "", piece) for piece in cuts(block.signature or "") if piece]
        elif isinstance(block, ToolUseBlock):
            queue.append(BlockStart(i, "tool_use", block.id, block.name))
            queue += [InputDelta(i, piece) for piece in cuts(block.input)]
        if draw(st.booleans()):
            queue.append(BlockStop(i))
        queues.append(queue)
    out: list[Chunk] = []
    begun = 0
    while any(queues):
        open_ones = [i for i in range(begun) if queues[i]]
        if begun < len(queues):
            open_ones.append(begun)
        i = draw(st.sampled_from(open_ones))
        begun = max(begun, i + 1)
        out.append(queues[i].pop(0))
    return [*out, END]


@given(st.data())
def test_any_chunking_folds_to_the_same_reply(data: st.DataObject) -> None:
    whole = data.draw(blocks())
    assert fold(data.draw(chunkings(whole))) == Reply(tuple(map(expected, whole)))


@given(st.data())
def test_what_is_shown_adds_up_to_what_is_kept(data: st.DataObject) -> None:
    whole = data.draw(blocks())
    chunks = data.draw(chunkings(whole))
    assembler = Assembler()
    seen: dict[int, str] = {}
    for at, chunk in enumerate(chunks):
        shown = assembler.feed(chunk)
        if shown is not None:
            assert shown.opens == (shown.block not in seen)
            assert shown.offset == len(seen.get(shown.block, ""))
            seen[shown.block] = seen.get(shown.block, "") + shown.text
        if at % 3 == 0:
            assert {entry.block: entry.text for entry in assembler.so_far()} == seen
    for index, block in enumerate(assembler.finish().blocks):
        if isinstance(block, TextBlock | ReasoningBlock):
            # Half a pair at the end of a block that was never stopped is mended in the reply only.
            assert block.text in (seen[index], seen[index] + "\ufffd")
        else:
            assert index not in seen


@given(st.data())
def test_every_prefix_of_a_stream_is_truncated(data: st.DataObject) -> None:
    chunks = data.draw(chunkings(data.draw(blocks())))
    short = chunks[: data.draw(st.integers(0, len(chunks) - 1))]
    with pytest.raises(ProviderError) as caught:
        fold(short, provider="acme")
    assert caught.value.code == "truncated"
    assert caught.value.retryable
    assert "acme" in caught.value.message


def test_halves_of_a_character_in_two_chunks_are_joined_and_shown_once() -> None:
    assembler = Assembler()
    feeds = [BlockStart(0, "text"), TextDelta(0, "a\ud83d"), TextDelta(0, "\ude00b"), TextDelta(0, "\ud83d")]
    assert [shown and shown.text for shown in map(assembler.feed, feeds)] == ["", "a", "😀b", None]
    last = assembler.feed(BlockStop(0))
    assert last is not None
    assert (last.text, last.offset) == ("\ufffd", 3)
    assembler.feed(END)
    assert assembler.finish().text == "a😀b\ufffd"


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ('{"a": ', "no JSON text"),
        ("[1]", "not an object"),
        ('"x"', "not an object"),
        ('{"a": NaN}', "NaN"),
        ('{"a":1,"a":2}', "twice"),
        ("[" * 5000 + "]" * 5000, "nest"),
    ],
)
def test_wrong_arguments_are_told_with_the_raw_text(raw: str, reason: str) -> None:
    reply = fold([BlockStart(0, "text"), BlockStart(1, "tool_use", "i", "t"), InputDelta(1, raw), END])
    assert reply.blocks[1] == ToolUseBlock("i", "t", dump({}))
    (bad,) = reply.bad_inputs
    assert (bad.block, bad.raw) == (1, raw)
    assert reason in bad.reason


@pytest.mark.parametrize("raw", ["", "  ", "null", "{}", " { } "])
def test_no_arguments_are_an_empty_object(raw: str) -> None:
    reply = fold([BlockStart(0, "tool_use", "i", "t"), InputDelta(0, raw), END])
    assert reply.blocks == (ToolUseBlock("i", "t", dump({})),)
    assert reply.bad_inputs == ()


@pytest.mark.parametrize("raw", ["", '{"a": "b'])
def test_a_call_cut_by_the_length_limit_is_not_run_with_half_its_arguments(raw: str) -> None:
    start = BlockStart(0, "tool_use", "i", "t")
    reply = fold([start, InputDelta(0, raw), ReplyEnd(StopReason.LENGTH, "max_tokens")])
    assert reply.bad_inputs == (BadInput(0, raw, "The reply reached its length limit in the middle of the arguments."),)
    assert (reply.stop, reply.raw_stop) == (StopReason.LENGTH, "max_tokens")


def test_ids_that_are_missing_or_given_twice_are_made_different() -> None:
    starts = [BlockStart(i, "tool_use", own, "t") for i, own in enumerate(["", "x", "x", "x-4", "x"])]
    ids = [block.id for _, block in fold([*starts, END]).calls]
    assert ids[1] == "x"
    assert len(set(ids)) == 5
    assert all(ids)


def test_whole_blocks_opaque_parts_usage_and_end_are_kept() -> None:
    image = MediaBlock("image", "image/png", data="AA==")
    reply = fold(
        [
            UsageReport(Usage(input=9, cache_read=4)),
            BlockWhole(0, TextBlock("w\ud800")),
            BlockWhole(1, image),
            BlockStart(2, "reasoning", opaque=dump("start"), redacted=True),
            BlockStop(2, opaque=dump("stop")),
            UsageReport(Usage(input=0, output=7, reasoning=2, cost_nanos=5)),
            UsageReport(Usage(input=2, output=3, reasoning=1, cost_nanos=4, cache_write=1)),
            ReplyEnd(StopReason.REFUSAL, "refused", "m-1", "r-1", "acme-eu"),
        ],
        provider="acme",
        model="m",
    )
    assert reply == Reply(
        (TextBlock("w\ufffd"), image, ReasoningBlock("", None, True, dump("stop"))),
        StopReason.REFUSAL,
        Usage(9, 7, 4, 1, 2, 5),
        "acme-eu",
        "m-1",
        "refused",
        "r-1",
    )
    shown = Assembler().feed(BlockWhole(0, TextBlock("abc")))
    assert shown is not None
    assert (shown.kind, shown.text, shown.opens) == ("text", "abc", True)


@pytest.mark.parametrize(
    ("chunks", "says"),
    [
        ([TextDelta(0, "x")], "never begun"),
        ([BlockStart(0, "text"), TextDelta(-1, "x")], "never begun"),
        ([BlockStart(1, "text")], "without gaps"),
        ([BlockStart(0, "text"), BlockStart(0, "text")], "without gaps"),
        ([BlockStart(0, "text"), InputDelta(0, "x")], "which is text"),
        ([BlockStart(0, "text"), ReasoningDelta(0, signature="x")], "which is text"),
        ([BlockStart(0, "text"), BlockStop(0), TextDelta(0, "x")], "was complete"),
        ([BlockStart(0, "text"), BlockStop(0), BlockStop(0)], "was complete"),
        ([BlockWhole(0, TextBlock("a")), TextDelta(0, "x")], "was complete"),
        ([END, UsageReport(Usage())], "after the end"),
        (["x"], "no chunk"),
    ],
)
def test_a_stream_that_breaks_the_contract_is_no_reply(chunks: list[Chunk], says: str) -> None:
    assembler = Assembler("acme", "m")
    for chunk in chunks[:-1]:
        assembler.feed(chunk)
    with pytest.raises(ProviderError, match=says) as caught:
        assembler.feed(chunks[-1])
    assert caught.value.code == "protocol"
    with pytest.raises(ProviderError, match=says):
        assembler.finish()


def test_an_error_in_mid_stream_is_raised_and_the_usage_is_known() -> None:
    assembler = Assembler()
    error = provider_error("overloaded", "busy", retry_after_s=2)
    for chunk in (UsageReport(Usage(input=3)), BlockStart(0, "text"), TextDelta(0, "Hal"), ReplyError(error)):
        assembler.feed(chunk)
    assert assembler.ended
    assert assembler.usage == Usage(input=3)
    with pytest.raises(ProviderError) as caught:
        assembler.finish()
    assert caught.value is error


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (7, 7), (0, 0), (-7, 0), (True, 0), (7.0, 7), (7.5, 0), (float("nan"), 0), (float("inf"), 0), ("7", 0),
        (None, 0), (2**53 - 1, 2**53 - 1), (2**53, 2**53 - 1), (10**4_000, 2**53 - 1), (1e300, 2**53 - 1),
    ],
)  # fmt: skip
def test_usage_is_counted_in_numbers_that_can_be_read_back(given: Any, kept: int) -> None:
    reply = fold([UsageReport(Usage(given, given, given, given, given, given)), END])
    assert reply.usage == Usage(kept, kept, kept, kept, kept, kept)
    assert all(type(getattr(reply.usage, name)) is int for name in Usage.__slots__)


def test_of_two_reports_the_larger_number_counts() -> None:
    reports = [UsageReport(Usage(input=3, output=1)), UsageReport(Usage(input=2, output=5))]
    assert fold([*reports, END]).usage == Usage(input=3, output=5)
