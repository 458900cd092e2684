"""The local sandbox: commands as processes of this machine, files below one folder.

**By default commands are not confined.** ``exec`` and ``spawn`` run with this user's rights: they can read and
write whatever this user can, use the network, and look into this user's other processes, the owner's memory and
environment included. What is held back is that they are *given* the host's variables (an allow-list), and what is
guaranteed is that processes end. Only the file methods cannot leave the root. With ``isolation="bwrap"`` commands
run in bubblewrap, which ``bubblewrap.py`` describes.

Processes end with their owner, ``kill -9`` of it included (``supervisor.py``). On Linux that holds for
daemons that left their session too; elsewhere those survive.
"""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from threading import Event
from typing import Literal, TypeVar

import anyio
import anyio.to_thread

from kode.core.errors import SandboxError, UsageError
from kode.core.sandbox import glob, grep
from kode.core.sandbox.background import BackgroundProcess
from kode.core.sandbox.base import (
    IGNORED,
    MAX_OUTPUT,
    Command,
    ExecResult,
    FileInfo,
    Found,
    Matches,
    OnOutput,
    Process,
)
from kode.core.sandbox.bubblewrap import INSIDE, PROBE, Bubblewrap, not_isolated
from kode.core.sandbox.jail import Jail
from kode.core.sandbox.launch import Launched, arguments, environment, not_started
from kode.core.sandbox.orphans import COMMAND_MARK, MARK, kill_marked
from kode.core.sandbox.running import RunningCommand

__all__ = ["LocalSandbox"]

PREFIX = "local:"
PROBE_S = 10.0
MAX_RUNNING = 20
"""Background processes that may run at once."""
MAX_ENDED = 20
"""Background processes that have ended and can still be asked for their output; older ones are forgotten."""

T = TypeVar("T")


