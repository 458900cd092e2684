"""The view of a run: lines, live text and a status line, on stderr, so that stdout holds the answer alone.

It looks right on a terminal of any width, without colour, without UTF-8, and in a file. When nobody reads it any more
(a closed pipe), it says so once, by ``on_gone``, and stays quiet.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable
from typing import TextIO

from rich.console import Console
from rich.text import Text

from kode.cli.telling import Line, Sign
from kode.cli.visible import block, cut

__all__ = ["SIGNS", "Screen", "glyph", "plain_console", "speaks_utf8"]

SIGNS: dict[Sign, tuple[str, str, str]] = {
    "agent": ("●", "*", "bold"),
    "run": ("●", "*", "bold"),
    "step": ("·", "-", "dim"),
    "you": ("›", ">", "bold"),
    "said": ("»", ">", "cyan"),
    "call": ("▸", ">", "blue"),
    "ok": ("✓", "+", "green"),
    "bad": ("✗", "x", "red"),
    "asks": ("?", "?", "yellow"),
    "waits": ("…", ".", "yellow"),
    "again": ("↻", "@", "magenta"),
    "sealed": ("⊘", "#", "bold yellow"),
    "note": ("!", "!", "yellow"),
}
"""Of each sign: glyph, what stands for it where there is no UTF-8, style."""
_DIM = ("step", "ok")
"""Signs whose text is dim: it is there to be looked up."""
_SPINNER = ("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "|/-\\")
MIN_WIDTH = 20


def speaks_utf8(file: TextIO) -> bool:
    """Whether signs outside ASCII may be written to it."""
    return (getattr(file, "encoding", None) or "ascii").lower().replace("-", "") in ("utf8", "utf8sig")


def plain_console(file: TextIO) -> Console:
    """A console that takes text as it is. What is no terminal gets no line breaks that are not in the text."""
    console = Console(file=file, highlight=False, emoji=False, markup=False)
    if not console.is_terminal:
        console.width = 10_000
    return console


def glyph(sign: Sign, utf8: bool) -> str:
    """What stands before a line."""
    return SIGNS[sign][0 if utf8 else 1]


class Screen:
    """Where a run is shown.

    Args:
        file: Where to; default stderr.
        quiet: Show nothing but what ``say`` says.
    """

    def __init__(self, file: TextIO | None = None, *, quiet: bool = False) -> None:
        self.file = sys.stderr if file is None else file
        self.console = plain_console(self.file)
        self.utf8 = speaks_utf8(self.file)
        self.quiet = quiet
        self.on_gone: Callable[[], None] | None = None
        self.gone = False
        """Nobody reads any more."""
        self.moves = self.console.is_terminal and not self.console.is_dumb_terminal
        """Whether the cursor can be sent back, so that there is a status line."""
        self._status = ""
        self._drawn = False
        self._mid_line = False
        self._last_call: str | None = None
        self._turns = itertools.cycle(_SPINNER[0 if self.utf8 else 1])

    @property
    def interactive(self) -> bool:
        """Whether a person sits there who can be asked."""
        return self.console.is_terminal and sys.stdin is not None and sys.stdin.isatty()

    # ---- lines and text

    def tell(self, lines: Iterable[Line]) -> None:
        """Show lines of the story."""
        for line in lines:
            if line.level == "step" or self.quiet:
                continue  # the status line counts the steps
            glyph_style = SIGNS[line.sign][2]
            # Details stand below their call; where another line came between, they name it.
            stray = line.level == "detail" and line.call is not None and line.call != self._last_call
            indent = "  " if line.level == "detail" else ""
            name = f"{line.name or line.call}: " if stray else ""
            self._line(
                Text(f"{indent}{glyph(line.sign, self.utf8)} ", glyph_style),
                Text(name + (line.text if self.utf8 else _ascii(line.text)), "dim" if line.sign in _DIM else ""),
            )
            self._last_call = line.call

    def say(self, text: str, style: str = "") -> None:
        """Write what the command itself has to say; shown even when quiet."""
        self._line(Text(), Text(text if self.utf8 else _ascii(text), style))
        self._last_call = None

    def command(self, text: str) -> None:
        """Write a command to be copied: in one piece, however narrow the terminal is."""
        self._erase()
        self.end_text()
        self._put(f"  {text}\n")

    def rows(self, rows: Iterable[Text]) -> None:
        """Write ready lines, such as those of a difference."""
        for row in rows:
            self._line(Text(), row)

    def text(self, delta: str) -> None:
        """Show live text of the model as it comes."""
        if self.quiet or not delta:
            return
        self._erase()
        safe = block(delta)
        self._put(safe)
        self._mid_line = not safe.endswith("\n") if safe else self._mid_line
        self._last_call = None

    def end_text(self) -> None:
        """Be at the beginning of a line."""
        if self._mid_line:
            self._put("\n")
            self._mid_line = False

    def prompt(self, text: str) -> None:
        """Write a question and leave the cursor behind it."""
        self.status("")
        self.end_text()
        self._put(text if self.utf8 else _ascii(text))
        self._mid_line = True

    def answered(self) -> None:
        """The person ended the line of the prompt."""
        self._mid_line = False

    # ---- the status line

    def status(self, text: str) -> None:
        """Set the status line; empty: none."""
        self._status = text
        if not text:
            self._erase()

    def turn(self) -> None:
        """Draw the status line, one picture further; not while text stands in the line."""
        if not self.moves or self.quiet or self._mid_line or not self._status:
            return
        width = max(self.console.width, MIN_WIDTH)
        text = cut(f"{next(self._turns)} {self._status if self.utf8 else _ascii(self._status)}", width - 1)
        self._put(f"\r\x1b[2m{text}\x1b[0m\x1b[K")
        self._drawn = True

    def close(self) -> None:
        """Leave the terminal as it was."""
        self.status("")
        self.end_text()

    # ---- inside

    def _erase(self) -> None:
        if self._drawn:
            self._put("\r\x1b[K")
            self._drawn = False

    def _line(self, head: Text, text: Text) -> None:
        """Write one line; what does not fit goes on below its beginning."""
        self._erase()
        self.end_text()
        if self.gone:
            return  # the console would try to write what the file still holds
        width = max(self.console.width, MIN_WIDTH)
        hang = head.cell_len
        with self.console.capture() as captured:
            rows = list(text.wrap(self.console, max(width - hang, MIN_WIDTH // 2))) or [Text()]
            for number, row in enumerate(rows):
                row.rstrip()
                self.console.print(Text.assemble(" " * hang if number else head, row), soft_wrap=True)
        self._put(captured.get())

    def _put(self, text: str) -> None:
        if self.gone:
            return
        try:
            self.file.write(text)
            self.file.flush()
        except (OSError, ValueError):
            # A pipe without reader, or a terminal that was closed. The agent must rest in order all the same.
            self.gone = True
            if self.on_gone is not None:
                self.on_gone()


def _ascii(text: str) -> str:
    return text.replace("…", "...").replace(" · ", ", ").replace("→", "->").replace("—", "-")
