"""The local sandbox: commands as processes of this machine, files below one folder.

**Commands are not confined.** ``exec`` and ``spawn`` run with this user's rights: they can read and write
whatever this user can, and use the network. What is held back are the host's environment variables (an
allow-list), so secrets in them do not leak, and what is guaranteed is that processes end. Only the file
methods cannot leave the root. Give an agent that you do not trust another sandbox.

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
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from kode.core.errors import SandboxError
from kode.core.sandbox import search
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
    Stream,
)
from kode.core.sandbox.jail import Jail
from kode.core.sandbox.launch import LOST, Launched, arguments, environment
from kode.core.sandbox.orphans import COMMAND_MARK, MARK, kill_marked
from kode.core.sandbox.output import HeadTail, join_cut

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

__all__ = ["LocalSandbox"]

PREFIX = "local:"
DRAIN_S = 1.0
"""How long output is still read when the command has ended but someone holds its pipe open."""
KILL_S = 5.0
"""How long a killed command may take to be gone; longer only in uninterruptible sleep."""

T = TypeVar("T")


class LocalSandbox:
    """Run commands on this machine and files below ``root``; commands are **not** confined (see the module).

    Args:
        root: Working folder; made if it is missing.
        ref: Of an earlier sandbox, to continue under its name; by default a new one.
        env_allow: Names of host variables that commands may see beside the usual ones.
        env: Variables that every command gets.
        grace_s: Seconds between SIGTERM and SIGKILL.

    Raises:
        SandboxError: The root cannot be made or is no folder.
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
    ) -> None:
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
        self._running: set[_Running] = set()
        self._numbers = itertools.count(1)
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
        """Do nothing: there is nothing to start. A closed sandbox can be used again after it."""
        self._closed = False

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
        running = _Running(*launch, self._grace_s)
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
        """Start a command in the background; see ``Sandbox.spawn``."""
        launch, mark = self._prepare(command, cwd, env, merge=True, feed=False)
        id = mark.rpartition("/")[2]
        with anyio.CancelScope(shield=True):  # what was started must not be forgotten
            launched = await anyio.to_thread.run_sync(launch)
            process = BackgroundProcess(id, launched, mark, max_output, self._grace_s)
            self._background[id] = process
        return process

    def process(self, id: str) -> Process:
        """Return a background process of this sandbox."""
        try:
            return self._background[id]
        except KeyError:
            known = ", ".join(self._background) or "none"
            raise SandboxError(f"There is no process {id!r} here; known: {known}.", code="no_process") from None

    def processes(self) -> tuple[str, ...]:
        """Ids of the background processes, oldest first."""
        return tuple(self._background)

    def _prepare(
        self, command: Command, cwd: str | None, env: Mapping[str, str] | None, *, merge: bool, feed: bool
    ) -> tuple[Callable[[], Launched], str]:
        """Check a command; return what starts it (in a worker thread) and its mark."""
        if self._closed:
            raise SandboxError("The sandbox is closed; open() it again.", code="closed")
        argv = arguments(command)
        mark = f"{self._ref}/{next(self._numbers)}"
        whole = environment(
            os.environ, self._env_allow, {**self._env, **(env or {})}, {MARK: self._ref, COMMAND_MARK: mark}
        )

        def launch() -> Launched:
            folder = self._jail.folder(cwd) if cwd is not None else self._jail.root
            return Launched(argv, cwd=folder, env=whole, merge=merge, feed=feed)

        return launch, mark

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
        job = partial(search.glob, self._jail, pattern, cwd, dot=dot, ignore=ignore, limit=limit, stop=stop)
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
            search.grep,
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
            for running in tuple(self._running):
                running.hurry()
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


