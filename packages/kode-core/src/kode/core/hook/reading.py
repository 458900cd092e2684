"""What a hook returned, checked before it goes anywhere: a wrong value is the hook's failure, not the agent's.

Whatever is not what went in is written and read back by the stored format's own rules, so that nothing of a hook can
keep a commit from being made or read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from kode.core import jsontext
from kode.core.errors import UsageError
from kode.core.hook.base import Allow, Answer, Ask, Decision, Deny, Replace
from kode.core.kernel.message import Json, Message, ToolUseBlock
from kode.core.kernel.words import StopReason
from kode.core.provider.assemble import MAX_COUNT, Reply
from kode.core.provider.base import ModelRequest, OutputSchema, Reasoning, SystemPart, ToolChoice, ToolSpec
from kode.core.tools.base import Suspended, ToolOutcome, ToolResult

if TYPE_CHECKING:
    from kode.core.store.records.schema import Adapter

__all__ = ["outcome_of", "read_decision", "read_outcome", "read_reply", "read_request", "result_of"]

_NONE = type(None)
_NUMBER = (int, float, _NONE)
_REQUEST: Mapping[str, tuple[type, ...]] = {
    "model": (str,),
    "messages": (tuple, list),
    "system": (str, tuple),
    "tools": (tuple, list),
    "tool_choice": (ToolChoice, _NONE),
    "max_tokens": (int, _NONE),
    "temperature": _NUMBER,
    "top_p": _NUMBER,
    "stop": (tuple,),
    "seed": (int, _NONE),
    "output_schema": (OutputSchema, _NONE),
    "reasoning": (Reasoning, _NONE),
    "timeout_s": _NUMBER,
}
_LISTS: Mapping[str, type] = {"messages": Message, "system": SystemPart, "tools": ToolSpec, "stop": str}
STOPS = frozenset(
    {
        *(StopReason.END_TURN, StopReason.LENGTH, StopReason.REFUSAL),
        *(StopReason.CONTENT_FILTER, StopReason.CONTEXT_TOO_LONG),
    }
)
"""Why a model may stop; all else is the kernel's to say."""

MAX_REASON = 2_000
"""Characters of a reason: it is stored with the call and shown, and is no place for data."""


def read_decision(value: Any) -> Decision:
    """A gate's word; None is `Allow`. What it carries is brought into the form in which it is used."""
    if value is None:
        return Allow()
    if isinstance(value, Deny):
        return Deny(_reason(value.reason), None if value.result is None else result_of(value.result))
    if isinstance(value, Ask):
        return Ask(_reason(value.reason))
    if isinstance(value, Answer):
        return Answer(result_of(value.result))
    if isinstance(value, Replace):
        return Replace(_arguments(value.input))
    if isinstance(value, Allow):
        return value
    raise _wrong(value, "return None, Allow, Deny, Ask, Replace or Answer")


def _reason(text: Any) -> str:
    if not isinstance(text, str) or not text.strip():
        raise _wrong(text, "give a reason, as text")
    return jsontext.well_formed(text[:MAX_REASON])


def _arguments(value: Mapping[str, Any] | Json) -> Json:
    text = jsontext.canonical(value) if isinstance(value, str) else jsontext.dump(dict(value))
    if not text.startswith("{"):
        raise _wrong(text, "give a JSON object")
    return text


def result_of(value: Any) -> ToolOutcome:
    """A result that a hook gives in a tool's place, as a tool may return it."""
    from kode.core.tools.define import to_result

    result = to_result(value)
    if isinstance(result, Suspended):
        raise _wrong(value, "only a tool can suspend its call")
    checked: ToolOutcome = _outcomes().read(_outcomes().write(result))
    return checked


def outcome_of(before: ToolOutcome, value: Any) -> ToolOutcome:
    """What ``post_tool_use`` made of an outcome. What the tool used and cut is counted whatever it says."""
    if value is None or value is before:
        return before
    if not isinstance(value, ToolOutcome):
        raise _wrong(value, "return None or a ToolOutcome, such as dataclasses.replace(outcome, …)")
    after = result_of(value)
    return replace(after, usage=after.usage or before.usage, cut_bytes=after.cut_bytes or before.cut_bytes)


