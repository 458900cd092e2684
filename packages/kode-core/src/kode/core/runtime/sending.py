"""What goes into an agent's inbox, checked at the door: a wrong value is refused here, not found in a driver.

Nothing in here opens the agent: any process that has the store may send, decide and interrupt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kode.core.errors import DuplicateIdError, UsageError
from kode.core.event.hub import switchboard
from kode.core.jsontext import canonical
from kode.core.kernel.inputs import ApprovalDecided, InboxInput, MessageReceived
from kode.core.kernel.limits import Limits, limits_text
from kode.core.kernel.message import Block, Json, TextBlock
from kode.core.kernel.run import MAX_CONTEXT
from kode.core.kernel.state import State
from kode.core.runtime.lease import check_identity
from kode.core.store.base import Store
from kode.core.store.records import input_item

__all__ = [
    "Content",
    "Sent",
    "check_text",
    "content_blocks",
    "decide",
    "enqueue",
    "message_of",
    "whole_number",
]

Content = str | Sequence[Block]
"""What a caller may send: text, or content blocks."""

MAX_SAID = {"by": 200, "note": 10_000}
"""Characters of what comes with a decision: it stays with the call and goes to the model."""
_ALLOWED = ("text", "image", "audio", "video", "file", "blob")


@dataclass(frozen=True, slots=True)
class Sent:
    """The item is durable. It is taken in its turn, also by another process, also after a crash."""

    item_id: str
    position: int
    duplicate: bool = False
    """The same id with the same content was sent before; nothing was added."""


async def enqueue(
    store: Store,
    agent_id: str,
    input: InboxInput,
    *,
    uid: str | None = None,
    priority: int = 0,
    not_before: int | None = None,
) -> Sent:
    """Put an input into an agent's inbox, durably, and ring whoever drives it in this process.

    Raises:
        NotFoundError: No such agent, or not of that ``uid``.
        UsageError: The inbox is full, the input too big, or its id was used otherwise.
    """
    whole_number("priority", priority)
    whole_number("not_before", not_before)
    item = input_item(input, at=0, priority=priority, not_before=not_before)
    done = await store.enqueue(agent_id, item, uid=uid)
    switchboard(store, agent_id).ring()
    return Sent(input.item, done.position, done.duplicate)


def message_of(
    item_id: str,
    message: Content,
    *,
    kind: Literal["user", "reminder"] = "user",
    sender: str | None = None,
    metadata: Json | None = None,
    context: Json | None = None,
    limits: Limits | None = None,
) -> MessageReceived:
    """Make the input of a message; the arguments are those of ``Agent.send``.

    Raises:
        UsageError: A value is wrong.
    """
    check_text(item_id=item_id, sender=sender)
    if kind not in ("user", "reminder"):
        raise UsageError(f"The kind is {kind!r}; give 'user' or 'reminder'.", code="bad_option", option="kind")
    if context is not None and len(context) > MAX_CONTEXT:
        raise UsageError(
            f"The context has {len(context):,} characters; give at most {MAX_CONTEXT:,}: "
            "a traceparent and little more.",
            code="context_too_big",
        )
    if limits is not None and not isinstance(limits, Limits):
        raise UsageError(f"limits is {type(limits).__name__}; give Limits(…).", code="bad_option", option="limits")
    data, trace = _json_option("metadata", metadata), _json_option("context", context)
    bounds = None if limits is None else limits_text(limits)
    return MessageReceived(item_id, content_blocks(message), kind, sender, data, trace, bounds)


async def decide(
    store: Store,
    agent_id: str,
    call: str,
    decision: Literal["allow", "deny"],
    *,
    by: str | None = None,
    note: str | None = None,
    input: Json | None = None,
    n: int | None = None,
    uid: str | None = None,
) -> Sent:
    """Answer the open question of a call, from any process; the agent is not opened and nothing runs here.

    Of several deciders exactly one wins; who says the same again is told so. A pool anywhere wakes the agent, or the
    next ``complete()`` goes on.

    Args:
        store: Where the agent lives.
        agent_id: Which.
        call: ``run.step.n``, as ``permission_required`` and ``RunResult.pending`` name it.
        decision: ``allow`` or ``deny``.
        by: Who; stored, and told to the model with a denial or a note.
        note: Why; stored, and told to the model.
        input: Other arguments to run it with, as JSON text; they are checked again, and told to the model.
        n: Which question of the call, as ``permission_required`` and ``RunResult.questions`` name it; None: its
            first. Another is never answered, so that a decision may be delivered twice.
        uid: The agent's identity, if it must be that very one.

    Raises:
        NotFoundError: No such agent, or not of that ``uid``.
        UsageError: ``not_pending``: that question is not open; the message names what is. ``duplicate_id``: somebody
            else answered it otherwise. ``expired``: its deadline has passed. ``bad_decision``: it cannot be answered
            so.
    """
    if decision not in ("allow", "deny"):
        raise UsageError(f"The decision is {decision!r}; give 'allow' or 'deny'.", code="bad_decision")
    check_text(call=call, by=by, note=note)
    _check_lengths(by=by, note=note)
    whole_number("n", n)
    changed = _json_option("input", input)
    state = await store.read_state(agent_id)
    if uid is not None:
        check_identity(state, uid)
    found = state.call(call)
    asked = None if found is None else found.approval
    if asked is None or asked.n != (1 if n is None else n):
        return await _decided_before(store, state, call, decision, by, 1 if n is None else n)
    if asked.kind == "recovery" and input is not None:
        raise UsageError(
            f"Call {call!r} may have run already, so its input cannot be changed; allow or deny it as it was.",
            code="bad_decision",
        )
    answer = ApprovalDecided(f"decision:{call}:{asked.n}", call, asked.n, decision, by, note, changed)
    if asked.due_at is not None and asked.due_at <= await store.now():
        await _check_in_time(store, state, answer)
    try:
        return await enqueue(store, agent_id, answer, uid=uid or state.uid)
    except DuplicateIdError as error:
        text = f"Question {asked.n} of call {call!r} was answered already, by somebody else or otherwise; that stands."
        raise DuplicateIdError(text, **error.fields) from None


async def _check_in_time(store: Store, state: State, answer: ApprovalDecided) -> None:
    """Refuse what comes after the deadline, unless the same was said before it and waits."""
    if any(item.id == answer.item for item in await store.read_inbox(state.agent_id, state.uid)):
        return
    raise UsageError(
        f"The deadline of question {answer.n} of call {answer.call!r} has passed; nobody can answer it any more.",
        code="expired",
        call=answer.call,
        n=answer.n,
    )


def _check_lengths(**given: str | None) -> None:
    for name, text in given.items():
        if text is not None and len(text) > MAX_SAID[name]:
            raise UsageError(
                f"{name} has {len(text):,} characters; give at most {MAX_SAID[name]:,}.", code="bad_option", option=name
            )


async def _decided_before(store: Store, state: State, call: str, decision: str, by: str | None, n: int) -> Sent:
    """A decision that comes twice, for a delivery was repeated, counts once."""
    found = await store.read_call(state.agent_id, call, uid=state.uid)
    for answer in () if found is None else found.approvals:
        if answer.n == n and answer.state == _DECIDED[decision] and answer.by == by:
            return Sent(f"decision:{call}:{n}", 0, duplicate=True)
    asked = [(c.id, c.approval.n, c.approval.kind) for c in state.calls if c.approval is not None]
    listed = ", ".join(f"{n} of call {id} ({kind})" for id, n, kind in asked)
    why = f"those that do: {listed}" if listed else "the agent asks nothing just now"
    child = next((c.wait.child for c in state.calls if c.id == call and c.wait is not None), None)
    if child is not None:
        why = f"it waits for the sub-agent {child!r}, whose own calls are to be decided"
    raise UsageError(
        f"No question {n} of call {call!r} waits for an answer; {why}.",
        code="not_pending",
        call=call,
        n=n,
    )


_DECIDED = {"allow": "approved", "deny": "refused"}


# ---- single values --------------------------------------------------------------------------------------------


def content_blocks(message: Content) -> tuple[Block, ...]:
    """Content blocks of what a caller sends.

    Raises:
        UsageError: It is empty or holds something else.
    """
    if isinstance(message, str):
        blocks: tuple[Any, ...] = (TextBlock(message),) if message.strip() else ()
    else:
        blocks = tuple(message) if isinstance(message, Sequence) else (message,)
    strange = [b for b in blocks if getattr(b, "type", None) not in _ALLOWED]
    if not blocks or strange:
        shown = f"has {type(strange[0]).__name__}" if strange else "is empty"
        if strange and (kind := getattr(strange[0], "type", None)) is not None:
            shown += f" of type {kind!r}"[:60]
        raise UsageError(
            f"The message {shown}; send text, or TextBlock, MediaBlock ('image', 'audio', 'video' or 'file') and "
            "BlobBlock values.",
            code="bad_message",
        )
    return blocks


def check_text(**given: str | None) -> None:
    """Check that options are texts or absent.

    Raises:
        UsageError: ``bad_option``.
    """
    for name, value in given.items():
        if value is not None and not isinstance(value, str):
            raise UsageError(f"{name} is {value!r}; give a text or None.", code="bad_option", option=name)


def _json_option(name: str, value: Json | None) -> Json | None:
    """JSON text as it is stored.

    Raises:
        UsageError: It is no JSON text.
    """
    if value is None:
        return None
    check_text(**{name: value})
    try:
        return canonical(value)
    except UsageError as error:
        raise UsageError(f"{name} is no JSON text: {error.message}", code="bad_option", option=name) from None


def whole_number(name: str, value: int | None) -> None:
    """Check that an option is a whole number or absent.

    Raises:
        UsageError: ``bad_option``.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**63):
        raise UsageError(f"{name} is {value!r}; give a whole number.", code="bad_option", option=name)
