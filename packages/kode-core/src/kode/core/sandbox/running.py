"""One command on its way through ``exec`` of the local sandbox: its output, its time, and its end."""

# ruff: noqa: TID251 - talks to operating-system processes, which no virtual clock can move

from __future__ import annotations

import fcntl
import os
import sys
import termios
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import anyio.to_thread

from kode.core.sandbox.base import ExecResult, OnOutput, Stream
from kode.core.sandbox.launch import LOST, PIECE, Launched, read_now
from kode.core.sandbox.orphans import COMMAND_MARK, kill_marked
from kode.core.sandbox.output import HeadTail, join_cut

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

__all__ = ["RunningCommand"]

LISTENER_S = 1.0
"""How long a slow ``on_output`` may still be told output when the command's time is over; the rest is only kept."""
KILL_S = 5.0
"""How long a killed command may take to be gone; longer only in uninterruptible sleep."""


class RunningCommand:
    """A command from its start to its end. ``run`` it once."""

    def __init__(self, launch: Callable[[], Launched], mark: str, grace_s: float) -> None:
        self._launch = launch
        self._mark = mark
        self._grace_s = grace_s
        self._launched: Launched | None = None
        self._code: int | None = None
        self._failure: Exception | None = None
        self._hurry = anyio.Event()
        self.gone = anyio.Event()
        """Its processes are; what they wrote may still be on its way to a listener."""

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
            try:
                await self._tidy()
            finally:
                self.gone.set()
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
        pumps = [_Pump(launched.stream(name).fileno(), name, kept, on_output) for name, kept in streams.items()]
        timed_out = False
        async with anyio.create_task_group() as group:
            for pump in pumps:
                group.start_soon(self._told, group, pump)
            if stdin is not None:
                group.start_soon(self._feed, launched, stdin)
            with anyio.move_on_after(timeout_s) as scope:
                await self._unless_hurried(partial(self._to_the_end, launched, pumps))
            timed_out = scope.cancelled_caught and self._code is None
            if self._code is None:
                await self._stop(launched)
            self._at_end(pumps)
            with anyio.move_on_after(LISTENER_S):
                await _all_told(pumps)
            group.cancel_scope.cancel()
        if self._code is not None:
            for pump in pumps:
                pump.take_rest()
        return timed_out

    async def _to_the_end(self, launched: Launched, pumps: Sequence[_Pump]) -> None:
        """Wait for the command, then for the listener: its time is the command's."""
        await self._listen(launched)
        self._at_end(pumps)
        await _all_told(pumps)

    def _at_end(self, pumps: Sequence[_Pump]) -> None:
        self.gone.set()
        for pump in pumps:
            pump.end()

    async def _unless_hurried(self, wait: Callable[[], Awaitable[None]]) -> None:
        async with anyio.create_task_group() as group:

            async def watch() -> None:
                await self._hurry.wait()
                group.cancel_scope.cancel()

            group.start_soon(watch)
            await wait()
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

    async def _told(self, group: TaskGroup, pump: _Pump) -> None:
        try:
            await pump.run()
        except Exception as error:  # noqa: BLE001 - raised by run(), bare instead of in a group
            self._failure = error
            group.cancel_scope.cancel()

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
        """End it: politely, then by force, then without its supervisor, which a command can hold up. Bounded."""
        for act, wait_s in (
            (partial(launched.tell, b"T"), self._grace_s),
            (partial(launched.tell, b"K"), KILL_S),
            (launched.popen.kill, KILL_S),
        ):
            act()
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


class _Pump:
    """Takes what a stream brings, keeps it, and tells the listener."""

    def __init__(self, descriptor: int, name: Stream, kept: HeadTail, on_output: OnOutput | None) -> None:
        self._descriptor = descriptor
        self._name: Stream = name
        self._kept = kept
        self._on_output = on_output
        self._left: int | None = None
        """Bytes still to take; None while the command runs, and there is no knowing."""
        self._waiting = anyio.CancelScope()
        self.done = anyio.Event()

    async def run(self) -> None:
        """Until the stream ends; or the command has, and what it wrote is told."""
        try:
            while piece := await self._next():
                self._kept.write(piece)
                if self._on_output is not None:
                    await self._on_output(self._name, piece)
        finally:
            self.done.set()

    def end(self) -> None:
        """The command is gone: what is in its pipe now is the last.

        Who escaped and holds the pipe open is not waited for, nor heard.
        """
        if self._left is None:
            there = fcntl.ioctl(self._descriptor, termios.FIONREAD, bytes(4))
            self._left = int.from_bytes(there, sys.byteorder)
            self._waiting.cancel()

    def take_rest(self) -> None:
        """Keep what the listener was too slow for. It is lost to the listener alone."""
        while piece := self._take():
            self._kept.write(piece)

    def _take(self) -> bytes | None:
        piece = read_now(self._descriptor, PIECE if self._left is None else min(PIECE, self._left))
        if piece and self._left is not None:
            self._left -= len(piece)
        return piece

    async def _next(self) -> bytes | None:
        """Take what there is, or wait for it. A checkpoint also when there is always more."""
        await anyio.lowlevel.checkpoint()
        while (piece := self._take()) is None and self._left is None:
            with anyio.CancelScope() as self._waiting:
                await anyio.wait_readable(self._descriptor)
        return piece


async def _all_told(pumps: Sequence[_Pump]) -> None:
    for pump in pumps:
        await pump.done.wait()


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
