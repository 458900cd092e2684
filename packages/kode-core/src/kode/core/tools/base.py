"""The tool contract: what a tool is, what it is given, and what it may answer.

A tool is a plain value: a name, a schema, flags, and one async function. ``kode.core.tools.define.tool`` makes
one of a Python function; whoever has a JSON schema already (MCP) builds ``Tool`` directly.

A tool never breaks a run: whatever goes wrong becomes a result that the model is shown (``Tool.call``). Only
cancellation passes through, and the user's Ctrl-C.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import anyio
import anyio.from_thread

from kode.core import jsontext
from kode.core.errors import KodeError, UsageError
from kode.core.kernel.limits import Limits
from kode.core.kernel.message import Json, ResultContent, TextBlock, Usage
from kode.core.kernel.toolcall import Recovery
from kode.core.tools.documents import Documents

if TYPE_CHECKING:
    from anyio import CancelScope

    from kode.core.clock import Clock
    from kode.core.hook.base import Hooks
    from kode.core.sandbox.base import Sandbox

__all__ = [
    "Subagents",
    "Suspended",
    "Tool",
    "ToolContext",
    "ToolError",
    "ToolFunction",
    "ToolOutcome",
    "ToolResult",
    "is_failure",
]

NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}\Z")
"""What every provider takes as a tool's name."""


class ToolError(KodeError):
    """Raised by a tool to tell the model what went wrong and what to do; it becomes the call's result.

    Args:
        message: One or two sentences for the model: what happened, the value, what to do.
        retryable: Whether the same call may work later without a change.
        hints: What the model could try instead.
        code: Stable name for programs.
        **fields: Plain values that are shown beside the message.
    """

    code = "tool"

    def __init__(
        self,
        message: str,
        /,
        *,
        retryable: bool = False,
        hints: tuple[str, ...] = (),
        code: str | None = None,
        **fields: Any,
    ) -> None:
        super().__init__(message, code=code, **fields)
        self.retryable = retryable
        self.hints = tuple(hints)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, self.retryable, self.hints, self.code, self.fields))


def _rebuild(
    kind: type[ToolError],
    message: str,
    retryable: bool,
    hints: tuple[str, ...],
    code: str,
    fields: dict[str, Any],
) -> ToolError:
    error = kind.__new__(kind)
    ToolError.__init__(error, message, retryable=retryable, hints=hints, code=code, **fields)
    return error


@dataclass(frozen=True, slots=True)
class ToolOutcome:
    """A call's result as the model is shown it."""

    content: tuple[ResultContent, ...]
    is_error: bool = False
    cut_bytes: int = 0
    """Bytes of output that the tool itself left out."""
    usage: Usage | None = None
    """Tokens and cost that the tool used (a sub-agent, a model behind the tool); counted in the run."""

    @classmethod
    def of(cls, text: str, *, is_error: bool = False, cut_bytes: int = 0) -> ToolOutcome:
        """Make a result of one text."""
        return cls((TextBlock(text),), is_error, cut_bytes)


@dataclass(frozen=True, slots=True)
class Suspended:
    """The tool handed its call to someone outside, who will send ``CallResolved``.

    The agent may sleep meanwhile.
    """

    due_at: int | None = None
    """Microseconds since the epoch; then the call is closed without an answer."""
    child: str | None = None
    """Agent id of the sub-agent that will answer."""
    child_uid: str | None = None
    """Its identity."""


ToolResult: TypeAlias = ToolOutcome | Suspended


class Subagents(Protocol):
    """Starts the sub-agent that works for a call."""

    async def start(
        self,
        template: str,
        prompt: str,
        *,
        model: str | None = None,
        tools: Sequence[str] | None = None,
        limits: Limits | None = None,
    ) -> Suspended:
        """Make the sub-agent, give it its task, and return what the tool must *return*; its answer is the call's.

        A call has one sub-agent: to start it again, also after a crash, changes nothing.

        Args:
            template: One of ``AgentTemplate.subagents``.
            prompt: The task: all that it is told.
            model: In the place of its template's.
            tools: Of its template's tools only these.
            limits: Within its template's.

        Raises:
            UsageError: The template is not allowed or not known, the budget is spent, the agents are nested too deep.
        """
        ...


