"""Makes a ``Tool`` of a Python function: signature and docstring become what the model is shown.

    @tool(readonly=True, recovery="retry")
    async def word_count(path: str, context: ToolContext, unique: bool = False) -> int:
        '''Count the words of a text file.'''

What is compiled is compiled here, once per definition; a call is checked by pydantic-core alone.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints, overload

import anyio.from_thread
from pydantic import ConfigDict, Field, PydanticUserError, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import to_json

from kode.core import jsontext
from kode.core.errors import UsageError
from kode.core.kernel.message import BlobBlock, Json, MediaBlock, TextBlock
from kode.core.kernel.toolcall import Recovery
from kode.core.tools.base import Suspended, Tool, ToolContext, ToolOutcome, ToolResult
from kode.core.tools.docstring import parse_docstring
from kode.core.tools.threads import in_thread

if TYPE_CHECKING:
    from kode.core.hook.base import Hooks

__all__ = ["to_result", "tool"]

MAX_PROBLEMS = 10
"""Told to the model of one bad call."""


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...


@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    readonly: bool = False,
    recovery: Recovery | None = None,
    timeout_s: float | None = None,
    needs_approval: bool = False,
    prompt: str | None = None,
    hooks: Hooks | None = None,
    spawns: bool = False,
) -> Callable[[Callable[..., Any]], Tool]: ...


def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    readonly: bool = False,
    recovery: Recovery | None = None,
    timeout_s: float | None = None,
    needs_approval: bool = False,
    prompt: str | None = None,
    hooks: Hooks | None = None,
    spawns: bool = False,
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Make a tool of a function; use it as ``@tool`` or ``@tool(readonly=True, …)``.

    Every parameter needs a type; its description comes from the docstring's ``Args:`` or from pydantic's
    ``Field``. A parameter of type ``ToolContext`` is filled in and not shown to the model. A plain function
    runs in a worker thread; when its call is cancelled the thread is left behind, so long work calls
    ``context.check_cancelled()``. It may return text, content blocks, a ``ToolOutcome``,
    ``context.suspend(…)``, or any JSON value.

    Args:
        function: An async or a plain function.
        name: What the model calls it; the function's name by default.
        description: What it does; the docstring up to its first section by default.
        readonly: It changes nothing.
        recovery: What a crash does to a call that may have started; ``retry`` if ``readonly``, else ``seal``.
        timeout_s: Seconds for one call.
        needs_approval: Ask a person before each call.
        prompt: Guidance for the system prompt.
        hooks: Hooks around its calls.
        spawns: It works through a sub-agent (``context.subagents``).

    Raises:
        UsageError: The definition cannot be a tool; the message says why.
    """
    frame = sys._getframe(1)  # noqa: SLF001 - types named in the function that defines the tool
    names = {**frame.f_locals}

    def define(function: Callable[..., Any]) -> Tool:
        if not inspect.isroutine(function):
            raise UsageError(f"@tool needs a function, not {function!r}.", code="bad_tool")
        shown = name if name is not None else function.__name__
        text = parse_docstring(inspect.getdoc(function) or "")
        told = description if description is not None else text.description
        if not told.strip():
            raise _bad(shown, "it has no description; give it a docstring, or description=…")
        arguments = _Arguments(shown, function, text.arguments, names)
        return Tool(
            name=shown,
            description=told.strip(),
            input_schema=arguments.schema,
            function=partial(_await if inspect.iscoroutinefunction(function) else _run, function, arguments.context),
            readonly=readonly,
            recovery=recovery if recovery is not None else "retry" if readonly else "seal",
            timeout_s=timeout_s,
            needs_approval=needs_approval,
            prompt=prompt,
            validate=arguments.check,
            hooks=hooks,
            spawns=spawns,
        )

    return define if function is None else define(function)


def _bad(name: str, what: str) -> UsageError:
    return UsageError(f"Tool {name!r}: {what}.", code="bad_tool", tool=name)


