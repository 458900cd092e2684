"""Structured output: the answer of a run as a JSON value, where its template gives a schema."""

from __future__ import annotations

from collections.abc import Callable

from kode.core.errors import UsageError
from kode.core.jsontext import canonical
from kode.core.kernel.events import Event
from kode.core.kernel.message import Json, TextBlock, ToolUseBlock
from kode.core.kernel.words import StopReason
from kode.core.provider.assemble import Reply

__all__ = ["structured"]


def structured(reply: Reply, note: Callable[[Event], None]) -> Json | None:
    """The JSON value that a final reply consists of; None while calls are open, or if it was cut off or is no JSON.

    The provider makes the model keep to the schema; what is checked here is that there is a value to hand on. A reply
    that is none stays readable as text, and an event says so (``bad_output``).
    """
    if reply.stop is not StopReason.END_TURN or any(isinstance(block, ToolUseBlock) for block in reply.blocks):
        return None
    text = "".join(block.text for block in reply.blocks if isinstance(block, TextBlock)).strip()
    if text.startswith("```") and text.endswith("```"):
        # Models without a mode for it put JSON into a fence, with or without a word behind the opening one.
        text = text[3:-3].removeprefix("json").strip()
    try:
        return canonical(text)
    except UsageError as error:
        note(Event("error", preview=error.message, data={"code": "bad_output", "phase": "model"}))
        return None
