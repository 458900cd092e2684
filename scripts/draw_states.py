"""What scripts/draw_states runs: docs/internals/states.md, made from the kernel's table and words."""

from __future__ import annotations

import enum
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from kode.core.kernel.state import STAGES
from kode.core.kernel.table import PHASES, TABLE
from kode.core.kernel.toolcall import CallStatus
from kode.core.kernel.words import RESULT_STATUS, Breakpoint, Phase, Status

PAGE = Path(__file__).parents[1] / "docs/internals/states.md"

# Where handlers lead, as a person would say it. tests/core/kernel/test_states_page.py compares them with the
# changes of phase that happen.
ARROWS: tuple[tuple[Phase, str, Phase], ...] = (
    (Phase.IDLE, "message or timer", Phase.BOUNDARY),
    (Phase.BOUNDARY, "Proceed asks the model", Phase.THINKING),
    (Phase.BOUNDARY, "limit, interrupt, time-out", Phase.IDLE),
    (Phase.THINKING, "reply with calls", Phase.ACTING),
    (Phase.THINKING, "reply whose calls are all answered in planning", Phase.BOUNDARY),
    (Phase.THINKING, "reply without calls, failure, interrupt, time-out", Phase.IDLE),
    (Phase.ACTING, "last call is answered", Phase.BOUNDARY),
    (Phase.ACTING, "interrupt, time-out", Phase.IDLE),
)


def page() -> str:
    """The whole page."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield "# States of an agent"
    yield ""
    yield "Made by `scripts/draw_states` from `kernel/table.py` and `kernel/words.py`; do not edit."
    yield ""
    yield "## Phases"
    yield ""
    yield "The phase is the column of the transition table. It is derived from the state and never stored."
    yield ""
    yield "```mermaid"
    yield "stateDiagram-v2"
    yield "    [*] --> IDLE"
    for start, why, end in ARROWS:
        yield f"    {start} --> {end}: {why}"
    yield "```"
    yield ""
    yield from _words(Phase)
    yield "## The table"
    yield ""
    yield "What each input does in each phase. *wait*: offered again after the next change. *late*: nobody"
    yield "waits for it, dropped with an event. *reject*: an inbox item used up with an event."
    yield "*illegal*: an error, nothing changes. `Instructed` has no row: it is judged as the input it carries,"
    yield "and rejected with an event where that would be illegal, for it comes from the inbox."
    yield ""
    yield f"| input | {' | '.join(PHASES)} |"
    yield "|---|" + "---|" * len(PHASES)
    for kind in dict.fromkeys(kind for kind, _ in TABLE):
        yield f"| `{kind.__name__}` | {' | '.join(_cell(kind, phase) for phase in PHASES)} |"
    yield ""
    yield "## Breakpoints"
    yield ""
    yield "What a person sees. The first line that fits the calls of the open step, else the last three."
    yield ""
    yield "| a call is | breakpoint |"
    yield "|---|---|"
    for status, stage in STAGES:
        yield f"| {status} | {stage} |"
    yield f"| – (the model is asked) | {Breakpoint.STREAMING_MODEL} |"
    yield f"| – (the history is compacted) | {Breakpoint.PRE_MODEL} |"
    yield f"| – | {Breakpoint.READY} |"
    yield ""
    yield f"{Breakpoint.POST_TOOL} is only passed within a commit; `breakpoint_changed` names those."
    yield ""
    yield "## Statuses"
    yield ""
    yield from _words(Status)
    yield "## Statuses of a call"
    yield ""
    yield "```mermaid"
    yield "stateDiagram-v2"
    yield from (f"    {line}" for line in _CALL_ARROWS)
    yield "```"
    yield ""
    yield "PENDING, APPROVAL_REQUIRED, APPROVED, EXECUTING and WAITING can all be SEALED."
    yield ""
    yield from _words(CallStatus)
    yield "## Why a run rests or ended"
    yield ""
    yield "| stop reason | `RunResult.status` |"
    yield "|---|---|"
    for reason, status in RESULT_STATUS.items():
        yield f"| `{reason.value}` | `{status}` |"
    yield ""
    yield "`queued` is the status of a message that no run has taken yet."
    yield ""


_CALL_ARROWS = (
    "[*] --> PENDING: planned, allowed",
    "[*] --> APPROVAL_REQUIRED: planned, ask",
    "[*] --> DENIED: planned, denied",
    "[*] --> FAILED: unknown, invalid, over a limit",
    "[*] --> COMPLETED: answered by a hook",
    "APPROVAL_REQUIRED --> APPROVED: allowed",
    "APPROVAL_REQUIRED --> DENIED: denied or expired",
    "PENDING --> EXECUTING: slot",
    "APPROVED --> EXECUTING: slot",
    "EXECUTING --> COMPLETED: result",
    "EXECUTING --> FAILED: error",
    "EXECUTING --> WAITING: suspended",
    "EXECUTING --> APPROVAL_REQUIRED: crash, recovery ask",
    "EXECUTING --> SEALED: crash, interrupt",
    "WAITING --> COMPLETED: resolved",
    "WAITING --> FAILED: resolved, error",
    "WAITING --> SEALED: due, interrupt",
)


def _cell(kind: type, phase: Phase) -> str:
    what = TABLE[kind, phase]
    if isinstance(what, str):
        return f"*{'wait' if what == 'postpone' else what}*"
    return f"`{what.__name__}`"


def _words(kind: type[enum.StrEnum]) -> Iterator[str]:
    """A list of an enumeration's words, each with the docstring under it."""
    body = inspect.getsource(kind)
    for word in kind:
        said = re.search(rf'^    {word.name} = [^\n]*\n    """(.*?)"""', body, re.MULTILINE | re.DOTALL)
        yield f"* **{word}**" + ("" if said is None else f": {' '.join(said[1].split())}")
    yield ""


def main() -> int:
    """Write the page, or check it."""
    new = page()
    if "--check" in sys.argv[1:]:
        if PAGE.exists() and PAGE.read_text() == new:
            return 0
        print(f"{PAGE.name} is not current: run scripts/draw_states and commit it.", file=sys.stderr)
        return 1
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