class _Untitled(GenerateJsonSchema):
    """Titles repeat the names, and models are charged for them."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


class _Arguments:
    """The arguments of one function, as a dataclass that pydantic checks."""

    def __init__(
        self, tool: str, function: Callable[..., Any], described: Mapping[str, str], names: dict[str, Any]
    ) -> None:
        self.tool = tool
        self.context: str | None = None
        types = _types(tool, function, names)
        parameters = inspect.signature(function).parameters
        fields: list[tuple[str, Any, Any]] = []
        for name, parameter in parameters.items():
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise _bad(tool, f"its parameter {str(parameter)!r} cannot be passed by name")
            if name not in types:
                raise _bad(tool, f"its parameter {name!r} has no type; write {name}: str, or whatever it is")
            if types[name] is ToolContext:
                if self.context is not None:
                    raise _bad(tool, "it has two parameters of type ToolContext")
                self.context = name
                continue
            fields.append((name, *_field(types[name], described.get(name), parameter.default)))
        unknown = sorted(set(described) - set(parameters))
        if unknown:
            raise _bad(tool, f"its docstring describes {', '.join(map(repr, unknown))}, which it does not take")
        self.names = tuple(name for name, _, _ in fields)
        try:
            shape = dataclasses.make_dataclass(
                "Arguments",
                fields,
                kw_only=True,
                namespace={"__pydantic_config__": ConfigDict(extra="forbid")},
            )
            self._adapter: TypeAdapter[Any] = TypeAdapter(shape)
            schema = self._adapter.json_schema(schema_generator=_Untitled)
        except (PydanticUserError, TypeError, ValueError, NameError) as error:
            raise _bad(tool, f"no schema can be made of its parameters: {str(error).partition(chr(10))[0]}") from error
        for titled in (schema, *schema.get("$defs", {}).values()):
            titled.pop("title", None)
        # pydantic puts those with defaults first; the author thought of another order.
        told = schema.pop("properties", {})
        properties = {name: told[name] for name in self.names}
        self.schema: Json = jsontext.dump({"type": "object", "properties": properties, **schema})

    def check(self, arguments: Json) -> dict[str, Any] | str:
        """Return the values to call with, or what the model has to mend."""
        try:
            values = self._adapter.validate_json(arguments)
        except ValidationError as error:
            return self._explain(error)
        return {name: getattr(values, name) for name in self.names}

    def _explain(self, error: ValidationError) -> str:
        lines = [f"The arguments of {self.tool} are not valid:"]
        problems = error.errors(include_url=False, include_context=False)
        for problem in problems[:MAX_PROBLEMS]:
            where = ".".join(map(str, problem["loc"])) or "arguments"
            if problem["type"] in ("missing", "missing_argument"):
                lines.append(f"- {where}: is required and was not given")
            elif problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
                known = ", ".join(self.names) or "none"
                lines.append(f"- {where}: there is no such argument; known are: {known}")
            else:
                lines.append(f"- {where}: {problem['msg']}; given was {_given(problem['input'])}")
        if len(problems) > MAX_PROBLEMS:
            lines.append(f"- and {len(problems) - MAX_PROBLEMS} more")
        return "\n".join(lines)


def _given(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:99] + "…"


def _types(tool: str, function: Callable[..., Any], names: dict[str, Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function, localns=names, include_extras=True)
    except (NameError, TypeError, SyntaxError) as error:
        raise _bad(tool, f"the type of a parameter cannot be resolved: {error}") from error


def _field(type_: Any, described: str | None, default: Any) -> tuple[Any, Any]:
    """Return type and default of a dataclass field; what ``Annotated`` says wins over the docstring."""
    if described:
        info = next((note for note in getattr(type_, "__metadata__", ()) if isinstance(note, FieldInfo)), None)
        if info is None or info.description is None:
            type_ = Annotated[type_, Field(description=described)]
    if default is inspect.Parameter.empty:
        return type_, dataclasses.field()
    if isinstance(default, FieldInfo):
        return type_, default
    # Through pydantic, because dataclasses refuse mutable defaults and pydantic copies them.
    return type_, Field(default=default)


# ---- calling -----------------------------------------------------------------------------------------------


async def _await(
    function: Callable[..., Any], parameter: str | None, context: ToolContext, arguments: dict[str, Any]
) -> ToolResult:
    given = {parameter: context} if parameter is not None else {}
    return to_result(await function(**given, **arguments))


async def _run(
    function: Callable[..., Any], parameter: str | None, context: ToolContext, arguments: dict[str, Any]
) -> ToolResult:
    """Call a plain function in a worker thread; what it returns may have to be awaited."""
    given = {parameter: _from_thread(context)} if parameter is not None else {}
    value = await in_thread(partial(function, **given, **arguments))
    return to_result(await value if inspect.isawaitable(value) else value)


def _from_thread(context: ToolContext) -> ToolContext:
    """Let a context be used in a worker thread: what it tells is handed to the event loop's thread."""

    def hop(target: Callable[..., None] | None) -> Callable[..., None] | None:
        return None if target is None else partial(anyio.from_thread.run_sync, target)

    return dataclasses.replace(context, on_emit=hop(context.on_emit), on_progress=hop(context.on_progress))


def to_result(value: Any) -> ToolResult:
    """Turn what a tool returned into its result.

    Results stay as they are, text becomes text, blocks become content, and all else JSON text.

    Raises:
        UsageError: It is none of these.
    """
    if isinstance(value, ToolOutcome | Suspended):
        return value
    if isinstance(value, str):
        return ToolOutcome.of(jsontext.well_formed(value))
    if isinstance(value, TextBlock | MediaBlock | BlobBlock):
        return ToolOutcome((value,))
    if (
        isinstance(value, list | tuple)
        and value
        and all(isinstance(item, TextBlock | MediaBlock | BlobBlock) for item in value)
    ):
        return ToolOutcome(tuple(value))
    try:
        return ToolOutcome.of(jsontext.dump(value))
    except UsageError:  # models, dataclasses, times, numbers that are not finite: pydantic knows them
        pass
    try:
        return ToolOutcome.of(jsontext.canonical(to_json(value, inf_nan_mode="strings").decode()))
    except ValueError as error:  # PydanticSerializationError is one
        raise UsageError(
            f"The tool returned {type(value).__name__}, which is no JSON value: {error}.",
            code="bad_tool_result",
        ) from error
