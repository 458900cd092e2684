"""Starts a command under its supervisor: what ``exec`` and background processes have in common.

Everything here blocks for the two or three milliseconds that starting a process takes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from kode.core.errors import SandboxError
from kode.core.sandbox.base import Command, Stream
from kode.core.sandbox.orphans import COMMAND_MARK, MARK

__all__ = ["DEFAULT_PATH", "LOST", "PIECE", "Launched", "arguments", "environment", "not_started", "read_now"]

PIECE = 65_536
SUPERVISOR = str(Path(__file__).with_name("supervisor.py"))
LOST = 128 + signal.SIGKILL
"""Code of a command whose supervisor was killed."""
ALLOWED = ("PATH", "HOME", "LANG", "TERM", "TZ", "TMPDIR", "USER", "LOGNAME", "SHELL")
"""Variables of the host that commands may see; and all that start with ``LC_``."""
DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"


def environment(
    host: Mapping[str, str], allow: Sequence[str], given: Mapping[str, str], mark: Mapping[str, str]
) -> dict[str, str]:
    """Build a command's environment: what is allowed of the host's, what was given, and our mark."""
    kept = {name: value for name, value in host.items() if name in allow or name in ALLOWED or name.startswith("LC_")}
    whole = {"PATH": DEFAULT_PATH, **kept, **given, **mark}
    for name, value in whole.items():
        if not name or "=" in name or "\0" in name + value or not _can_be_bytes(name + value):
            raise SandboxError(
                f"{name!a} cannot be the name of a variable, or its value holds what no variable can: a zero byte, or "
                "half a character.",
                code="bad_command",
            )
    return whole


def _can_be_bytes(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


def arguments(command: Command) -> list[str]:
    """Turn a command into program and arguments."""
    argv = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
    if not argv or not all(isinstance(part, str) for part in argv) or not (argv[0] and argv[-1]):
        raise SandboxError(f"The command {command!r} is empty or not text.", code="bad_command")
    if any("\0" in part for part in argv):
        raise SandboxError("The command holds a zero byte, which no program can be given.", code="bad_command")
    return argv


class Launched:
    """A command and its supervisor. The owner's end of ``control`` keeps them alive: closing it kills them.

    The supervisor itself gets no variable but the marks: what a command may set (``LD_PRELOAD``) must not reach a
    program that runs outside of its isolation. It is told the command's variables through ``control``, where
    other users of the machine cannot read them as they could in its arguments.

    Args:
        argv: Program and arguments.
        cwd: Existing folder.
        env: The program's whole environment.
        merge: Write both streams into one pipe.
        feed: Open a pipe to its standard input.
        keeper: The program keeps the real command, which is what SIGTERM is meant for.
        pass_fds: Descriptors that the program gets beside its streams.

    Raises:
        SandboxError: The system would not start it.
    """

    def __init__(
        self,
        argv: list[str],
        *,
        cwd: str,
        env: Mapping[str, str],
        merge: bool,
        feed: bool,
        keeper: bool = False,
        pass_fds: Sequence[int] = (),
    ) -> None:
        variables = b"\0".join(os.fsencode(f"{name}={value}") for name, value in env.items())
        try:
            self.control, theirs = socket.socketpair()
        except OSError as error:
            raise not_started(error) from error
        try:
            self.popen = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", SUPERVISOR),
                    *(str(theirs.fileno()), str(os.getpid()), str(int(keeper))),
                    *argv,
                ],
                stdin=subprocess.PIPE if feed else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if merge else subprocess.PIPE,
                bufsize=0,
                cwd=cwd,
                env={name: env[name] for name in (MARK, COMMAND_MARK) if name in env},
                pass_fds=(theirs.fileno(), *pass_fds),
                start_new_session=True,  # Ctrl-C in a terminal is for the owner, who then ends us in order
            )
        except (OSError, ValueError) as error:
            self.control.close()
            raise not_started(error) from error
        finally:
            theirs.close()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it was killed, which is seen later
            self.control.sendall(len(variables).to_bytes(8) + variables)
        self.control.setblocking(False)
        for pipe in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)

    def tell(self, word: bytes) -> None:
        """Tell the supervisor ``T`` or ``K``; nothing happens if it is gone.

        One that the command has stopped (SIGSTOP) goes on first, or it would not listen.
        """
        with contextlib.suppress(OSError):
            self.control.send(word)
            self.popen.send_signal(signal.SIGCONT)

    def stream(self, name: Stream) -> IO[bytes]:
        """Return the pipe of its output."""
        pipe = self.popen.stdout if name == "stdout" else self.popen.stderr
        assert pipe is not None
        return pipe

    def close_pipes(self) -> None:
        """Let go of the streams: whoever still writes to them gets an error instead of waiting."""
        for pipe in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            if pipe is not None:
                pipe.close()

    def reap(self, timeout_s: float) -> None:
        """Let go of everything and collect the supervisor, by force if it does not end."""
        self.control.close()
        self.close_pipes()
        try:
            self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()


def not_started(error: Exception) -> SandboxError:
    """Say that the system would not start a command."""
    return SandboxError(f"The command could not be started: {error}.", code="not_started")


def read_now(descriptor: int, size: int = PIECE) -> bytes | None:
    """Read what there is: None for nothing yet, empty for the end."""
    try:
        return os.read(descriptor, size)
    except BlockingIOError:
        return None
    except ConnectionResetError:
        return b""
