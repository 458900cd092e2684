"""What a person sees: a line for each thing that happens, as it happens. Plain lines, so a pipe gets the same."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from kode.cli.demo.deciding import Answer, Question
from kode.cli.demo.recount import Check
from kode.cli.demo.settings import REPORT, Settings
from kode.cli.demo.watch import Kill, Process
from kode.cli.demo.workspace import Copied
from kode.core.kernel.events import Event
from kode.core.kernel.toolcall import CallStatus

__all__ = ["Timeline"]

_ARGUMENT = re.compile(r'"(?:path|pattern|cmd)":"((?:[^"\\]|\\.)*)')

_ERROR = re.compile(r'"error":"((?:[^"\\]|\\.)*)')
_SLOW = ("bash_run", "file_follow")
"""Tools whose start is shown too; of the others only the end, and those asked about when they are allowed."""
_SHOWN_LINES = 8
"""Of what would be written, for who is asked."""
_QUIET = ("✓", "▸")
"""Lines of which only the sign is coloured."""


class Timeline:
    """Prints a demo, and keeps what it printed as data.

    Args:
        console: Where to.
        origin: ``time.monotonic()`` that times are counted from.
        asking: A person is asked, and has to see what about.
    """

    def __init__(self, console: Console, origin: float, *, asking: bool = False) -> None:
        self.console = console
        self.asking = asking
        self.origin = origin
        self.lines: list[dict[str, object]] = []
        self._asks: tuple[str, ...] = ()
        self._calls: dict[str, str] = {}
        self._took: dict[str, float] = {}
        self._why: dict[str, str] = {}
        self._open: list[str] = []
        """Calls that the last kill left open and that may be run again."""

    # ---- before and after

    def opening(self, settings: Settings, copied: Copied | None) -> None:
        """Say what is worked on."""
        self._asks = settings.asks
        self._head("A durable agent on real files, killed in mid-work")
        if copied is not None:
            odd = f"; {copied.unreadable} not readable" if copied.unreadable else ""
            odd += f"; {copied.special} special" if copied.special else ""
            self._fact("files", f"{copied.files:,} ({copied.size:,} bytes), copied from {settings.source}{odd}")
            if copied.left_out:
                self._fact("left out", ", ".join(sorted(copied.left_out)))
        self._fact("work", str(settings.work))
        if settings.model:
            self._fact("model", settings.model + (f" at {settings.base_url}" if settings.base_url else ""))
        if copied is None:
            self._head("What the store holds of earlier processes")

    def closing(self, checks: list[Check], settings: Settings, unfinished: bool) -> None:
        """Print a verdict per check, and where things are."""
        self._head("Checked from outside")
        for check in checks:
            glyph, style = ("✓", "green") if check.ok else ("✗", "bold red")
            self._line(Text(f"  {glyph} ", style), Text(check.name, "" if check.ok else "red"))
            self._line(Text("      "), Text(_plain(check.detail), "dim"), hang=6)
        if settings.model:
            self._fact("unchecked", f"what {REPORT} says: a model counts as it likes")
        good = all(check.ok for check in checks)
        self._head("All checks passed" if good else "SOME CHECKS FAILED", "bold green" if good else "bold red")
        for name, path in (("report", settings.report), ("database", settings.database)):
            if path.exists():
                self._fact(name, str(path))
        if unfinished:
            self._fact("go on with", "")
            self._go_on(settings)

    def stopped(self, settings: Settings) -> None:
        """Say how to go on after Ctrl-C."""
        self._head("Stopped; the agent is in the store and can go on where it was", "bold yellow")
        self._go_on(settings)

    # ---- while it runs

    def began(self, process: Process) -> None:
        """A process of the agent was started."""
        what = "starts" if process.number == 1 else "starts and opens the same store"
        self._head(f"Process {process.number} (pid {process.pid}) {what}")
        self._keep("process", f"{process.pid}")

    def killed(self, kill: Kill) -> None:
        """A process was killed: say what the store knows, and whether anything of it is left."""
        self._at("✗", f"SIGKILL from outside, {kill.after_s:.1f} s after it began", "bold red")
        self._keep("kill", kill.moment.stage)
        state = kill.state
        self._head("What the store knows", "bold")
        if state is None:
            self._fact("agent", "not made yet: nothing was acknowledged, so nothing is lost")
        else:
            run = "no run" if state.run is None else f"run {state.run.number}, step {state.step}"
            self._fact("breakpoint", f"{state.breakpoint.value} ({run})")
            self._fact("stored", f"{len(kill.messages)} messages, {state.next_cursor - 1} events")
            self._open = [
                f"{c.id} {self._calls.get(c.id, c.tool)} ({'it only reads' if c.plan.readonly else 'harmless twice'})"
                for c in state.calls
                if c.status is CallStatus.EXECUTING and c.plan.recovery == "retry"
            ]
            for call in state.calls:
                if not call.status.final:
                    self._fact(
                        "open", f"{call.id} {call.tool} {call.status.value}, after a crash: {call.plan.recovery}"
                    )
        left = f"STILL THERE: {kill.left}" if kill.left else f"none left {kill.gone_s * 1000:.0f} ms after the kill"
        self._fact("processes", left)

    def asked(self, question: Question, running: Sequence[int]) -> None:
        """A question is open: show what is asked, and that nothing runs meanwhile."""
        self._head("The agent asks, and no process waits" if not running else "The agent asks", "bold yellow")
        self._fact("question", f"{question.tool} {question.what}? {question.reason}")
        if question.content:
            lines = question.content.splitlines()
            self._fact("content", f"{len(lines)} lines, {len(question.content.encode()):,} bytes")
            for line in [line for line in lines if line][:_SHOWN_LINES] if self.asking else ():
                self._line(Text("             "), Text(_plain(line), "dim"), hang=13)
        self._fact("processes", f"still there: {list(running)}" if running else "none; the question is in the store")

    def prompt(self, text: str) -> None:
        """Ask the person at the terminal."""
        self.console.print(Text(f"  {text}", "bold"), end="")

    def decided(self, answer: Answer | None) -> None:
        """The answer is stored; None: it is somebody else's."""
        if answer is None:
            self.console.print()  # the cursor may stand behind a prompt
            self._at("✓", "decided by somebody else meanwhile; going on", "bold yellow")
            return
        note = f": {answer.note}" if answer.note else ""
        text = f"{'ALLOWED' if answer.decision == 'allow' else 'DENIED'} by {answer.by}{note}"
        self._at("✓", f"{text}; stored, for the next process to find", "bold yellow")
        if not self.asking:
            self._fact("to decide", "run it in a terminal, without --yes or --decide")

    def show(self, event: Event) -> None:
        """Print one event, if it says something to a person."""
        draw = getattr(self, f"_on_{event.type}", None)
        if draw is not None:
            draw(event)

    def _on_run_started(self, event: Event) -> None:
        self._at("●", f"run {event.run} starts")

    def _on_text_chunk_end(self, event: Event) -> None:
        self._at("»", event.preview or "", "cyan")

    def _on_tool_start(self, event: Event) -> None:
        found = _ARGUMENT.search(event.preview or "")
        what = re.split(r"\\n", found[1])[0] if found else ""
        what = what.removeprefix("# ").removeprefix("files/")
        name = f"{event.data.get('tool')} {what}".strip()
        self._calls[str(event.call)] = name
        if event.data.get("tool") in _SLOW and event.data.get("tool") not in self._asks:
            self._at("▸", f"{event.call} {name} …")

    def _on_permission_required(self, event: Event) -> None:
        self._at("?", f"{event.call} {self._calls.get(str(event.call), '')} waits for a decision", "bold yellow")

    def _on_permission_decided(self, event: Event) -> None:
        if event.data.get("decision") == "approved":
            self._at("▸", f"{event.call} {self._calls.get(str(event.call), '')} … allowed by {event.data.get('by')}")

    def _on_tool_executed(self, event: Event) -> None:
        self._took[str(event.call)] = float(event.data.get("duration_us") or 0) / 1e6

    def _on_tool_error(self, event: Event) -> None:
        found = _ERROR.search(event.preview or "")
        self._why[str(event.call)] = found[1] if found else event.preview or ""

    def _on_tool_end(self, event: Event) -> None:
        if event.data.get("status") == "SEALED":
            return
        name = self._calls.get(str(event.call), str(event.data.get("tool")))
        took = self._took.get(str(event.call))
        tail = "" if took is None else f"  {took:.2f} s"
        fine = event.data.get("status") == "COMPLETED"
        if not fine:
            tail = f": {self._why.get(str(event.call), event.data.get('status'))}"
        self._at("✓" if fine else "!", f"{event.call} {name}{tail}", "green" if fine else "yellow")

    def _on_agent_resumed(self, event: Event) -> None:
        names = {"again": "model asked again", "rerun": "re-run", "sealed": "sealed", "asked": "asked about"}
        parts = [f"{event.data[key]} {text}" for key, text in names.items() if event.data.get(key)]
        self._at("↻", f"RESUMED from the store: {', '.join(parts) or 'nothing was open'}", "bold magenta")
        for call in self._open:
            self._at("↻", f"RE-RUN {call}", "magenta")
        self._open = []

    def _on_tool_sealed(self, event: Event) -> None:
        name = self._calls.get(str(event.call), "")
        self._at("⊘", f"SEALED {event.call} {name}, outcome unknown: {event.preview}", "bold yellow")

    def _on_error(self, event: Event) -> None:
        self._at("!", f"{event.preview}", "yellow")

    def _on_done(self, event: Event) -> None:
        self._at("●", f"run {event.run} ends: {event.data.get('reason')}")

    # ---- inside

    def _go_on(self, settings: Settings) -> None:
        """Give the command that goes on: in one piece, however narrow the terminal is."""
        self.console.print(Text(f"  kode demo --work {shlex.quote(str(settings.work))}"), soft_wrap=True)

    def _head(self, text: str, style: str = "bold") -> None:
        self.console.print()
        self._line(Text(text, style))

    def _fact(self, name: str, value: str) -> None:
        self._line(Text(f"  {name:<11}", "dim"), Text(_plain(value)), hang=13)

    def _at(self, glyph: str, text: str, style: str = "") -> None:
        seconds = time.monotonic() - self.origin
        shown = _plain(text)
        self._keep(glyph, shown)
        words = "" if glyph in _QUIET else style
        self._line(Text(f"{seconds:6.1f}s  ", "dim"), Text(f"{glyph} ", style), Text(shown, words), hang=11)

    def _keep(self, kind: str, text: str) -> None:
        self.lines.append({"at_s": round(time.monotonic() - self.origin, 3), "kind": kind, "text": text})

    def _line(self, *parts: Text, hang: int = 0) -> None:
        """Print one line; what does not fit goes on below, set in by ``hang``."""
        text = Text.assemble(*parts)
        width = max(self.console.width, 40)
        lines = list(text[hang:].wrap(self.console, width - hang)) or [Text()]
        for number, line in enumerate(lines):
            line.rstrip()
            margin = Text(" " * hang) if number else text[:hang]
            self.console.print(margin + line, soft_wrap=True)


def _plain(text: str) -> str:
    """Keep what came from files and models from steering the terminal."""
    return "".join(letter if letter.isprintable() else "\\n" if letter == "\n" else "?" for letter in text)
