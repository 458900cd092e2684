"""One command on its way through ``exec`` of the local sandbox: its output, its time, and its end."""

# ruff: noqa: TID251 - talks to operating-system processes, which no virtual clock can move

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import anyio.to_thread

from kode.core.sandbox.base import ExecResult, OnOutput, Stream
from kode.core.sandbox.launch import LOST, Launched
from kode.core.sandbox.orphans import COMMAND_MARK, kill_marked
from kode.core.sandbox.output import HeadTail, join_cut

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

__all__ = ["RunningCommand"]

DRAIN_S = 1.0
"""How long output is still read when the command has ended but someone holds its pipe open."""
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
