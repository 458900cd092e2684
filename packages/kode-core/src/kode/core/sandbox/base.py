"""The sandbox contract: where an agent's commands run and its files lie.

A sandbox runs commands to their end (``exec``), runs some in the background (``spawn``), and reads and writes
files below its root. Every method is async and may be cancelled: a cancelled ``exec`` has ended its processes
when it returns. Whoever opens a sandbox owns its processes; they end with the owner, and ``kill_ref`` ends
those that a dead owner left behind.

A class that implements it is made with keyword options which JSON can say, one of them ``ref``, and registers its
kind (``kode.sandbox``). Secrets and addresses that a template should not hold come from the process's environment:
``kill_ref`` is given nothing but the ref. ``kode.core.testing.conformance.sandbox`` is this contract as tests.

Paths are text, relative to the root or absolute below it, with ``/`` between names. A name that is not UTF-8
comes as text with surrogate escapes, so that it can be opened again; ``shown`` makes it fit for people and
models.

A failure is a ``SandboxError`` whose ``code`` is one of ``file_not_found``, ``outside_root``, ``not_a_file``,
``not_a_directory``, ``not_empty``, ``no_permission``, ``no_space``, ``too_large``, ``bad_path``, ``bad_pattern``,
``search_too_slow``, ``bad_command``, ``not_started``, ``no_process``, ``bad_ref``, ``bad_root``, ``closed``,
``isolation_unavailable``, ``sandbox_gone``, or the general ``sandbox``; ``SandboxUnavailableError`` may be tried again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, runtime_checkable

__all__ = [
    "IGNORED",
    "MAX_OUTPUT",
    "MAX_READ",
    "Command",
    "ExecResult",
    "FileInfo",
    "FileKind",
    "Found",
    "Logs",
    "Match",
    "Matches",
    "OnOutput",
    "Process",
    "Sandbox",
    "Stream",
    "shown",
]

MAX_OUTPUT = 10_485_760
"""Bytes of output that ``exec`` and ``spawn`` keep unless told otherwise."""

MAX_READ = 67_108_864
"""Bytes of the largest file that ``read`` returns whole; a larger one is read in parts."""

IGNORED: frozenset[str] = frozenset({".git", ".hg", ".svn", ".venv", "__pycache__", "node_modules"})
"""Names that ``glob`` and ``grep`` pass by, unless the pattern spells them out."""

Stream: TypeAlias = Literal["stdout", "stderr"]
OnOutput: TypeAlias = Callable[[Stream, bytes], Awaitable[None]]
"""Is told each piece of output as it comes; while it waits, so does the command (back-pressure)."""
Command: TypeAlias = str | Sequence[str]
"""Text runs in the sandbox's shell (``/bin/sh -c``); a sequence is a program and its arguments."""
FileKind: TypeAlias = Literal["file", "directory", "symlink", "other"]


@dataclass(frozen=True, slots=True)
class ExecResult:
    """How a command ended. A code that is not 0 is a result, never an error."""

    code: int
    """Exit status; ``128 + n`` if signal n ended it, 127 if there is no such program."""
    stdout: bytes
    """What was kept: all, or head and tail with a line between them that says how much is gone."""
    stderr: bytes = b""
    """Empty when it was merged into ``stdout``."""
    timed_out: bool = False
    cut_bytes: int = 0
    """Bytes of both streams that were not kept."""

    @property
    def truncated(self) -> bool:
        """Whether output is missing."""
        return self.cut_bytes > 0

    @property
    def output(self) -> str:
        """Both streams as text; what is no UTF-8 is replaced."""
        return (self.stdout + self.stderr).decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What lies at a path. A link that ``stat`` can follow is described by its target."""

    path: str
    """Relative to the root."""
    kind: FileKind
    size: int
    """Bytes."""
    mtime_ns: int
    """Nanoseconds since the epoch, as the file system says."""


@dataclass(frozen=True, slots=True)
class Found:
    """Files that a pattern found, sorted by the names on their way: ``a/z`` comes before ``a.b``."""

    paths: tuple[str, ...]
    """Relative to the root."""
    truncated: bool = False
    """True: the limit was reached and there are more."""


@dataclass(frozen=True, slots=True)
class Match:
    """One place where a search hit."""

    path: str
    line: int
    """From 1."""
    column: int
    """From 1, in characters."""
    preview: str
    """The line, cut to 200 characters around the hit."""


@dataclass(frozen=True, slots=True)
class Matches:
    """What a search found, in the order of ``Found``."""

    matches: tuple[Match, ...]
    truncated: bool = False
    """True: the limit was reached and there are more."""


@dataclass(frozen=True, slots=True)
class Logs:
    """A part of a background process's output."""

    data: bytes
    next: int
    """Pass it as ``after`` to go on from here."""
    cut_bytes: int
    """Bytes between ``after`` and the first of ``data`` that are gone."""
    running: bool
    code: int | None
    """None while it runs."""


class Process(Protocol):
    """A background process of a sandbox. It ends when it is killed, or with its sandbox."""

    @property
    def id(self) -> str:
        """Names it within its sandbox."""
        ...

    async def logs(self, *, after: int = 0) -> Logs:
        """Return the output from byte ``after`` on, as far as it was kept; never waits for more."""
        ...

    async def wait(self) -> ExecResult:
        """Wait for its end. Cancelling this leaves it running."""
        ...

    async def kill(self) -> ExecResult:
        """End it and all it started: politely, then by force. Harmless once it has ended."""
        ...