class LocalSandbox:
    """Run commands on this machine and keep files below ``root``; plain commands are **not** confined (see the module).

    Args:
        root: Working folder; made if it is missing.
        ref: Of an earlier sandbox, to continue under its name; by default a new one.
        env_allow: Names of host variables that commands may see beside the usual ones.
        env: Variables that every command gets.
        grace_s: Seconds between SIGTERM and SIGKILL.
        isolation: ``none``, or ``bwrap``: commands run in bubblewrap, without network, with the root as the only
            place of the machine to write to. ``open`` tries it out; there is no falling back.
        readable: With ``bwrap``: more paths that commands can read, such as ``/opt``; not changed where they lie
            below the root.

    Raises:
        SandboxError: The root cannot be made or is no folder.
        UsageError: There is no such isolation.
    """

    kind = "local"

    def __init__(
        self,
        root: str | os.PathLike[str] = ".",
        *,
        ref: str | None = None,
        env_allow: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        grace_s: float = 2.0,
        isolation: Literal["none", "bwrap"] = "none",
        readable: Sequence[str] = (),
    ) -> None:
        if isolation not in ("none", "bwrap"):
            raise UsageError(f"There is no isolation {isolation!r}; give 'none' or 'bwrap'.", code="bad_option")
        self._ref = ref or PREFIX + secrets.token_hex(8)
        _mark_of(self._ref)
        self._env_allow = tuple(env_allow)
        self._env = dict(env or {})
        self._grace_s = grace_s
        try:
            os.makedirs(root, exist_ok=True)
        except OSError as error:
            raise SandboxError(f"The root {str(root)!r} cannot be made: {error.strerror}.", code="bad_root") from error
        self._jail = Jail(os.fspath(root))
        self._background: dict[str, BackgroundProcess] = {}
        self._starts: set[anyio.Event] = set()
        self._running: set[RunningCommand] = set()
        self._inside: Bubblewrap | None = None
        if isolation == "bwrap":
            self._inside = Bubblewrap(self._jail.root, tuple(os.path.realpath(path) for path in readable))
        self._tried = False
        self._numbers = itertools.count(1)
        self._token = f"{secrets.token_hex(2)}-"
        """Tells commands of this object from those of an earlier one of the same ref."""
        self._closed = False

    @property
    def root(self) -> str:
        """Absolute path of the root, links resolved."""
        return self._jail.root

    @property
    def ref(self) -> str:
        """``local:…``.

        Every command carries it in its environment, so that a new process finds what is left.
        """
        return self._ref

    async def open(self) -> None:
        """Try the isolation out, if there is one. A closed sandbox can be used again after it.

        Raises:
            SandboxError: Commands cannot be isolated as promised (``isolation_unavailable``).
        """
        self._closed = False
        await self._try_out()

    async def _try_out(self) -> None:
        """Start something inside, once, and let it say whether all is as promised."""
        if self._inside is None or self._tried:
            return
        said = await self._run(self._prepare(PROBE, None, None, merge=True, feed=False), timeout_s=PROBE_S)
        self._must_be_open()
        if said.timed_out:
            raise not_isolated(f"a command inside did not end within {PROBE_S:g} s")
        if said.code != 0 or said.stdout != b"probed\n":
            why = "; ".join(line for line in said.output.splitlines() if line != "probed")
            raise not_isolated(why.rstrip(".") or f"a command inside ended with code {said.code}")
        self._tried = True

    # ---- commands ------------------------------------------------------------------------------------------

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
        """Run a command to its end; see ``Sandbox.exec``. Its working folder must lie below the root."""
        launch = self._prepare(command, cwd, env, merge=merge_stderr, feed=stdin is not None)
        await self._try_out()
        return await self._run(launch, timeout_s, stdin, on_output, max_output)

    async def _run(
        self,
        launch: tuple[Callable[[], Launched], str],
        timeout_s: float | None,
        stdin: bytes | None = None,
        on_output: OnOutput | None = None,
        max_output: int = MAX_OUTPUT,
    ) -> ExecResult:
        self._must_be_open()
        running = RunningCommand(*launch, self._grace_s)
        self._running.add(running)
        try:
            return await running.run(timeout_s, stdin, on_output, max_output)
        finally:
            self._running.discard(running)

    async def spawn(
        self,
        command: Command,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        max_output: int = MAX_OUTPUT,
    ) -> Process:
        """Start a command in the background; see ``Sandbox.spawn``.

        At most 20 run at once (``not_started``); of those that have ended the newest 20 are known.
        """
        launch, mark = self._prepare(command, cwd, env, merge=True, feed=False)
        await self._try_out()
        id = mark.rpartition("/")[2]
        self._must_be_open()
        self._make_room()
        started = anyio.Event()
        self._starts.add(started)
        try:
            with anyio.CancelScope(shield=True):  # what was started must not be forgotten
                launched = await anyio.to_thread.run_sync(launch)
                process = BackgroundProcess(id, launched, mark, max_output, self._grace_s)
                self._background[id] = process
        finally:
            self._starts.discard(started)
            started.set()  # who closes meanwhile waits for this, and ends what was started
        self._must_be_open()
        return process

    def _make_room(self) -> None:
        """Forget the oldest that have ended; refuse one more if too many run."""
        ended = [id for id, process in self._background.items() if process.ended]
        for id in ended[:-MAX_ENDED]:
            del self._background[id]
        running = sum(not process.ended for process in self._background.values())
        if running + len(self._starts) >= MAX_RUNNING:
            raise SandboxError(
                f"{MAX_RUNNING} background processes run already, the most at once. Kill one that is not needed, or "
                "wait for one to end.",
                code="not_started",
            )

    def process(self, id: str) -> Process:
        """Return a background process of this sandbox."""
        try:
            return self._background[id]
        except KeyError:
            known = ", ".join(self._background) or "none"
            raise SandboxError(
                f"There is no process {id!r} here; known: {known}. Of those that ended, {MAX_ENDED} are kept.",
                code="no_process",
            ) from None

    def processes(self) -> tuple[str, ...]:
        """Ids of the background processes, oldest first."""
        return tuple(self._background)

    def _prepare(
        self, command: Command, cwd: str | None, env: Mapping[str, str] | None, *, merge: bool, feed: bool
    ) -> tuple[Callable[[], Launched], str]:
        """Check a command; return what starts it (in a worker thread) and its mark."""
        self._must_be_open()
        argv = arguments(command)
        mark = f"{self._ref}/{self._token}{next(self._numbers)}"
        inside = self._inside
        given = {**(INSIDE if inside else {}), **self._env, **(env or {})}
        marks = {MARK: self._ref, COMMAND_MARK: mark}
        whole = environment(os.environ, self._env_allow, given, marks)

        def launch() -> Launched:
            folder = os.path.join(self.root, *self._jail.folder(cwd or "."))
            start = partial(Launched, cwd=folder, merge=merge, feed=feed)
            if inside is None:
                return start(argv, env=whole)
            try:
                with inside.variables(whole) as variables:
                    line = inside.wrap(argv, folder, variables)
                    return start(line, env=marks, keeper=True, pass_fds=(variables,))
            except OSError as error:
                raise not_started(error) from error

        return launch, mark

    def _must_be_open(self) -> None:
        if self._closed:
            raise SandboxError("The sandbox is closed; open() it again.", code="closed")

    # ---- files ---------------------------------------------------------------------------------------------

    async def read(self, path: str, *, offset: int = 0, size: int | None = None) -> bytes:
        """Read a file, or ``size`` bytes of it from ``offset`` on."""
        return await _look(partial(self._jail.read, path, offset, size))

    async def write(self, path: str, data: bytes) -> None:
        """Replace a file; it is on disk when this returns."""
        await anyio.to_thread.run_sync(self._jail.write, path, data)

    async def stat(self, path: str) -> FileInfo:
        """Say what lies at a path."""
        return await _look(partial(self._jail.stat, path))

    async def list_dir(self, path: str = ".") -> tuple[FileInfo, ...]:
        """List a folder, sorted by name."""
        return await _look(partial(self._jail.list_dir, path))

    async def glob(
        self,
        pattern: str,
        *,
        cwd: str = ".",
        dot: bool = False,
        ignore: frozenset[str] = IGNORED,
        limit: int | None = None,
    ) -> Found:
        """Find files; see ``Sandbox.glob``."""
        stop = Event()
        job = partial(glob.glob, self._jail, pattern, cwd, dot=dot, ignore=ignore, limit=limit, stop=stop)
        return await _look(job, stop)

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
        """Search files; see ``Sandbox.grep``."""
        stop = Event()
        job = partial(
            grep.grep,
            self._jail,
            pattern,
            path,
            regex=regex,
            case_sensitive=case_sensitive,
            ignore=ignore,
            limit=limit,
            stop=stop,
        )
        return await _look(job, stop)

    async def mkdir(self, path: str) -> None:
        """Make a folder and those above it."""
        await anyio.to_thread.run_sync(self._jail.mkdir, path)

    async def remove(self, path: str, *, recursive: bool = False) -> None:
        """Remove a file, a link or a folder."""
        await anyio.to_thread.run_sync(self._jail.remove, path, recursive)

    # ---- the end -------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """End all processes; returns when they are gone. Again is harmless."""
        self._closed = True
        with anyio.CancelScope(shield=True):
            hurried = tuple(self._running)
            for running in hurried:
                running.hurry()
            for event in (*(running.gone for running in hurried), *self._starts):
                await event.wait()
            async with anyio.create_task_group() as group:
                for process in self._background.values():
                    group.start_soon(process.kill)
            self._background.clear()

    async def dispose(self) -> None:
        """Close it; the root and its files stay."""
        await self.close()

    @classmethod
    async def kill_ref(cls, ref: str) -> int:
        """End what a dead owner's commands left; Linux only, 0 elsewhere.

        For refs whose owner lives: it is killed too.
        """
        return await anyio.to_thread.run_sync(kill_marked, _mark_of(ref))


def _mark_of(ref: str) -> str:
    if not ref.startswith(PREFIX) or not ref[len(PREFIX) :].isalnum():
        raise SandboxError(f"{ref!r} is no ref of a local sandbox; they look like 'local:1f…'.", code="bad_ref")
    return ref


async def _look(job: Callable[[], T], stop: Event | None = None) -> T:
    """Run a job that changes nothing in a worker thread.

    When cancelled it is left behind and told to stop.
    """
    try:
        return await anyio.to_thread.run_sync(job, abandon_on_cancel=True)
    except anyio.get_cancelled_exc_class():
        if stop is not None:
            stop.set()
        raise
