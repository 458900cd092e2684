"""What a caller is told of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from kode.core.jsontext import parse
from kode.core.kernel.message import Message, TextBlock, Usage
from kode.core.kernel.state import RunError, RunRecord
from kode.core.kernel.words import RESULT_STATUS, ResultStatus, StopReason

if TYPE_CHECKING:
    from kode.core.store.base import Store

__all__ = ["RunResult", "last_stored", "queued", "result_of", "stored_for"]


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
    unfinished: tuple[str, ...] = ()
    """Calls that were running when time was up. They may have had part of their effect; each tool's ``recovery``
    decides what becomes of them when the agent goes on. Known to the request that started them."""
    children: Mapping[str, str] = field(default_factory=dict)
    """Sub-agents that are waited for, by call; ask them what they wait for."""
    steps: int = 0
    error: RunError | None = None

    @property
    def ok(self) -> bool:
        """Whether the run ended as it should."""
        return self.status == "ok"

    def to_dict(self) -> dict[str, Any]:
        """Plain values that ``json.dumps`` takes."""
        return asdict(self)


def result_of(agent_id: str, record: RunRecord, answer: Message | None, unfinished: tuple[str, ...] = ()) -> RunResult:
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
        unfinished=unfinished if record.status == "deadline" else (),
        steps=record.steps,
        error=record.error,
    )


def queued(agent_id: str, cursor: int = 0) -> RunResult:
    """The message waits; no run has taken it yet."""
    return RunResult(agent_id, "queued", cursor=cursor)


async def stored_for(store: Store, agent_id: str, item_id: str) -> RunResult | None:
    """Read the result of the run that took an item, once it ended or rests for a person."""
    number = await store.consumed_by(agent_id, item_id)
    record = None if number is None else await store.read_run(agent_id, number)
    if record is None or (record.ended_at is None and record.status == "deadline"):
        return None
    return await _as_stored(store, agent_id, record)


async def last_stored(store: Store, agent_id: str) -> RunResult | None:
    """Read the result of the last run; None if there was none."""
    page = await store.read_runs(agent_id, limit=1, backwards=True)
    return await _as_stored(store, agent_id, page.items[0]) if page.items else None


async def _as_stored(store: Store, agent_id: str, record: RunRecord) -> RunResult:
    answer, seq = None, record.answer_seq
    if seq is not None:
        page = await store.read_messages(agent_id, after=seq - 1, before=seq + 1)
        answer = page.items[0] if page.items else None
    return result_of(agent_id, record, answer)
