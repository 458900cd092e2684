"""What a caller is told of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar

from kode.core.errors import UsageError
from kode.core.jsontext import parse
from kode.core.kernel.message import Message, TextBlock, Usage
from kode.core.kernel.state import RunError, RunRecord, State
from kode.core.kernel.toolcall import CallStatus
from kode.core.kernel.words import RESULT_STATUS, ResultStatus, StopReason

__all__ = ["Question", "RunResult", "open_of", "queued", "result_of"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Question:
    """What a person is asked about a call. Answer with ``decide(call, …, n=n)``, which can never answer another one."""

    call: str
    n: int
    """Which question of that call, from 1."""
    kind: Literal["permission", "recovery"]
    """May it run; or, after a crash: it may have run, is it to run again."""
    tool: str


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
    questions: tuple[Question, ...] = ()
    """What is asked about them."""
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

    def read_output(self, kind: type[T]) -> T:
        """The structured output as a pydantic model, or as another type that ``schema_of`` takes.

        Raises:
            UsageError: ``bad_output``: the run has none, or it is not of that type; the message says which field.
        """
        from pydantic import TypeAdapter, ValidationError

        if self.output is None:
            raise UsageError(
                f"Run {self.run} of agent {self.agent_id!r} has no structured output (status {self.status!r}); "
                "ask `result.ok` first, and see that its template has an output_schema.",
                code="bad_output",
            )
        try:
            return TypeAdapter(kind).validate_python(self.output)
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'it'}: {one['msg']}" for one in error.errors()[:5])
            raise UsageError(
                f"The output of run {self.run} of agent {self.agent_id!r} is no {kind.__name__}: {wrong}.",
                code="bad_output",
            ) from error

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


def open_of(state: State) -> tuple[tuple[Question, ...], dict[str, str]]:
    """What an agent asks, and the sub-agents that it waits for, by call."""
    asked = tuple(
        Question(call.id, call.approval.n, call.approval.kind, call.tool)
        for call in state.calls
        if call.approval is not None
    )
    waits = (call for call in state.calls if call.status is CallStatus.WAITING)
    return asked, {c.id: c.wait.child for c in waits if c.wait is not None and c.wait.child is not None}