@dataclass(frozen=True, slots=True)
class ToolContext:
    """What a tool may know and use while it runs. Made by the shell for one attempt at one call."""

    agent_id: str
    uid: str
    """The agent's random identity; two agents of one name never share it."""
    call_id: str
    """``run.step.n``."""
    fence: int
    """Rises with each take-over of the agent; who remembers the highest can refuse an older driver."""
    attempt: str
    """``fence.n``."""
    clock: Clock
    limits: Limits = field(default_factory=Limits)
    sandbox: Sandbox | None = None
    services: Mapping[str, Any] = field(default_factory=dict)
    """What the host put into ``Dependencies`` for its tools, by name."""
    documents: Documents = field(default_factory=Documents)
    """What this agent's tools remember; one made by the shell is durable."""
    subagents: Subagents | None = None
    """For tools that are declared with ``spawns``."""
    cancel_scope: CancelScope | None = None
    """The scope that the call runs in."""
    timeout_s: float | None = None
    """Seconds that this call may take, then it is cancelled; None: as long as it wants."""
    on_emit: Callable[[str, Json], None] | None = None
    """Where ``emit`` goes; runs in the event loop's thread."""
    on_progress: Callable[[str], None] | None = None
    """Where ``progress`` goes; runs in the event loop's thread."""

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt at this call, and for no other call.

        Give it to systems that know such keys.
        """
        return f"{self.uid}:{self.call_id}"

    def emit(self, event_type: str, data: Mapping[str, Any] | None = None) -> None:
        """Tell observers something durable: a ``tool_custom_event`` that rides in the next commit.

        Args:
            event_type: Your name for it.
            data: JSON values.

        Raises:
            UsageError: ``data`` is not JSON.
        """
        text = jsontext.dump(dict(data or {}))
        if self.on_emit is not None:
            self.on_emit(event_type, text)

    def progress(self, text: str) -> None:
        """Show observers a piece of live output (``tool_progress``); it is not stored."""
        if self.on_progress is not None and text:
            self.on_progress(text)

    def suspend(self, *, due_at: int | None = None, child: str | None = None) -> Suspended:
        """Make the value that a tool *returns* to hand its call to someone outside.

        Args:
            due_at: Microseconds since the epoch, after which nobody waits any more.
            child: Agent id of the sub-agent that will answer.
        """
        return Suspended(due_at, child)

    def check_cancelled(self) -> None:
        """Stop a tool that runs in a worker thread if its call was cancelled; does nothing elsewhere."""
        try:
            anyio.from_thread.check_cancelled()
        except RuntimeError:  # not in a worker thread: an async tool is cancelled where it awaits
            return

    def need_sandbox(self) -> Sandbox:
        """Return the sandbox. Raises ``ToolError`` if the agent has none."""
        if self.sandbox is None:
            raise ToolError("This agent has no sandbox, so there are no files and no shell.", code="no_sandbox")
        return self.sandbox


ToolFunction: TypeAlias = Callable[[ToolContext, dict[str, Any]], Awaitable[ToolResult]]


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool. Two with the same ``digest`` promise the model and the kernel the same.

    Raises:
        UsageError: The name, the schema or a flag is not allowed.
    """

    name: str
    description: str
    input_schema: Json
    """A JSON schema of an object, as canonical JSON text."""
    function: ToolFunction = field(repr=False)
    """Does the work. Called with what ``check`` returned."""
    readonly: bool = False
    """It changes nothing: may run beside other readers, and in mode ``readonly``."""
    recovery: Recovery = "seal"
    """What a crash does to a call that may have started; ``retry``: safe to run twice at once."""
    timeout_s: float | None = None
    """None: ``Limits.tool_timeout_s``."""
    needs_approval: bool = False
    """A person is asked before each call, whatever the policy's mode."""
    prompt: str | None = None
    """Guidance that is put into the system prompt of agents that have this tool."""
    validate: Callable[[Json], dict[str, Any] | str] | None = field(default=None, repr=False)
    """Turns argument text into what ``function`` takes, or says what is wrong; None: any JSON object."""
    hooks: Hooks | None = field(default=None, repr=False)
    """Hooks around this tool; they see its own calls only, after those of the agent."""
    spawns: bool = False
    """It works through a sub-agent (``ToolContext.subagents``), which is interrupted if the call is given up."""
    digest: str = field(init=False)
    """SHA-256 over name, schema and flags."""

    def __post_init__(self) -> None:
        if not NAME.match(str(self.name)):
            raise UsageError(
                f"The tool name {self.name!r} is not allowed; give 1 to 64 of a-z, A-Z, 0-9, '_' and '-'.",
                code="bad_tool",
                tool=repr(self.name),
            )
        schema = jsontext.parse(self.input_schema)
        if not isinstance(schema, dict) or schema.get("type") != "object":
            raise self._bad('its input_schema must be a JSON schema of "type": "object"')
        if self.recovery not in ("retry", "seal", "ask"):
            raise self._bad(f"recovery is {self.recovery!r}; give 'retry', 'seal' or 'ask'")
        if self.timeout_s is not None and (
            not isinstance(self.timeout_s, int | float) or not 0 < self.timeout_s < float("inf")
        ):
            raise self._bad(f"timeout_s is {self.timeout_s!r}; give seconds above 0, or None")
        if self.hooks is not None and self.hooks.beyond_tools:
            raise self._bad(f"its hooks {self.hooks.name!r} have {self.hooks.beyond_tools}; an agent may name such")
        facts = {
            "name": self.name,
            "schema": schema,
            "readonly": self.readonly,
            "recovery": self.recovery,
            "timeout_s": self.timeout_s,
            "needs_approval": self.needs_approval,
        }
        if self.spawns:
            facts["spawns"] = True
        object.__setattr__(self, "digest", jsontext.digest(facts))

    def _bad(self, what: str) -> UsageError:
        return UsageError(f"Tool {self.name!r}: {what}.", code="bad_tool", tool=self.name)

    def check(self, arguments: Json) -> dict[str, Any] | str:
        """Check a call's arguments: what ``call`` takes, or a text that tells the model what to mend."""
        if self.validate is not None:
            return self.validate(arguments)
        try:
            value = jsontext.parse(arguments)
        except UsageError as error:
            return f"The arguments of {self.name} are not valid: {error.message}"
        if isinstance(value, dict):
            return value
        return f"The arguments of {self.name} must be a JSON object; this is {arguments[:100]}."

    async def call(self, context: ToolContext, arguments: dict[str, Any]) -> ToolResult:
        """Run the tool.

        Whatever it raises is a result with ``is_error``, ``SystemExit`` included: a tool ends itself and not the
        process. Only our own cancellation and ``KeyboardInterrupt`` pass through.
        """
        try:
            return await self.function(context, arguments)
        except BaseException as error:
            if not is_failure(error):
                raise
            return failure(error)


