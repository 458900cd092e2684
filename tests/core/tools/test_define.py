"""`@tool`: what becomes of a signature and a docstring, of arguments, and of what a function returns."""

from __future__ import annotations

import dataclasses
import pickle
import threading
from collections.abc import Callable
from enum import Enum
from typing import Annotated, Any, Literal

import anyio
import anyio.from_thread
import pytest
from pydantic import BaseModel, Field

from kode.core import jsontext
from kode.core.clock import RealClock
from kode.core.errors import SandboxUnavailableError, UsageError
from kode.core.kernel.message import Json, MediaBlock, TextBlock
from kode.core.tools.base import Suspended, Tool, ToolContext, ToolError, ToolOutcome
from kode.core.tools.define import to_result, tool


def context(**changes: Any) -> ToolContext:
    base = ToolContext("agent", "uid1", "1.2.3", fence=4, attempt="4.1", clock=RealClock())
    return dataclasses.replace(base, **changes)


def text_of(outcome: object) -> str:
    assert isinstance(outcome, ToolOutcome)
    (block,) = outcome.content
    assert isinstance(block, TextBlock)
    return block.text


async def call(one: Tool, /, **arguments: Any) -> ToolOutcome:
    checked = one.check(jsontext.dump(arguments))
    assert isinstance(checked, dict), checked
    outcome = await one.call(context(), checked)
    assert isinstance(outcome, ToolOutcome)
    return outcome


class Colour(Enum):
    RED = "red"


class Edit(BaseModel):
    path: str
    times: int = 1


@tool(readonly=True, timeout_s=2.5, needs_approval=True, prompt="Hint.")
async def every(
    path: str,
    context: ToolContext,
    edits: list[Edit],
    mode: Literal["a", "b"] = "a",
    colour: Colour = Colour.RED,
    size: Annotated[int, Field(ge=1, description="From the annotation.")] = 1,
    tags: list[str] = ["x"],  # noqa: B006 - pydantic copies it
    note: str | None = None,
    json: bool = False,
    schema: dict[str, int] | None = None,
) -> str:
    """Do everything.

    In two paragraphs.

    Args:
        path: Where
            to look: here.
        context: Not shown.
        edits (list): What to change.
        mode: How.
        size: From the docstring.

    Returns:
        Not shown.
    """
    assert context.agent_id == "agent"
    tags.append("changed")
    kinds = [type(edit).__name__ for edit in edits]
    return f"{path} {kinds} {mode} {colour} {size} {tags} {note} {json} {schema}"


# ---- definition --------------------------------------------------------------------------------------------


def test_signature_and_docstring_become_the_schema() -> None:
    assert every.name == "every"
    assert every.description == "Do everything.\n\nIn two paragraphs."
    schema = jsontext.parse(every.input_schema)
    assert schema["type"] == "object"
    assert schema["required"] == ["path", "edits"]
    assert schema["additionalProperties"] is False
    properties = schema["properties"]
    assert "context" not in properties
    assert list(properties) == ["path", "edits", "mode", "colour", "size", "tags", "note", "json", "schema"]
    assert properties["path"] == {"type": "string", "description": "Where to look: here."}
    assert properties["edits"]["description"] == "What to change."
    assert properties["mode"] == {"type": "string", "enum": ["a", "b"], "default": "a", "description": "How."}
    assert properties["size"]["description"] == "From the annotation."
    assert properties["size"]["minimum"] == 1
    assert properties["tags"] == {"type": "array", "items": {"type": "string"}, "default": ["x"]}
    assert schema["$defs"]["Edit"]["required"] == ["path"]
    assert "title" not in every.input_schema
    assert (every.readonly, every.recovery, every.timeout_s, every.needs_approval) == (
        True,
        "retry",
        2.5,
        True,
    )


def test_flags_have_careful_defaults() -> None:
    @tool
    def plain() -> None:
        """Do."""

    assert (plain.readonly, plain.recovery, plain.timeout_s, plain.needs_approval) == (
        False,
        "seal",
        None,
        False,
    )
    assert jsontext.parse(plain.input_schema) == {
        "type": "object",
        "properties": {},
        "additionalProperties": False,
    }


def test_types_of_the_defining_function_are_found() -> None:
    class Local(BaseModel):
        x: int

    @tool
    def nested(local: Local) -> int:
        """Do."""
        return local.x

    assert nested.check(Json('{"local":{"x":1}}')) == {"local": Local(x=1)}


def untyped(x) -> None:  # type: ignore[no-untyped-def]
    """Do."""


def silent(x: int) -> None: ...


def star(*x: int) -> None:
    """Do."""


def stars(**x: int) -> None:
    """Do."""


def positional(x: int, /) -> None:
    """Do."""


def wrong_doc(x: int) -> None:
    """Do.

    Args:
        y: There is none.
    """


