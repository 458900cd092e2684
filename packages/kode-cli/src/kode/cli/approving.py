"""Asks a person whether a call may run, in the terminal, showing exactly what would be done."""

from __future__ import annotations

import getpass
import json
import os
import shlex
import signal
import sys
import tempfile
import termios
from dataclasses import dataclass, field

import anyio
from rich.text import Text

from kode.cli.previewing import preview
from kode.cli.screen import Screen
from kode.cli.visible import inline
from kode.core import Agent, KodeError
from kode.core.errors import UsageError
from kode.core.jsontext import canonical, parse
from kode.core.kernel.message import Json
from kode.core.kernel.toolcall import Approval, Call
from kode.core.sandbox.base import Sandbox
from kode.core.store.base import Store

__all__ = ["Approver", "undecided", "who"]

ELSEWHERE = "\n"
"""Stands for an answer that somebody else gave; nobody can type it."""
HEAD, TAIL = 30, 10
"""Rows of a preview that are shown before a person asks for the rest."""


def who() -> str:
    """The name to sign decisions with."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "terminal"


async def undecided(store: Store, agent_id: str) -> list[tuple[Call, Approval]]:
    """The calls that wait for a decision which nobody has made yet, and their questions."""
    state = await store.read_state(agent_id)
    answered = {item.id for item in await store.read_inbox(agent_id, state.uid)}
    asked = [(call, call.approval) for call in state.calls]
    return [(call, one) for call, one in asked if one and f"decision:{call.id}:{one.n}" not in answered]


@dataclass(slots=True)
class Approver:
    """Settles what waits for a decision.

    Args:
        store: Where the agent lives.
        sandbox: Of the agent's kind and folder, to show what a write would change.
        allow_all: Allow without asking, but for what may have run already.
        ask: Whether a person can be asked.
    """

    store: Store
    screen: Screen
    sandbox: Sandbox
    allow_all: bool
    ask: bool
    _allowed: set[str] = field(default_factory=set)
    """Tools that a person allowed for the rest of this run."""
    editing: bool = False
    """A person is in their editor: Ctrl-C is for that."""

    def settles(self, kind: str) -> bool:
        """Whether there is anybody here to answer a question of that kind."""
        return self.ask or (self.allow_all and kind != "recovery")

    async def settle(self, agent: Agent) -> bool:
        """Decide all that waits; False: something was left waiting."""
        for call, asked in await undecided(self.store, agent.agent_id):
            # A question after a crash is never answered by a rule: nobody knows what the call has done already.
            free = self.allow_all or call.tool in self._allowed
            if free and asked.kind != "recovery":
                await self._decide(agent, call, "allow", f"{who()} ({'--yes' if self.allow_all else 'for this run'})")
            elif not self.ask or not await self._question(agent, call, asked):
                return False
        return True

    async def _question(self, agent: Agent, call: Call, asked: Approval) -> bool:
        """Ask about one call until it is answered; False: leave it waiting."""
        recovery = asked.kind == "recovery"
        rows = await self._show(call, asked)
        editor = None if recovery else os.environ.get("VISUAL") or os.environ.get("EDITOR")
        choices = ["[y]es", "[n]o"]
        choices += [] if recovery else [f"[a]lways {inline(call.tool)} in this run"]
        choices += ["[e]dit"] if editor else []
        choices += ["[v]iew all"] if len(rows) > HEAD + TAIL else []
        choices += ["[q]uit, leave it waiting"]
        while True:
            answer = await self._ask(agent, call, "Run it again?" if recovery else "Allow?", "  ".join(choices))
            if answer is None or answer in ("q", "quit"):
                return False
            if answer == ELSEWHERE:
                return True
            if answer in ("y", "yes"):
                return await self._decide(agent, call, "allow", who())
            if answer in ("n", "no"):
                note = await self._read("Why?", "(the model is told; Enter: no reason)", lower=False)
                return note is not None and await self._decide(agent, call, "deny", who(), note=note or None)
            if answer in ("a", "always") and not recovery:
                self._allowed.add(call.tool)
                return await self._decide(agent, call, "allow", who())
            if answer in ("v", "view"):
                self.screen.rows(rows)
            if answer in ("e", "edit") and editor:
                changed = await self._edit(editor, call.changed_input or call.input or Json("{}"))
                if changed is not None:
                    return await self._decide(agent, call, "allow", who(), input=changed)

    async def _ask(self, agent: Agent, call: Call, question: str, choices: str) -> str | None:
        """Read the answer of this person, unless somebody else decides meanwhile."""
        answer: str | None = ELSEWHERE
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch, agent, call, tasks.cancel_scope)
            answer = await self._read(question, choices)
            tasks.cancel_scope.cancel()
        return answer

    async def _watch(self, agent: Agent, call: Call, question: anyio.CancelScope) -> None:
        while True:
            waiting = await undecided(self.store, agent.agent_id)
            if all(one.id != call.id for one, _ in waiting):
                self.screen.say(f"Call {call.id} was decided by somebody else.", "yellow")
                question.cancel()
                return
            await anyio.sleep(agent.limits.due_poll_s)

    async def _show(self, call: Call, asked: Approval) -> list[Text]:
        """Show what is asked about; returns all of it, also what was left out."""
        rows = await preview(call.tool, call.changed_input or call.input or Json("{}"), self.sandbox)
        self.screen.say("")
        reason = f" — {inline(asked.reason)}" if asked.reason else ""
        self.screen.say(f"{inline(call.tool)} (call {call.id}){reason}", "bold yellow")
        if len(rows) <= HEAD + TAIL:
            self.screen.rows(rows)
        else:
            self.screen.rows(rows[:HEAD])
            self.screen.say(f"… {len(rows) - HEAD - TAIL:,} more lines: v shows them all", "yellow")
            self.screen.rows(rows[-TAIL:])
        return rows

    async def _decide(
        self, agent: Agent, call: Call, decision: str, by: str, *, note: str | None = None, input: Json | None = None
    ) -> bool:
        try:
            n = None if call.approval is None else call.approval.n
            await agent.decide(call.id, "allow" if decision == "allow" else "deny", by=by, note=note, input=input, n=n)
        except UsageError as error:
            if error.code not in ("not_pending", "duplicate_id"):
                raise
            self.screen.say(f"Call {call.id} was decided by somebody else meanwhile.", "yellow")
        return True

    async def _read(self, question: str, choices: str, *, lower: bool = True) -> str | None:
        """Read a line from the terminal; None at its end. Waiting for it can be cancelled."""
        terminal = sys.stdin.fileno()
        try:
            termios.tcflush(terminal, termios.TCIFLUSH)  # what was typed before the question is no answer to it
            self.screen.prompt(f"{question} {choices} > ")
            await anyio.wait_readable(terminal)
            line = os.read(terminal, 4_096).decode("utf-8", "replace")  # a terminal gives one line at a time
        except (OSError, termios.error):
            return None  # the terminal was closed
        if not line:
            return None
        if lower and not line.endswith("\n"):
            return ""  # sent by Ctrl-D in the middle of a line: nobody pressed Enter, so it is no answer yet
        self.screen.answered()
        return line.strip().lower() if lower else line.strip()

    async def _edit(self, editor: str, input: Json) -> Json | None:
        """Have a person change the arguments in their editor; None: they did not, or it is no JSON."""
        before = json.dumps(parse(input), indent=2, ensure_ascii=False) + "\n"
        with tempfile.TemporaryDirectory(prefix="kode-") as folder:
            file = anyio.Path(folder, "arguments.json")
            await file.write_text(before, encoding="utf-8")
            try:
                code = await self._wait_for([*shlex.split(editor), str(file)])
                after = await file.read_text(encoding="utf-8")
            except (OSError, ValueError) as error:
                self.screen.say(f"The editor {editor!r} did not work: {error}", "red")
                return None
        if code != 0 or after == before:
            self.screen.say("Nothing was changed." if code == 0 else f"The editor ended with {code}.", "yellow")
            return None
        try:
            return canonical(after)
        except KodeError as error:
            self.screen.say(f"That is no JSON: {error.message}", "red")
            return None

    async def _wait_for(self, command: list[str]) -> int:
        """Run a program in this terminal. What is typed there is for it, interrupts too."""
        self.editing = True
        # Not ignored but caught: a program that is started inherits the one and not the other.
        quits = signal.signal(signal.SIGQUIT, lambda *_: None)
        try:
            ended = await anyio.run_process(command, stdin=None, stdout=None, stderr=None, check=False)
        finally:
            signal.signal(signal.SIGQUIT, quits)
            self.editing = False
        return ended.returncode