def is_failure(error: BaseException) -> bool:
    """Whether a stranger's code failed: all that it may raise but what is meant for us or for the process.

    On asyncio an awaitable that somebody else cancelled raises what a cancellation of ours does. It is ours only where
    a scope around us was cancelled, or this very task was.
    """
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_failure, error.exceptions))
    if isinstance(error, anyio.get_cancelled_exc_class()):
        task = asyncio.current_task() if isinstance(error, asyncio.CancelledError) else None
        return anyio.current_effective_deadline() != -inf and not (task is not None and task.cancelling())
    return not isinstance(error, KeyboardInterrupt | GeneratorExit)


def failure(error: BaseException) -> ToolOutcome:
    """Describe an exception to the model: a JSON object with ``error``, ``retryable`` and ``hints``.

    Total: an exception that cannot be described is told by its type.
    """
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    name = type(error).__name__
    told = {"error": f"{name}: {_text(error)}", "code": "exception", "retryable": False}
    if isinstance(error, KodeError):
        with suppress(Exception):  # whose constructor was not run has no fields
            told = _described(error)
    return ToolOutcome.of(jsontext.dump(told), is_error=True)


def _described(error: KodeError) -> dict[str, Any]:
    told = {
        "error": _text(error) or type(error).__name__,
        "code": _text(error.code),
        "retryable": bool(error.retryable),
    }
    if isinstance(error, ToolError):
        told |= {name: _plain(value) for name, value in error.fields.items()}
        if error.hints:
            told["hints"] = [_text(hint) for hint in error.hints]
    return told


def _plain(value: Any) -> Any:
    """Keep what JSON can say, and make text of the rest."""
    text = _text(value)
    return value if isinstance(value, str | int | bool | None) and text != _unsaid(value) else text


def _text(value: Any) -> str:
    """Write a value, whatever its ``__str__`` does (that of an integer refuses more than 4,300 digits)."""
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - a stranger's code; how it fails is all the same
        return _unsaid(value)


def _unsaid(value: Any) -> str:
    return f"({type(value).__name__} that cannot be written)"
