"""The hook contract: code of the host that is asked, or told, at fixed places of a run.

    pre_model ─▶ around_model(… the model …) ─▶ post_model ─▶ pre_tool_use ─▶ around_tool(… the tool …) ─▶ post_tool_use

``Hooks`` is one named set of such functions. They run in the shell, never in the kernel, and are *repeatable*: after
a crash the same question may be asked again. A function may be async, or plain; a plain one runs in a worker thread,
as a plain tool does, so it may block. The two ``around_…`` hooks must be async.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias

from kode.core import jsontext
from kode.core.errors import UsageError
from kode.core.kernel.message import Json, Message
from kode.core.provider.assemble import Reply
from kode.core.provider.base import ModelRequest
from kode.core.tools.base import Tool, ToolOutcome, ToolResult

__all__ = ["Allow", "Answer", "Ask", "Decision", "Deny", "Hooks", "NextModel", "NextTool", "Replace", "ToolUse"]


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A call as hooks are told of it."""

    agent_id: str
    uid: str
    """The agent's random identity."""
    tool: Tool
    input: Json
    """Its arguments, as the hooks before left them."""
    call_id: str | None = None
    """``run.step.n``; None in ``pre_tool_use``, which is asked before the reply, and so its calls, are stored."""

    @property
    def name(self) -> str:
        """Name of the tool."""
        return self.tool.name

    @property
    def arguments(self) -> dict[str, Any]:
        """The input as a value, made anew each time."""
        value: dict[str, Any] = jsontext.parse(self.input)
        return value


# ---- what a gate may say -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Allow:
    """No objection: the same as None. It lifts nothing that the policy or another hook says."""


@dataclass(frozen=True, slots=True)
class Deny:
    """The call is not run. The model is shown ``result`` if it is given (as a tool may return it), else the reason."""

    reason: str
    result: Any = None


@dataclass(frozen=True, slots=True)
class Ask:
    """A person must approve; the reason is shown to him."""

    reason: str


@dataclass(frozen=True, slots=True)
class Replace:
    """Run it with these arguments. The tool's schema and the agent's rules judge them as if the model had sent them."""

    input: Mapping[str, Any] | Json


@dataclass(frozen=True, slots=True)
class Answer:
    """Do not run the tool, its result is this, as a tool may return it.

    Of a call that needs an approval it is the result once that is given, and not before.
    """

    result: Any


Decision: TypeAlias = Allow | Deny | Ask | Replace | Answer

# ---- the hooks ---------------------------------------------------------------------------------------------

NextModel: TypeAlias = Callable[[ModelRequest], Awaitable[Reply]]
"""Ask the model, retries included, and give its whole reply; raises ``ProviderError`` when it is given up."""
NextTool: TypeAlias = Callable[[], Awaitable[ToolResult]]
"""Run the tool with the arguments that were judged. What it raises is in its result already."""

PreToolUse: TypeAlias = Callable[[ToolUse], Awaitable[Decision | None] | Decision | None]
PostToolUse: TypeAlias = Callable[[ToolUse, ToolOutcome], Awaitable[ToolOutcome | None] | ToolOutcome | None]
PreModel: TypeAlias = Callable[[ModelRequest], Awaitable[ModelRequest | None] | ModelRequest | None]
PostModel: TypeAlias = Callable[[ModelRequest, Reply], Awaitable[Reply | None] | Reply | None]
MessagesChanged: TypeAlias = Callable[[str, Sequence[Message]], Awaitable[None] | None]
AroundModel: TypeAlias = Callable[[ModelRequest, NextModel], Awaitable[Reply]]
AroundTool: TypeAlias = Callable[[ToolUse, NextTool], Awaitable[ToolResult]]


@dataclass(frozen=True, slots=True)
class Hooks:
    """One named set of hooks. Shared by all agents that name it, so it keeps what it knows per agent apart.

    A function that raises, does not end within ``timeout_s``, or returns what it may not, has *failed*:
    a ``pre_tool_use`` that failed denies the call. The failure of any other is a ``hook_failed`` event, and what it
    was given goes on as it was; unless the set is ``strict``.

    Raises:
        UsageError: ``bad_hooks``: a field has a wrong shape.
    """

    name: str
    pre_tool_use: PreToolUse | None = None
    """Judge a call that the schema and the rules let through; None or `Allow` for no objection."""
    post_tool_use: PostToolUse | None = None
    """See what a tool answered, its failures too; return another outcome (``dataclasses.replace``) to change it."""
    pre_model: PreModel | None = None
    """Return another request to change what this model call is shown; nothing that is stored changes."""
    post_model: PostModel | None = None
    """Return another reply to change what is stored and planned."""
    messages_changed: MessagesChanged | None = None
    """Told the agent's id and the messages that a commit added, once it is durable. It holds up nobody."""
    around_model: AroundModel | None = None
    """Wrap a model call: return ``await next(request)``, or a reply from elsewhere."""
    around_tool: AroundTool | None = None
    """Wrap a tool: return ``await next()``, or a result from elsewhere."""
    timeout_s: float = 10.0
    """Seconds for one question. Of an ``around_…`` hook: for what it does before and after ``next``, each."""
    strict: bool = False
    """What this set could not look at goes nowhere: the model is not asked, its reply not taken, a result withheld."""
    stages: frozenset[str] = field(init=False, repr=False, compare=False)
    """Names of the hooks that are given."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise UsageError(f"Hooks.name is {self.name!r}; give a name.", code="bad_hooks")
        if not isinstance(self.timeout_s, int | float) or not 0 < self.timeout_s < float("inf"):
            raise self._bad(f"timeout_s is {self.timeout_s!r}; give seconds above 0")
        given = {stage: getattr(self, stage) for stage in STAGES if getattr(self, stage) is not None}
        for stage, function in given.items():
            if not callable(function):
                raise self._bad(f"{stage} is {type(function).__name__}; give a function")
        object.__setattr__(self, "stages", frozenset(given))

    @property
    def beyond_tools(self) -> str:
        """Names of the hooks that are about more than single calls: a tool cannot bring them."""
        return ", ".join(sorted(self.stages - TOOL_STAGES))

    def _bad(self, what: str) -> UsageError:
        return UsageError(f"Hooks {self.name!r}: {what}.", code="bad_hooks", hooks=self.name)


TOOL_STAGES = frozenset({"pre_tool_use", "post_tool_use", "around_tool"})
"""What a tool's own hooks may be."""
STAGES = tuple(one.name for one in fields(Hooks) if one.name not in ("name", "timeout_s", "strict", "stages"))