@runtime_checkable
class Sandbox(Protocol):
    """Where commands run and files lie. Opened and closed by its owner; methods may be called at once."""

    @property
    def kind(self) -> str:
        """The name in ``kode.sandbox``, such as ``local``."""
        ...

    @property
    def root(self) -> str:
        """Absolute path of the working directory, as commands inside see it."""
        ...

    @property
    def ref(self) -> str | None:
        """How another process finds this sandbox: ``kind:…``, of at most 500 characters, none of them secret.

        Known once ``open`` has returned, and the same from then on. None: there is nothing to find.
        """
        ...

    async def open(self) -> None:
        """Start it, or connect to the one named by the ``ref`` it was made with. Again is harmless.

        Cancelled or failed, it has left nothing behind that was not there before.

        Raises:
            SandboxError: There is none under that ref any more (``sandbox_gone``), or it cannot keep what it
                promises (``isolation_unavailable``).
        """
        ...

    async def exec(
        self,
        command: Command,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        stdin: bytes | None = None,
        on_output: OnOutput | None = None,
        max_output: int = MAX_OUTPUT,
        merge_stderr: bool = False,
    ) -> ExecResult:
        """Run a command to its end.

        When this returns, also by time-out or cancellation, no process that the command started is left,
        those it put into the background included: ``spawn`` is for these. Ending is polite first (SIGTERM),
        then by force.

        Args:
            command: Shell text, or a program with its arguments.
            cwd: Working directory, as a path of this sandbox; the root by default.
            env: Variables beside those the sandbox gives; they win.
            timeout_s: After so many seconds it is ended and ``timed_out`` is set.
            stdin: What it can read; nothing by default.
            on_output: Is told each piece as it comes, also those that are not kept.
            max_output: Bytes kept of both streams together; head and tail survive.
            merge_stderr: Put both streams into ``stdout``, in the order they were written.

        Raises:
            SandboxError: It could not be started. How it *ended* is in the result.
        """
        ...

    async def spawn(
        self,
        command: Command,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        max_output: int = MAX_OUTPUT,
    ) -> Process:
        """Start a command in the background, its streams merged.

        It lives until it ends, is killed, or ``close``.
        """
        ...

    def process(self, id: str) -> Process:
        """Return a background process of this sandbox.

        Raises ``SandboxError`` (``no_process``) if there is none.
        """
        ...

    def processes(self) -> tuple[str, ...]:
        """Ids of the background processes, ended ones included, oldest first."""
        ...

    async def read(self, path: str, *, offset: int = 0, size: int | None = None) -> bytes:
        """Read a file, or ``size`` bytes of it from ``offset`` on; fewer only at its end.

        Without ``size`` a file of more than ``MAX_READ`` bytes is refused (``too_large``). Never waits: a pipe, a
        socket or a device is ``not_a_file``.
        """
        ...

    async def write(self, path: str, data: bytes) -> None:
        """Replace a file, or make it and the folders above.

        Atomic: a reader sees the old or the new, never a part.
        """
        ...

    async def stat(self, path: str) -> FileInfo:
        """Say what lies at a path. Raises ``SandboxError`` (``file_not_found``) for nothing."""
        ...

    async def list_dir(self, path: str = ".") -> tuple[FileInfo, ...]:
        """List a folder, sorted by name; links are not followed."""
        ...

    async def glob(
        self,
        pattern: str,
        *,
        cwd: str = ".",
        dot: bool = False,
        ignore: frozenset[str] = IGNORED,
        limit: int | None = None,
    ) -> Found:
        """Find files by ``*``, ``?``, ``[…]``, ``{a,b}`` and ``**`` (any folders).

        Links to folders are not followed.

        Args:
            pattern: Matched against paths relative to ``cwd``.
            cwd: Folder to start from.
            dot: Let wildcards match names that start with a dot.
            ignore: Names to pass by.
            limit: Most files to return.
        """
        ...

    async def grep(
        self,
        pattern: str,
        *,
        path: str = ".",
        regex: bool = False,
        case_sensitive: bool = True,
        ignore: frozenset[str] = IGNORED,
        limit: int = 200,
    ) -> Matches:
        """Search text files line by line; binary and very large ones are passed by, links are not followed.

        A regular expression finds every hit of a line, plain text the first.

        Args:
            pattern: Plain text, or a Python regular expression with ``regex``.
            path: A file, a folder (all below it), or a glob.
            regex: Read ``pattern`` as a regular expression. Bounded in time: ``search_too_slow``.
            case_sensitive: False: letters match in both cases.
            ignore: Names to pass by.
            limit: Most matches to return.
        """
        ...

    async def mkdir(self, path: str) -> None:
        """Make a folder and those above it. Harmless if it is there."""
        ...

    async def remove(self, path: str, *, recursive: bool = False) -> None:
        """Remove a file, a link or an empty folder; with ``recursive`` a folder and all in it.

        Links are not followed.
        """
        ...

    async def close(self) -> None:
        """End what this owner runs and let go of the sandbox.

        One that lives elsewhere can be opened by ``ref``.
        """
        ...

    async def dispose(self) -> None:
        """Close it and destroy what it made outside this process. The root of a local sandbox stays."""
        ...

    @classmethod
    async def kill_ref(cls, ref: str) -> int:
        """End the processes that a dead owner left under ``ref``; returns how many were found.

        Again is harmless.
        """
        ...


def shown(path: str) -> str:
    """Make a path fit for people and models: bytes that are no UTF-8 become U+FFFD."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
