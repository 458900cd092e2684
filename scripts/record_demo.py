"""Run `kode demo` in a terminal of our own, answer its question with Enter, and draw what it showed as an SVG.

The picture shows a real run, shortened: a check's details, and what only says where things are, are left out.
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

COLUMNS = 98
WIDTH = 12.2
"""Of a character in the picture."""
FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, DejaVu Sans Mono, monospace"
LEFT_OUT = re.compile(
    r"  (left out|work|report|database|stored) {3,}"  # places on this machine, numbers
    r"|      \S|             \S"  # details of checks, lines of the report
    r"|.*s  (● |[✓!] \S+ (fs_read|file_follow)|▸ \S+ file_follow)"  # what it read beside the rest
)


def record(folders: list[str]) -> str:
    """Run it and return what the terminal got.

    Raises:
        RuntimeError: It did not end well.
    """
    ours, its = pty.openpty()
    shown = b""
    with tempfile.TemporaryDirectory() as work:
        command = [sys.executable, "-m", "kode.cli", "demo", *folders, "--work", f"{work}/demo"]
        env = {**os.environ, "COLUMNS": str(COLUMNS), "TERM": "xterm-256color", "LOGNAME": "you"}
        env.pop("NO_COLOR", None)
        with subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=env) as ran:
            os.close(its)
            while piece := _read(ours):
                shown += piece
                if shown.endswith(b"[Y/n] \x1b[0m") or shown.endswith(b"[Y/n] "):
                    os.write(ours, b"y\n")
        os.close(ours)
    text = shown.decode("utf-8", "replace").replace("\r\n", "\n")
    if ran.returncode:
        raise RuntimeError(f"The demo ended with {ran.returncode}:\n{text}")
    return text


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65_536)
    except OSError:  # Linux says so when the other side is closed
        return b""


def shorten(shown: str) -> list[Text]:
    """Choose the lines of the picture; with a line goes what it goes on with below."""
    chosen = [Text("$ kode demo", "bold")]
    left_out = False
    for line in shown.strip("\n").splitlines():
        text = Text.from_ansi(line)
        left_out = LEFT_OUT.match(text.plain) is not None or (left_out and text.plain.startswith(" " * 11))
        if not left_out:
            chosen.append(text)
    return chosen


def draw(lines: list[Text]) -> str:
    """Draw lines as an SVG that asks no other host for anything."""
    console = Console(record=True, width=COLUMNS + 2, file=open(os.devnull, "w"), force_terminal=True)
    for line in lines:
        console.print(line, soft_wrap=True)
    form = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    form = form.replace("Fira Code, monospace", FONT).replace("font-family: arial", f"font-family: {FONT}")
    form = re.sub(r"<!--.*?-->\s*", "", form, flags=re.DOTALL)
    drawn = console.export_svg(title="kode demo", theme=MONOKAI, code_format=form, unique_id="demo")
    return _SPACED.sub(_moved, drawn)


_SPACED = re.compile(r' x="([\d.]+)" y="([\d.]+)" textLength="([\d.]+)" ([^>]*)>((?:&#160;)+)([^<]*)<')


def _moved(piece: re.Match[str]) -> str:
    """Put spaces before a text into its place: not every viewer keeps them."""
    x, y, length, rest, spaces, text = piece.groups()
    width = spaces.count("&") * WIDTH
    return f' x="{float(x) + width:g}" y="{y}" textLength="{max(float(length) - width, 0):g}" {rest}>{text}<'


def main() -> None:
    """Record and write the picture named on the command line."""
    target, *folders = sys.argv[1:]
    lines = shorten(record(folders))
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target).write_text(draw(lines))
    print(f"{target}: {len(lines)} lines")


if __name__ == "__main__":
    main()
