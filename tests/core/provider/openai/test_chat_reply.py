"""Frames in, chunks out: whatever servers leave out or repeat, one meaning is read, and a cut reply is none."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kode.core.errors import ProviderError
from kode.core.kernel.message import Json, ReasoningBlock, TextBlock, ToolUseBlock, Usage
from kode.core.kernel.words import StopReason
from kode.core.provider import Prices, Reply, fold
from kode.core.provider.openai.chat_reply import ChatReply


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": fields, "finish_reason": finish}
    return {"id": "chatcmpl-9", "model": "m-9", "choices": [choice]}


def part(index: int | str | None = None, id: str | None = None, name: str | None = None, arguments: Any = None) -> Any:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    entry = {"index": index, "id": id, "function": function}
    return {key: value for key, value in entry.items() if value is not None}


def tools(*parts: Any, finish: str | None = None) -> dict[str, Any]:
    return delta(finish, tool_calls=list(parts))


def read(frames: Iterable[Any], *, done: bool = True, prices: Prices | None = None) -> Reply:
    reply = ChatReply("openai", "m", prices)
    chunks = [chunk for frame in frames for chunk in reply.feed(frame if isinstance(frame, str) else json.dumps(frame))]
    chunks += reply.feed("[DONE]") if done else reply.end()
    return fold(chunks, provider="openai", model="m")


def made(reply: Reply) -> list[tuple[str, str, str]]:
    return [(block.id, block.name, block.input) for _, block in reply.calls]


def test_text_usage_and_names() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 5}}
    frames = [
        delta(role="assistant", content=""), delta(content="He"), delta(content="llo"), delta("stop"),
        {"id": "chatcmpl-9", "choices": [], "usage": usage},
    ]  # fmt: skip
    reply = read(frames, prices=Prices(input=2.0, output=4.0, cache_read=1.0))
    assert reply.blocks == (TextBlock("Hello"),)
    assert reply.usage == Usage(9, 4, cache_read=5, cost_nanos=29_000)
    assert (reply.model, reply.id, reply.raw_stop) == ("m-9", "chatcmpl-9", "stop")


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 1}},
         Usage(3, 2, reasoning=1)),
        ({"prompt_tokens": 3, "completion_tokens": 2, "prompt_cache_hit_tokens": 2}, Usage(3, 2, cache_read=2)),
        ({"prompt_tokens": None, "completion_tokens": "2", "prompt_tokens_details": None}, Usage()),
        ({"prompt_tokens": True, "completion_tokens": 2.0, "completion_tokens_details": {"reasoning_tokens": 0.5}},
         Usage(0, 2)),
        ({"prompt_tokens": 2**60, "prompt_cache_hit_tokens": 2**61}, Usage(2**53 - 1, cache_read=2**53 - 1)),
        ({"prompt_tokens": -1, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 9}}, Usage(0, 2)),
    ],
)  # fmt: skip
def test_usage_may_come_anywhere_and_odd(usage: Any, expected: Usage) -> None:
    anywhere = {**delta("stop", content="a"), "usage": usage}
    assert read([anywhere]).usage == expected
    in_choice = delta("stop", content="a")
    in_choice["choices"][0]["usage"] = usage
    assert read([in_choice]).usage == expected


CALLS = {
    "fragments by index": [
        tools(part(0, "a", "f", "")), tools(part(0, arguments='{"x"')), tools(part(1, "b", "g", "{")),
        tools(part(0, arguments=":1}")), tools(part(1, arguments='"y":2}')),
    ],
    "both whole in one frame": [tools(part(0, "a", "f", '{"x":1}'), part(1, "b", "g", '{"y":2}'))],
    "arguments as objects": [tools(part(0, "a", "f", {"x": 1}), part(1, "b", "g", {"y": 2}))],
    "index missing": [
        tools(part(id="a", name="f")), tools(part(arguments='{"x":')), tools(part(arguments="1}")),
        tools(part(id="b", name="g", arguments='{"y":2}')),
    ],
    "index missing, ids repeated": [
        tools(part(id="a", name="f", arguments="{")), tools(part(id="b", name="g", arguments='{"y"')),
        tools(part(id="a", arguments='"x":1}')), tools(part(id="b", name="g", arguments=":2}")),
    ],
    "ids and names repeated": [
        tools(part(0, "a", "f", "{")), tools(part(0, "a", "f", '"x":1}')),
        tools(part(1, "b", "g", "{")), tools(part(1, "b", "g", '"y":2}')),
    ],
    "every call has number 0": [
        tools(part(0, "a", "f", '{"x"')), tools(part(0, arguments=":1}")),
        tools(part(0, "b", "g", '{"y"')), tools(part(0, arguments=":2}")),
    ],
    "name after id and arguments": [
        tools(part(0, "a")), tools(part(0, arguments='{"x"')), tools(part(0, name="f", arguments=":1}")),
        tools(part(1, "b", "g", '{"y":2}')),
    ],
    "new id with each fragment": [
        tools(part(0, "a", "f", '{"x"')), tools(part(0, "z", arguments=":1}")), tools(part(1, "b", "g", '{"y":2}')),
    ],
    "index as text": [
        tools(part("0", "a", "f", "{"), part("1", "b", "g", "{")), tools(part("0", arguments='"x":1}')),
        tools(part("1", arguments='"y":2}')),
    ],
    "a whole completion": [
        {"choices": [{"message": {"content": None, "tool_calls": [
            part(id="a", name="f", arguments='{"x":1}'), part(id="b", name="g", arguments='{"y":2}')]}}]},
    ],
}  # fmt: skip


@pytest.mark.parametrize("frames", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("finish", ["tool_calls", "stop"])
def test_tool_calls_in_every_shape(frames: list[Any], finish: str) -> None:
    reply = read([*frames, delta(finish)])
    assert made(reply) == [("a", "f", '{"x":1}'), ("b", "g", '{"y":2}')]
    assert reply.stop is StopReason.END_TURN
    assert reply.bad_inputs == ()


def test_the_old_form_of_a_single_call() -> None:
    frames = [
        delta(function_call={"name": "f", "arguments": ""}), delta(function_call={"arguments": '{"x"'}),
        delta(function_call={"arguments": ":1}"}), delta("function_call"),
    ]  # fmt: skip
    whole = {
        "choices": [{"message": {"function_call": {"name": "f", "arguments": '{"x":1}'}}, "finish_reason": "stop"}]
    }
    for reply in (read(frames), read([whole])):
        ((id, *call),) = made(reply)
        assert id
        assert call == ["f", '{"x":1}']


@pytest.mark.parametrize("finish", ["tool_calls", "function_call"])
def test_calls_that_never_come_are_no_empty_success(finish: str) -> None:
    with pytest.raises(ProviderError, match=f"stopped with '{finish}', but sent no call") as caught:
        read([delta(content=""), delta(finish)])
    assert (caught.value.code, caught.value.retryable) == ("protocol", True)


def test_many_calls_cost_what_they_are() -> None:
    """Each entry looks its call up at once: twice the calls take twice the steps, not four times."""

    def steps(many: int) -> int:
        entries = [part(None, f"c{n}", "f", "{}") for n in range(many)]
        taken = 0

        def count(*_: Any) -> Any:
            nonlocal taken
            taken += 1
            return count  # a line, or once more round a loop

        reply = ChatReply("openai", "m")
        frame = json.dumps(tools(*entries))
        before = sys.gettrace()
        sys.settrace(count)
        try:
            reply.feed(frame)
        finally:
            sys.settrace(before)
        return taken

    assert steps(400) < 3 * steps(200)


def test_calls_without_ids_or_with_one_id_get_their_own() -> None:
    without = read([tools(part(0, name="f", arguments="{}"), part(1, name="g", arguments="{}"), finish="stop")])
    twice = read([tools(part(0, "call_0", "f", "{}"), part(1, "call_0", "g", "{}"), finish="stop")])
    for reply in (without, twice):
        assert [name for _, name, _ in made(reply)] == ["f", "g"]
        assert len({id for id, _, _ in made(reply)}) == 2
        assert all(id for id, _, _ in made(reply))


def test_blocks_are_numbered_as_they_start() -> None:
    frames = [
        delta(reasoning_content="think"), delta(content="say"), tools(part(0, "a", "f", "{")), delta(content="more"),
        tools(part(0, arguments="}")), delta(reasoning="again"), delta("stop"),
    ]  # fmt: skip
    assert read(frames).blocks == (
        ReasoningBlock("think"), TextBlock("say"), ToolUseBlock("a", "f", Json("{}")), TextBlock("more"),
        ReasoningBlock("again"),
    )  # fmt: skip


def test_empty_and_null_pieces_begin_no_block() -> None:
    frames = [
        delta(content=None, reasoning_content="a", tool_calls=None), delta(content="", reasoning_content="b"),
        delta(content="c", reasoning_content=None, refusal=None),
        delta(content="d", reasoning_content="", reasoning={}),
        delta("stop", content=""),
    ]  # fmt: skip
    assert read(frames).blocks == (ReasoningBlock("ab"), TextBlock("cd"))


def test_content_as_parts_and_halves_of_a_character() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    frames: list[Any] = [delta(content=parts), '{"choices":[{"delta":{"content":"\\ud83d"}}]}']
    frames += ['{"choices":[{"delta":{"content":"\\ude00"}}]}', delta("stop")]
    assert read(frames).text == "ab😀"


@pytest.mark.parametrize(
    ("finish", "stop"),
    [
        ("stop", StopReason.END_TURN), ("length", StopReason.LENGTH), ("content_filter", StopReason.CONTENT_FILTER),
        ("tool_calls", StopReason.END_TURN), ("eos", StopReason.END_TURN),
    ],
)  # fmt: skip
def test_why_it_stopped(finish: str, stop: StopReason) -> None:
    reply = read([delta(content="a"), delta(finish)])
    assert (reply.stop, reply.raw_stop) == (stop, finish)


def test_a_refusal_is_text_and_says_so() -> None:
    reply = read([delta(refusal="I can"), delta(refusal="not."), delta("stop")])
    assert (reply.text, reply.stop) == ("I cannot.", StopReason.REFUSAL)


def test_length_in_the_middle_of_arguments() -> None:
    reply = read([tools(part(0, "a", "f", '{"x": "lo')), delta("length")])
    assert reply.stop is StopReason.LENGTH
    assert [bad.block for bad in reply.bad_inputs] == [0]


# ---- complete or cut ------------------------------------------------------------------------------------------------


def test_done_is_not_needed_behind_a_reason() -> None:
    assert read([delta(content="a"), delta("stop")], done=False).text == "a"


def test_done_alone_ends_a_reply_that_has_begun() -> None:
    assert read([delta(content="a")]).text == "a"


@pytest.mark.parametrize(("frames", "done"), [([], False), ([delta(content="a")], False), ([], True)])
def test_what_ends_without_either_was_cut(frames: list[Any], done: bool) -> None:
    with pytest.raises(ProviderError) as caught:
        read(frames, done=done)
    assert (caught.value.code, caught.value.retryable) == ("truncated", True)


@pytest.mark.parametrize(
    ("frame", "code", "retryable"),
    [
        ({"error": {"message": "The server had an error.", "type": "server_error"}}, "overloaded", True),
        ({"error": {"message": "Slow down.", "code": "rate_limit_exceeded"}}, "rate_limited", True),
        ({"error": {"message": "Upstream.", "code": 502}, "choices": [{"delta": {}, "finish_reason": "error"}]},
         "overloaded", True),
        ({"error": "out of memory"}, "overloaded", True),
        ({"object": "error", "message": "maximum context length is 8", "code": 400}, "context_too_long", False),
        ({"error": {"message": "No.", "code": "content_filter"}}, "content_filtered", False),
        (delta("error"), "overloaded", True),
        ("nonsense", "protocol", True),
        ("[1]", "protocol", True),
        ("[" * 100_000, "protocol", True),
        (tools(part(0, "a", arguments="{}"), finish="stop"), "protocol", True),
    ],
)  # fmt: skip
def test_errors_in_mid_stream(frame: Any, code: str, retryable: bool) -> None:
    with pytest.raises(ProviderError) as caught:
        read([delta(content="a"), frame, delta(content="never read"), delta("stop")])
    assert (caught.value.code, caught.value.retryable) == (code, retryable)


@pytest.mark.parametrize(
    "late", [{"error": {"message": "Late.", "code": 500}}, {"object": "error", "message": "Late."}, "nonsense", "[1]"]
)
def test_an_error_behind_a_complete_reply_is_of_no_account(late: Any) -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 3}}
    reply = read([delta(content="a"), delta("stop"), usage, late, delta(content="never read")])
    assert (reply.text, reply.usage.input) == ("a", 3)


def test_names_from_the_server_are_fit_to_be_shown() -> None:
    reply = ChatReply("openai", "m", hide=lambda text: text.replace("sk-1", "***"))
    frame = {**delta("sk-1\x9b", content="a"), "model": "m\x1b[31m sk-1" + "x" * 1_000, "id": "\x00"}
    end = fold([*reply.feed(json.dumps(frame)), *reply.end()])
    assert end.model.startswith("m [31m ***xxx")
    assert len(end.model) == 200
    assert (end.id, end.raw_stop) == (None, "***")


def test_a_stream_that_begins_with_nonsense_is_another_protocol() -> None:
    with pytest.raises(ProviderError) as caught:
        read(["nonsense"])
    assert (caught.value.code, caught.value.retryable) == ("protocol", False)


def test_other_choices_and_frames_after_the_end_are_left_out() -> None:
    second = {"choices": [{"index": 1, "delta": {"content": "other"}}]}
    reply = ChatReply()
    chunks = [*reply.feed(json.dumps(delta("stop", content="a"))), *reply.feed(json.dumps(second))]
    chunks += [*reply.feed("[DONE]"), *reply.feed(json.dumps(delta(content="late")))]
    assert fold(chunks).text == "a"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.sampled_from(["stop", "f"]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
            st.sampled_from(["choices", "delta", "content", "tool_calls", "function", "name", "arguments", "index",
                             "id", "usage", "error", "message", "finish_reason", "prompt_tokens", "reasoning"]), inner),
        max_leaves=12,
    )
)  # fmt: skip
def test_no_frame_whatever_it_holds_gets_through_as_another_error(value: Any) -> None:
    framed = [value, {"choices": value}, {"choices": [value]}, {"choices": [{"delta": value, "finish_reason": "stop"}]}]
    framed += [{"choices": [{"delta": {"tool_calls": value}}]}, {"error": value, "usage": value}]
    for frame in framed:
        try:
            read([frame])
        except ProviderError:
            pass


def test_a_message_behind_its_deltas_says_nothing_new() -> None:
    whole = {"index": 0, "delta": {}, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
    assert read([delta(content="Hello"), {"id": "x", "choices": [whole]}]).text == "Hello"
    assert read([{"id": "x", "choices": [whole]}]).text == "Hello"
