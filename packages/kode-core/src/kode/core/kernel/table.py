"""The transition table as data: what each input does in each phase.

Rules, in order:

1. An input is *done* by the handler its cell names, or
2. *postponed*: it is offered again after the next change (messages, which stay in the inbox, and
   compactions), or
3. *late*: nobody waits for it any more; dropped with a ``late_answer`` event, or
4. *rejected*: an inbox item that cannot be applied; used up with an ``input_rejected`` event, or
5. *illegal*: the shell is wrong; ``IllegalInputError``, nothing changes.

A handler may still find its effect closed or its question answered, and treats the input as late or rejected
then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kode.core.kernel import calls, history, inputs, recovery, run, step
from kode.core.kernel.draft import Draft
from kode.core.kernel.words import Phase

__all__ = ["ILLEGAL", "LATE", "POSTPONE", "REJECT", "TABLE", "Cell", "cell"]

Handler = Callable[[Draft, Any], None]
Cell = Handler | str

POSTPONE = "postpone"
LATE = "late"
REJECT = "reject"
ILLEGAL = "illegal"

PHASES = (Phase.IDLE, Phase.THINKING, Phase.ACTING, Phase.BOUNDARY)


def _always(handler: Handler) -> tuple[Cell, Cell, Cell, Cell]:
    return (handler, handler, handler, handler)


_compact = history.request_compaction
_snapshot = history.take_snapshot

# fmt: off
_ROWS: dict[type, tuple[Cell, Cell, Cell, Cell]] = {
    #                             IDLE               THINKING         ACTING           BOUNDARY
    inputs.MessageReceived:      (run.take_message,  POSTPONE,        POSTPONE,        run.take_message),
    inputs.ApprovalDecided:      (REJECT,            REJECT,          calls.decide,    REJECT),
    inputs.CallResolved:         _always(calls.resolve),
    inputs.InterruptRequested:   (step.interrupt,    step.interrupt,  step.interrupt,  step.interrupt),
    inputs.ModelReplied:         (LATE,              step.replied,    LATE,            LATE),
    inputs.ModelFailed:          (LATE,              step.failed,     LATE,            LATE),
    inputs.ToolFinished:         (LATE,              LATE,            calls.finish,    LATE),
    inputs.ToolSuspended:        (LATE,              LATE,            calls.suspend,   LATE),
    inputs.CompactionRequested:  (_compact,          POSTPONE,        POSTPONE,        _compact),
    inputs.HistoryCompacted:     _always(history.compacted),
    inputs.CompactionFailed:     _always(history.compaction_failed),
    inputs.Delivered:            _always(history.delivered),
    inputs.Resumed:              _always(recovery.resumed),
    inputs.Proceed:              _always(step.proceed),
    inputs.TimePassed:           _always(history.time_passed),
    inputs.DeadlineReached:      (LATE,              step.deadline,   step.deadline,   step.deadline),
    inputs.TimerSet:             _always(history.set_timer),
    inputs.TimerCancelled:       _always(history.cancel_timer),
    inputs.LimitsChanged:        _always(history.change_limits),
    inputs.TodosSet:             _always(history.set_todos),
    inputs.SnapshotTaken:        (_snapshot,         _snapshot,       ILLEGAL,         _snapshot),
    inputs.Reverted:             (history.revert,    ILLEGAL,         ILLEGAL,         ILLEGAL),
    inputs.DocumentsChanged:     _always(history.change_documents),
    inputs.SandboxBound:         _always(history.bind_sandbox),
    inputs.Noted:                _always(history.adopt_events),
    inputs.Parked:               _always(step.park),
}
# fmt: on

TABLE: dict[tuple[type, Phase], Cell] = {
    (kind, phase): row[i] for kind, row in _ROWS.items() for i, phase in enumerate(PHASES)
}


def cell(input: inputs.Input, phase: Phase) -> Cell:
    """What that input does in that phase. An ``Instructed`` has no row of its own: ask for what it carries."""
    return TABLE.get((type(input), phase), ILLEGAL)
