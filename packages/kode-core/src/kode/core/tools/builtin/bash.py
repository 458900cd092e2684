"""Commands in the agent's sandbox: run to their end, or left running as a *shell* to look at and to kill.

How a command ended is a result, never an error: `grep` that finds nothing and a test that fails exit with 1, and the
model must see which. A call is an error if the command could not be run, or was stopped because its time was over.

A shell belongs to the agent's sandbox: no other agent can name it, and it ends with the sandbox, which bounds how many
there are. Its id says which sandbox it was, so that after the death of that one nobody is shown another's output under
an old id.
"""

from __future__ import annotations

import codecs
import secrets
import signal
from contextlib import suppress
from hashlib import sha256
from typing import Annotated, Any
from weakref import WeakKeyDictionary

from pydantic import Field

from kode.core.errors import SandboxError
from kode.core.sandbox.base import Process, Sandbox, Stream
from kode.core.tools.base import ToolContext, ToolError, ToolOutcome
from kode.core.tools.builtin.answer import answer, answer_text, budget
from kode.core.tools.define import tool

__all__ = ["bash_kill", "bash_logs", "bash_run"]

MAX_MS = 600_000
"""The longest that a command may be waited for."""
MARGIN = 0.05
MARGIN_MAX_S = 5.0
"""Of a call's own time-out: left for ending the command in order, so that its output is not lost."""
_nameless: WeakKeyDictionary[Sandbox, str] = WeakKeyDictionary()
"""Names for sandboxes without a ref."""


@tool(
    timeout_s=660.0,
    prompt="Use bash_run for commands that end; what they start beside themselves ends with them. Use background=true "
    "for servers and long work, look at them with bash_logs and end them with bash_kill.",
)
async def bash_run(
    cmd: Annotated[str, Field(min_length=1)],
    context: ToolContext,
    timeout_ms: Annotated[int, Field(ge=1, le=MAX_MS)] = 120_000,
    background: bool = False,
) -> ToolOutcome:
    """Run a shell command in the working folder and wait for its end, or leave it running in the background.

    Returns a JSON object: background false, code (exit status; 0 is success, 128 + n: ended by signal n), output (both
    streams in the order they were written; of long output the head and the tail), timed_out, truncated. A code that is
    not 0 is no error of this tool; a time-out is.
    In the background: background true, shell_id (for bash_logs and bash_kill), message.

    Args:
        cmd: Shell command.
        timeout_ms: Milliseconds after which the command and all it started is ended; not for the background.
        background: Do not wait; it runs until it ends, is killed, or the agent is closed.
        context: Where and for whom it runs; not shown to the model.
    """
    sandbox = context.need_sandbox()
    if background:
        process = await sandbox.spawn(cmd, max_output=context.limits.tool_buffer_size)
        shell = _shell_id(sandbox, process.id)
        message = f"Started. Look at it with bash_logs and end it with bash_kill, shell_id {shell}."
        return answer({"background": True, "shell_id": shell, "message": message})
    decoder = codecs.getincrementaldecoder("utf-8")("replace")

    async def show(_: Stream, piece: bytes) -> None:
        context.progress(decoder.decode(piece))

    most = _most(context.timeout_s)
    seconds = min(timeout_ms / 1000, most)
    result = await sandbox.exec(
        cmd,
        timeout_s=seconds,
        on_output=show,
        max_output=min(context.limits.tool_buffer_size, budget(context)),
        merge_stderr=True,
    )
    value: dict[str, Any] = {
        "background": False,
        "code": result.code,
        "output": result.output.strip("\r\n") or "(no output)",
        "timed_out": result.timed_out,
        "truncated": result.truncated,
    }
    if result.timed_out:
        longer = f"Give a larger timeout_ms (at most {most * 1000:.0f})" if seconds < most else "That is the most here"
        value["error"] = f"Stopped after {seconds:g} s. {longer}; with background=true a command may run on."
    return answer_text(context, value, "output", result.cut_bytes)


@tool(readonly=True)
async def bash_logs(
    shell_id: Annotated[str, Field(min_length=1)],
    context: ToolContext,
    after: Annotated[int, Field(ge=0)] = 0,
) -> ToolOutcome:
    """Show what a background command has written so far, and whether it runs. Does not wait.

    Returns a JSON object: ok, shell_id, status (running, exited, or killed by a signal), running, code (null while it
    runs), output, next (give it as after to see only what is new), truncated.

    Args:
        shell_id: From bash_run.
        after: Leave out the output before this, as a former call's next said.
        context: Where and for whom it runs; not shown to the model.
    """
    logs = await _process(context, shell_id).logs(after=after)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    output = decoder.decode(logs.data, final=not logs.running)
    value = {
        "ok": True,
        "shell_id": shell_id,
        "status": _ended(logs.code),
        "running": logs.running,
        "code": logs.code,
        "output": output,
        "next": logs.next - len(decoder.getstate()[0]),  # a character that is half written comes with the next look
    }
    return answer_text(context, value, "output", logs.cut_bytes)


@tool(recovery="retry")
async def bash_kill(shell_id: Annotated[str, Field(min_length=1)], context: ToolContext) -> ToolOutcome:
    """End a background command and all it started: politely first, then by force.

    Returns a JSON object: ok, shell_id, code, message (how it ended).

    Args:
        shell_id: From bash_run.
        context: Where and for whom it runs; not shown to the model.
    """
    process = _process(context, shell_id)
    before = await process.logs()
    result = await process.kill()
    how = _ended(result.code)
    message = f"It is gone: {how}." if before.running else f"It had ended before: {how}."
    return answer({"ok": True, "shell_id": shell_id, "code": result.code, "message": message})


def _most(bound_s: float | None) -> float:
    """Seconds that a command may take: less than the call's own bound, which would cost the output."""
    if bound_s is None:
        return MAX_MS / 1000
    return min(MAX_MS / 1000, bound_s - min(bound_s * MARGIN, MARGIN_MAX_S))


def _ended(code: int | None) -> str:
    if code is None:
        return "running"
    with suppress(ValueError):
        return f"killed by {signal.Signals(code - 128).name}"
    return "exited" if code == 0 else f"exited with {code}"


def _shell_id(sandbox: Sandbox, process_id: str) -> str:
    name = sandbox.ref or _nameless.setdefault(sandbox, secrets.token_hex(8))
    return f"{sha256(name.encode()).hexdigest()[:6]}-{process_id}"


def _process(context: ToolContext, shell_id: str) -> Process:
    """Find a shell.

    Raises:
        ToolError: ``no_shell``.
    """
    sandbox = context.need_sandbox()
    with suppress(SandboxError):
        _, _, process_id = shell_id.partition("-")
        process = sandbox.process(process_id)
        if _shell_id(sandbox, process.id) == shell_id:
            return process
    known = ", ".join(_shell_id(sandbox, id) for id in sandbox.processes()) or "none"
    raise ToolError(
        f"There is no shell {shell_id!r}; known: {known}. A shell ends with the process that runs the agent, so one "
        "that was started before a restart is gone, and its output with it; of those that ended by themselves only the "
        "newest are kept.",
        code="no_shell",
        hints=("Start it again with bash_run(background=true), after looking at what it has done.",),
    )
