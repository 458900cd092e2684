"""What a caller is told of a run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from kode.core.jsontext import parse
from kode.core.kernel.message import Message, TextBlock, Usage
from kode.core.kernel.state import RunError, RunRecord
from kode.core.kernel.words import RESULT_STATUS, ResultStatus, StopReason

__all__ = ["RunResult", "queued", "result_of"]


@dataclass(frozen=True, slots=True)
class RunResult:
    """The outcome of a run, or where it rests."""

    agent_id: str
    status: ResultStatus
    """``ok`` only if the model ended its turn; see ``RESULT_STATUS``."""
    stop_reason: StopReason | None = None
    run: int | None = None
    text: str = ""
    """The answer's text; never an older answer."""
    output: Any = None
    """Structured output, as Python values."""
    usage: Usage = Usage()
    cursor: int = 0
    """Last durable event of the run so far; subscribe from here for what follows."""
    pending: tuple[str, ...] = ()
    """Calls that wait for a decision."""
    steps: int = 0
    error: RunError | None = None

    @property
    def ok(self) -> bool:
        """Whether the run ended as it should."""
        return self.status == "ok"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values."""
        return asdict(self)


def result_of(agent_id: str, record: RunRecord, answer: Message | None) -> RunResult:
    """Make the result of a run record and the message that answered it."""
    text = "" if answer is None else "\n".join(b.text for b in answer.blocks if isinstance(b, TextBlock))
    return RunResult(
        agent_id=agent_id,
        status=RESULT_STATUS[record.stop_reason],
        stop_reason=record.stop_reason,
        run=record.number,
        text=text,
        output=None if record.output is None else parse(record.output),
        usage=record.usage,
        cursor=record.last_cursor,
        pending=record.pending,
        steps=record.steps,
        error=record.error,
    )


def queued(agent_id: str, cursor: int = 0) -> RunResult:
    """The message waits; no run has taken it yet."""
    return RunResult(agent_id, "queued", cursor=cursor)