def unknown_type(x: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Do."""


def no_schema(x: threading.Lock) -> None:
    """Do."""


def two_contexts(a: ToolContext, b: ToolContext) -> None:
    """Do."""


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (untyped, "'x' has no type"),
        (silent, "no description"),
        (star, "cannot be passed by name"),
        (stars, "cannot be passed by name"),
        (positional, "cannot be passed by name"),
        (wrong_doc, "describes 'y'"),
        (unknown_type, "Nowhere"),
        (no_schema, "no schema"),
        (two_contexts, "two parameters"),
        (lambda: None, "not allowed"),
        (3, "needs a function"),
    ],
)
def test_a_bad_definition_is_refused_at_once(function: Callable[..., Any], why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        tool(description="x" if why == "not allowed" else None)(function)
    assert caught.value.code == "bad_tool"


@pytest.mark.parametrize("name", ["", "a b", "a.b", "x" * 65, "é", "a\n"])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="not allowed"):
        tool(name=name, description="d")(silent)


@pytest.mark.parametrize(
    "flags",
    [{"recovery": "again"}, {"timeout_s": 0}, {"timeout_s": float("nan")}, {"input_schema": Json("[]")}],
)
def test_bad_flags_are_refused(flags: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        dataclasses.replace(every, **flags)
    assert caught.value.code == "bad_tool"


def test_the_digest_is_of_name_schema_and_flags() -> None:
    assert dataclasses.replace(every, description="other", prompt=None).digest == every.digest
    for change in (
        {"name": "x"},
        {"readonly": False},
        {"recovery": "ask"},
        {"input_schema": '{"type":"object"}'},
    ):
        assert dataclasses.replace(every, **change).digest != every.digest


# ---- arguments ---------------------------------------------------------------------------------------------


async def test_arguments_come_as_the_function_takes_them() -> None:
    for _ in range(2):  # the mutable default is not shared
        outcome = await call(every, path="p", edits=[{"path": "q"}], size="3", schema={"a": 1})
        assert text_of(outcome) == "p ['Edit'] a Colour.RED 3 ['x', 'changed'] None False {'a': 1}"


def test_bad_arguments_are_told_so_that_they_can_be_mended() -> None:
    text = every.check(jsontext.dump({"edits": [{"path": 1}], "mode": "c", "size": 0, "paht": "x", "tags": "y" * 999}))
    assert isinstance(text, str)
    assert text.splitlines()[0] == "The arguments of every are not valid:"
    assert "- path: is required and was not given" in text
    assert "- edits.0.path: Input should be a valid string; given was 1" in text
    assert "- mode: Input should be 'a' or 'b'; given was 'c'" in text
    assert "- size: Input should be greater than or equal to 1; given was 0" in text
    assert "- paht: there is no such argument; known are: path, edits," in text
    assert len(text) < 1_500


@pytest.mark.parametrize("arguments", ["[]", "null", "1", '"x"', "{", ""])
def test_arguments_that_are_no_object(arguments: str) -> None:
    assert isinstance(every.check(Json(arguments)), str)


def test_a_tool_with_a_foreign_schema_takes_any_object() -> None:
    async def run(context: ToolContext, arguments: dict[str, Any]) -> ToolOutcome:
        return ToolOutcome.of("x")

    foreign = Tool("mcp", "From elsewhere.", Json('{"type":"object"}'), run)
    assert foreign.check(Json('{"a":[1]}')) == {"a": [1]}
    for bad in ("[1]", "{", "null"):
        assert isinstance(foreign.check(Json(bad)), str)


# ---- results -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("text", "text"),
        ("a\ud800", "a\ufffd"),
        (None, "null"),
        ({"a": (1, 2.5)}, '{"a":[1,2.5]}'),
        ([], "[]"),
        (Edit(path="p"), '{"path":"p","times":1}'),
        (Colour.RED, '"red"'),
        (b"bytes", '"bytes"'),
        (float("nan"), '"NaN"'),
    ],
)
def test_values_become_text(value: object, text: str) -> None:
    assert to_result(value) == ToolOutcome.of(text)


def test_blocks_and_results_are_kept() -> None:
    image = MediaBlock("image", url="https://example.org/a.png")
    assert to_result(image) == ToolOutcome((image,))
    assert to_result([TextBlock("a"), image]) == ToolOutcome((TextBlock("a"), image))
    outcome = ToolOutcome.of("a", is_error=True, cut_bytes=3)
    assert to_result(outcome) is outcome
    assert to_result(Suspended(due_at=5)) == Suspended(due_at=5)
    with pytest.raises(UsageError):
        to_result(object())


# ---- failures ----------------------------------------------------------------------------------------------


class Unsaid(Exception):  # noqa: N818 - its name is its point
    """It cannot even say what it is."""

    def __str__(self) -> str:
        raise ValueError("no words")


class Bare(ToolError):  # noqa: N818 - its name is its point
    """Its base was never made."""

    def __init__(self) -> None:
        pass


def failing(error: BaseException) -> Tool:
    @tool(name="failing", description="Fail.")
    async def run() -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            ToolError(
                "No such city.",
                retryable=True,
                hints=("Try Bonn.",),
                code="no_city",
                city="Ulm",
                at=Colour.RED,
            ),
            {
                "error": "No such city.",
                "code": "no_city",
                "retryable": True,
                "city": "Ulm",
                "at": "Colour.RED",
                "hints": ["Try Bonn."],
            },
        ),
        (
            SandboxUnavailableError("Away."),
            {"error": "Away.", "code": "sandbox_unavailable", "retryable": True},
        ),
        (KeyError("k"), {"error": "KeyError: 'k'", "code": "exception", "retryable": False}),
        (
            ExceptionGroup("g", [OSError("x")]),
            {"error": "OSError: x", "code": "exception", "retryable": False},
        ),
        (RecursionError(), {"error": "RecursionError: ", "code": "exception", "retryable": False}),
        (
            Unsaid(),
            {"error": "Unsaid: (Unsaid that cannot be written)", "code": "exception", "retryable": False},
        ),
        (
            ToolError("m", n=10**5_000, odd=Unsaid(), fine=7, hints=(Unsaid(),)),  # type: ignore[arg-type]
            {
                "error": "m",
                "code": "tool",
                "retryable": False,
                "n": "(int that cannot be written)",
                "odd": "(Unsaid that cannot be written)",
                "fine": 7,
                "hints": ["(Unsaid that cannot be written)"],
            },
        ),
        (Bare(), {"error": "Bare: ", "code": "exception", "retryable": False}),
        (SystemExit(3), {"error": "SystemExit: 3", "code": "exception", "retryable": False}),
        (
            BaseExceptionGroup("g", [SystemExit(3)]),
            {"error": "SystemExit: 3", "code": "exception", "retryable": False},
        ),
        (
            ValueError(10**5_000),
            {"error": "ValueError: (ValueError that cannot be written)", "code": "exception", "retryable": False},
        ),
    ],
)
async def test_what_a_tool_raises_is_told_to_the_model(error: Exception, told: dict[str, Any]) -> None:
    outcome = await failing(error).call(context(), {})
    assert isinstance(outcome, ToolOutcome)
    assert outcome.is_error
    assert jsontext.parse(text_of(outcome)) == told


def test_a_tool_error_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(ToolError("x", retryable=True, hints=("h",), code="c", field=1)))
    assert (error.message, error.retryable, error.hints, error.code, error.fields) == (
        "x",
        True,
        ("h",),
        "c",
        {"field": 1},
    )


async def test_cancellation_passes_through() -> None:
    @tool(description="Wait.")
    async def wait() -> None:
        await anyio.sleep_forever()

    with anyio.move_on_after(0.01) as scope:
        await wait.call(context(), {})
    assert scope.cancelled_caught


# ---- the context -------------------------------------------------------------------------------------------


async def test_the_context_tells_observers() -> None:
    told: list[object] = []
    loop = threading.get_ident()

    def on_emit(name: str, data: Json) -> None:
        told.append((name, data, threading.get_ident() == loop))

    def on_progress(text: str) -> None:
        told.append((text, threading.get_ident() == loop))

    def both(context: ToolContext) -> str:
        """Tell."""
        context.check_cancelled()
        context.emit("mine", {"b": 1, "a": [None]})
        context.progress("half")
        context.progress("")
        return context.idempotency_key

    async def same(context: ToolContext) -> str:
        """Tell."""
        return both(context)

    for function in (both, same):
        told.clear()
        outcome = await tool(function).call(context(on_emit=on_emit, on_progress=on_progress), {})
        assert text_of(outcome) == "uid1:1.2.3"
        assert told == [("mine", '{"b":1,"a":[null]}', True), ("half", True)]
    context().emit("nobody", {})
    with pytest.raises(UsageError):
        context().emit("bad", {"x": object()})
    with pytest.raises(ToolError, match="no sandbox"):
        context().need_sandbox()
    assert context().suspend(due_at=1, child="c") == Suspended(1, "c")


async def test_a_plain_function_does_not_block_and_can_notice_its_end() -> None:
    started, noticed = anyio.Event(), threading.Event()

    @tool
    def busy(context: ToolContext) -> None:
        """Work."""
        anyio.from_thread.run_sync(started.set)
        for _ in range(1_000):
            try:
                context.check_cancelled()
            except BaseException:
                noticed.set()
                raise
            threading.Event().wait(0.01)

    async with anyio.create_task_group() as group:
        group.start_soon(busy.call, context(), {})
        await started.wait()
        group.cancel_scope.cancel()
    assert noticed.wait(5)