class _Running:
    """One command on its way through ``exec``."""

    def __init__(self, launch: Callable[[], Launched], mark: str, grace_s: float) -> None:
        self._launch = launch
        self._mark = mark
        self._grace_s = grace_s
        self._launched: Launched | None = None
        self._code: int | None = None
        self._failure: Exception | None = None
        self._hurry = anyio.Event()

    def hurry(self) -> None:
        """End it as at a time-out."""
        self._hurry.set()

    async def run(
        self, timeout_s: float | None, stdin: bytes | None, on_output: OnOutput | None, max_output: int
    ) -> ExecResult:
        """Start it, see it through, and tidy up whatever happens."""
        try:
            with anyio.CancelScope(shield=True):  # what was started must be known, to be ended
                launched = self._launched = await anyio.to_thread.run_sync(self._launch)
            streams: dict[Stream, HeadTail] = {"stdout": HeadTail(max_output)}
            if launched.popen.stderr is not None:
                streams = {"stdout": HeadTail(max_output // 2), "stderr": HeadTail(max_output // 2)}
            timed_out = await self._see_through(launched, streams, timeout_s, stdin, on_output)
        finally:
            await self._tidy()
        if self._failure is not None:
            raise self._failure
        kept = {name: join_cut(*stream.parts()) for name, stream in streams.items()}
        cut = sum(missing for _, missing in kept.values())
        code = LOST if self._code is None else self._code
        return ExecResult(code, kept["stdout"][0], kept.get("stderr", (b"", 0))[0], timed_out, cut)

    async def _see_through(
        self,
        launched: Launched,
        streams: Mapping[Stream, HeadTail],
        timeout_s: float | None,
        stdin: bytes | None,
        on_output: OnOutput | None,
    ) -> bool:
        """Read output until the command has ended. Returns whether its time ran out."""
        async with anyio.create_task_group() as group:
            drained = [anyio.Event() for _ in streams]
            for (name, kept), done in zip(streams.items(), drained, strict=True):
                pipe = launched.popen.stdout if name == "stdout" else launched.popen.stderr
                assert pipe is not None
                group.start_soon(self._pump, group, pipe.fileno(), name, kept, on_output, done)
            if stdin is not None:
                group.start_soon(self._feed, launched, stdin)
            with anyio.move_on_after(timeout_s) as scope:
                await self._ended_or_hurried(launched)
            if self._code is None:
                await self._stop(launched)
            with anyio.move_on_after(DRAIN_S):
                for done in drained:
                    await done.wait()
            group.cancel_scope.cancel()
        return scope.cancelled_caught

    async def _ended_or_hurried(self, launched: Launched) -> None:
        async with anyio.create_task_group() as group:

            async def watch() -> None:
                await self._hurry.wait()
                group.cancel_scope.cancel()

            group.start_soon(watch)
            await self._listen(launched)
            group.cancel_scope.cancel()

    async def _listen(self, launched: Launched) -> None:
        """Wait for the supervisor to tell the exit status."""
        told = b""
        while not told.endswith(b"\n"):
            piece = await _read(launched.control.fileno())
            if not piece:  # the supervisor was killed, so nobody watches over the rest
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(kill_marked, self._mark, COMMAND_MARK)
                self._code = LOST
                return
            told += piece
        self._code = int(told)

    async def _pump(
        self,
        group: TaskGroup,
        descriptor: int,
        name: Stream,
        kept: HeadTail,
        on_output: OnOutput | None,
        done: anyio.Event,
    ) -> None:
        try:
            while piece := await _read(descriptor):
                kept.write(piece)
                if on_output is not None:
                    await on_output(name, piece)
        except Exception as error:  # noqa: BLE001 - raised by run(), bare instead of in a group
            self._failure = error
            group.cancel_scope.cancel()
        finally:
            done.set()

    async def _feed(self, launched: Launched, data: bytes) -> None:
        pipe = launched.popen.stdin
        assert pipe is not None
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(pipe.fileno(), view[:65_536]) :]
                await anyio.lowlevel.checkpoint()
            except BlockingIOError:
                await anyio.wait_writable(pipe.fileno())
            except BrokenPipeError:  # it does not want more
                break
        pipe.close()

    async def _stop(self, launched: Launched) -> None:
        """End it: politely, then by force. Bounded."""
        for word, wait_s in ((b"T", self._grace_s), (b"K", KILL_S)):
            launched.tell(word)
            with anyio.move_on_after(wait_s):
                await self._listen(launched)
            if self._code is not None:
                return

    async def _tidy(self) -> None:
        """Leave nothing: not the command, not its supervisor, no descriptor. Shielded and bounded."""
        launched = self._launched
        if launched is None:
            return
        with anyio.CancelScope(shield=True):
            if self._code is None:
                launched.close_pipes()  # nobody reads any more: a writer shall fail, not wait
                await self._stop(launched)
            await anyio.to_thread.run_sync(launched.reap, KILL_S)
            if self._code is None:
                await anyio.to_thread.run_sync(kill_marked, self._mark, COMMAND_MARK)


async def _read(descriptor: int) -> bytes:
    """Read what there is, or wait for it. A checkpoint also when there is always more."""
    await anyio.lowlevel.checkpoint()
    while True:
        try:
            return os.read(descriptor, 65_536)
        except BlockingIOError:
            await anyio.wait_readable(descriptor)
        except ConnectionResetError:
            return b""
