"""Commands in the agent's sandbox."""

from __future__ import annotations

import codecs
from typing import Annotated

from pydantic import Field

from kode.core.sandbox.base import Stream
from kode.core.tools.base import ToolContext, ToolOutcome
from kode.core.tools.builtin.answer import answer_text, budget
from kode.core.tools.define import tool

__all__ = ["bash_run"]

MARGIN = 0.05
MARGIN_MAX_S = 5.0
"""Of a call's own time-out: left for ending the command in order, so that its output is not lost."""


@tool(
    timeout_s=660.0,
    prompt="Use bash_run for commands that end. What it starts in the background ends with it.",
)
async def bash_run(
    cmd: Annotated[str, Field(min_length=1)],
    context: ToolContext,
    timeout_ms: Annotated[int, Field(ge=1, le=600_000)] = 120_000,
) -> ToolOutcome:
    """Run a shell command in the working folder and wait for its end.

    Returns a JSON object: code (exit status; 0 is success, 128 + n: ended by signal n), output (both streams
    in the order they were written; of long output the head and the tail), timed_out, truncated.

    Args:
        cmd: Shell command.
        timeout_ms: Milliseconds after which the command and all it started is ended.
        context: Where and for whom it runs; not shown to the model.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")

    async def show(_: Stream, piece: bytes) -> None:
        context.progress(decoder.decode(piece))

    result = await context.need_sandbox().exec(
        cmd,
        timeout_s=_timeout(timeout_ms / 1000, context.limits.tool_timeout_s),
        on_output=show,
        max_output=min(context.limits.tool_buffer_size, budget(context)),
        merge_stderr=True,
    )
    value = {
        "code": result.code,
        "output": result.output.strip("\r\n") or "(no output)",
        "timed_out": result.timed_out,
        "truncated": result.truncated,
    }
    return answer_text(context, value, "output", result.cut_bytes)


def _timeout(wanted_s: float, bound_s: float | None) -> float:
    """The command's time.

    What the model wants, but less than the call's own bound, which would cost the output.
    """
    if bound_s is None:
        return wanted_s
    return min(wanted_s, bound_s - min(bound_s * MARGIN, MARGIN_MAX_S))
