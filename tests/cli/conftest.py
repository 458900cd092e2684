"""`kode` run in this process, in another one, and in a terminal."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.servers.chat import ChatServer

from kode.cli import main

SCRIPT = [sys.executable, "-m", "kode.cli"]
PATIENCE_S = 30.0
KEY = "sk-canary-7f3a9c"
"""Must appear nowhere."""


@dataclass
class Ran:
    """One run of the command."""

    code: int
    out: str
    err: str

    @property
    def agent_id(self) -> str:
        found = re.search(r"agt-\w+", self.err + self.out)
        assert found is not None, self
        return found[0]


class Terminal:
    """`kode` in a terminal of its own."""

    def __init__(self, arguments: tuple[str, ...], folder: Path, env: dict[str, str], width: int) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
        self.raw = b""
        self._read = 0
        self.process = subprocess.Popen(
            # A session of its own, with the terminal as the controlling one: then Ctrl-C is a signal.
            [sys.executable, "-c", _IN_SESSION, *arguments],
            stdin=slave, stdout=slave, stderr=slave, cwd=folder, env=env, start_new_session=True,
        )  # fmt: skip
        os.close(slave)

    def expect(self, text: str) -> None:
        """Wait until that is shown, behind what was waited for before."""
        ends = time.monotonic() + PATIENCE_S
        while (at := self.raw.find(text.encode(), self._read)) < 0:
            assert self._more(ends), f"{text!r} was not shown:\n{self.shown}"
        self._read = at + len(text.encode())

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def wait(self) -> int:
        """Wait for its end; the exit code."""
        ends = time.monotonic() + PATIENCE_S
        while self._more(ends):
            pass
        return self.process.wait(PATIENCE_S)

    def _more(self, ends: float) -> bool:
        ready, _, _ = select.select([self.master], [], [], max(ends - time.monotonic(), 0))
        try:
            piece = os.read(self.master, 65_536) if ready else b""
        except OSError:  # Linux: the other end is closed
            piece = b""
        self.raw += piece
        return bool(piece)

    @property
    def shown(self) -> str:
        """What a person sees, without colours and what was overwritten."""
        text = re.sub(r"\x1b\[[0-9;]*m", "", self.raw.decode("utf-8", "replace")).replace("\r\n", "\n")
        return re.sub(r"[^\n]*\r(\x1b\[K)?", "", text).replace("\x1b[K", "")

    @property
    def agent_id(self) -> str:
        found = re.search(r"agt-\w+", self.shown)
        assert found is not None, self.shown
        return found[0]

    def hang_up(self) -> int:
        """Close the terminal, as a person who closes the window; the exit code."""
        os.close(self.master)
        self.master = -1
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        if self.master >= 0:
            os.close(self.master)


_IN_SESSION = (
    "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "from kode.cli.main import main; sys.argv[0] = 'kode'; main()"
)


@dataclass
class Kode:
    """Runs the command in a folder, against a server if there is one."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    env: dict[str, str] = field(default_factory=dict)
    terminals: list[Terminal] = field(default_factory=list)

    def __call__(self, *arguments: str, stdin: str = "", **env: str) -> Ran:
        """In this process: quick."""
        self.capsys.readouterr()
        with self.monkeypatch.context() as patch:
            patch.chdir(self.folder)
            for name in [name for name in os.environ if name.startswith(("KODE", "OPENAI"))]:
                patch.delenv(name)
            for name, value in {**self.env, **env}.items():
                patch.setenv(name, value)
            patch.setattr(sys, "stdin", io.StringIO(stdin))
            code = main.run(arguments)
        said = self.capsys.readouterr()
        return Ran(code, said.out, said.err)

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[bytes]:
        """In another process, its outputs in pipes."""
        return subprocess.Popen(
            [*SCRIPT, *arguments], cwd=self.folder, env=self._environment(env),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def script(self, text: str, *arguments: str) -> subprocess.Popen[bytes]:
        """The same for a script that calls the command."""
        return subprocess.Popen(
            [sys.executable, "-c", text, *arguments], cwd=self.folder, env=self._environment({}),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def shell(self, line: str) -> subprocess.CompletedProcess[str]:
        """A line of a shell, such as `agents > file`."""
        return subprocess.run(
            f"{shlex.join(SCRIPT)} {line}", cwd=self.folder, env=self._environment({}), shell=True,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip

    def terminal(self, *arguments: str, width: int = 100, **env: str) -> Terminal:
        """In another process, in a terminal."""
        terminal = Terminal(arguments, self.folder, self._environment({"TERM": "xterm-256color", **env}), width)
        self.terminals.append(terminal)
        return terminal

    def _environment(self, env: dict[str, Any]) -> dict[str, str]:
        # What says how a terminal looks would win over the terminal that the test makes.
        strange = ("KODE", "OPENAI", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "EDITOR", "VISUAL")
        own = {name: value for name, value in os.environ.items() if not name.startswith(strange)}
        return {**own, **self.env, **env}


@pytest.fixture
def kode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Kode]:
    (tmp_path / "work").mkdir()
    made = Kode(tmp_path / "work", monkeypatch, capsys)
    yield made
    for terminal in made.terminals:
        terminal.close()


@pytest.fixture
def wired(kode: Kode, chat_server: ChatServer) -> Kode:
    """The same with a model: that of the server."""
    kode.env = {"OPENAI_BASE_URL": chat_server.url, "OPENAI_API_KEY": KEY, "KODE_MODEL": "openai:test"}
    return kode