def read_outcome(value: Any, own: ToolResult | None) -> ToolResult:
    """What ``around_tool`` returned; ``own`` is the tool's."""
    if own is not None and _same(value, own):
        return own
    if not isinstance(value, ToolOutcome):
        raise _wrong(value, "return what next() gave, or a ToolOutcome")
    return result_of(value)


def read_request(before: ModelRequest, value: Any) -> ModelRequest:
    """What ``pre_model`` made of a request."""
    if value is None:
        return before
    if not isinstance(value, ModelRequest):
        raise _wrong(value, "return None or a ModelRequest, such as dataclasses.replace(request, …)")
    for name, kinds in _REQUEST.items():
        part = getattr(value, name)
        if not isinstance(part, kinds) or isinstance(part, bool):
            raise _wrong(part, f"give another {name}")
    for name, kind in _LISTS.items():
        parts = getattr(value, name)
        if not isinstance(parts, str) and not all(isinstance(one, kind) for one in parts):
            raise _wrong(parts, f"{name} may hold {kind.__name__} only")
    if not value.model or (value.timeout_s is not None and not value.timeout_s > 0):
        raise _wrong(value, "it needs a model, and a timeout_s above 0")
    # Whose request it is, and that it is the same one when it is tried again, is not a hook's to say.
    return replace(value, agent_id=before.agent_id, idempotency_key=before.idempotency_key)


def read_reply(value: Any, own: Reply | None) -> Reply:
    """What ``around_model`` or ``post_model`` returned; ``own`` is the model's."""
    if own is not None and _same(value, own):
        return own
    if not isinstance(value, Reply):
        raise _wrong(value, "return a Reply, such as dataclasses.replace(reply, …)")
    reply: Reply = _replies().read(_replies().write(value))
    ids = [block.id for _, block in reply.calls]
    if "" in ids or len(set(ids)) < len(ids):
        raise _wrong(ids, "each call of a reply needs an id of its own")
    if any(block.type == "tool_result" for block in reply.blocks):
        raise _wrong(reply.blocks, "a model does not answer calls: leave tool results out")
    if reply.stop not in STOPS:
        raise _wrong(reply.stop, f"a reply may stop for {', '.join(sorted(STOPS))}")
    counts = [getattr(reply.usage, one.name) for one in fields(reply.usage)]
    if not all(0 <= count <= MAX_COUNT for count in counts if isinstance(count, int)):
        raise _wrong(reply.usage, "counts of usage are not below 0, and not above 2**53")
    blocks = tuple(
        replace(block, input=_arguments(block.input)) if isinstance(block, ToolUseBlock) else block
        for block in reply.blocks
    )
    return replace(reply, blocks=blocks, bad_inputs=_still_bad(reply, own))


def _still_bad(reply: Reply, own: Reply | None) -> tuple[Any, ...]:
    """Arguments that could not be read stay unread wherever their call went, unless the hook gave others."""
    if own is None:
        return reply.bad_inputs
    places = {block.id: index for index, block in reply.calls if block.input == "{}"}
    was = {index: block.id for index, block in own.calls}
    return tuple(replace(bad, block=places[was[bad.block]]) for bad in own.bad_inputs if was.get(bad.block) in places)


def _same(value: Any, own: object) -> bool:
    return value is own


def _wrong(value: Any, todo: str) -> UsageError:
    return UsageError(f"A hook returned {type(value).__name__}; {todo}.", code="bad_hook_result")


@cache
def _outcomes() -> Adapter:
    from kode.core.store.records.schema import Adapter

    return Adapter(ToolOutcome, {})


@cache
def _replies() -> Adapter:
    from kode.core.store.records.schema import Adapter

    return Adapter(Reply, {})
