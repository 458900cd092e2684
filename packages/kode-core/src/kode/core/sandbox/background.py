"""A background process of the local sandbox.

A thread reads its output, so it needs no task and no event loop.
"""

from __future__ import annotations

import selectors
import threading

import anyio
import anyio.to_thread  # noqa: TID251 - kill() waits for a process

from kode.core.sandbox.base import ExecResult, Logs
from kode.core.sandbox.launch import LOST, Launched, not_started, read_now
from kode.core.sandbox.orphans import COMMAND_MARK, kill_marked
from kode.core.sandbox.output import HeadTail, join_cut

__all__ = ["BackgroundProcess"]

DRAIN_S = 1.0
REAP_S = 5.0


class BackgroundProcess:
    """Implements ``Process``. Owned by its sandbox, which kills it on ``close``."""

    def __init__(self, id: str, launched: Launched, mark: str, max_output: int, grace_s: float) -> None:
        self.id = id
        self._launched = launched
        self._mark = mark
        self._grace_s = grace_s
        self._kept = HeadTail(max_output)
        self._lock = threading.Lock()
        self._code: int | None = None
        self._ended = threading.Event()
        # A daemon thread: an owner that exits without closing must not wait for it. The socket ends the
        # process.
        self._thread = threading.Thread(target=self._watch, name=f"kode-{mark}", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            launched.reap(REAP_S)  # which ends it
            raise not_started(error) from error

    @property
    def ended(self) -> bool:
        """Whether it has ended and been reaped."""
        return self._ended.is_set()

    async def logs(self, *, after: int = 0) -> Logs:
        """Return the output from byte ``after`` on, as far as it was kept; never waits for more."""
        with self._lock:
            running = not self._ended.is_set()  # looked at first: what is read after it is complete
            data, cut = self._kept.after(after)
            return Logs(data, self._kept.total, cut, running, self._code)

    async def wait(self) -> ExecResult:
        """Wait for its end. Cancelling this leaves it running."""
        pause = 0.005
        while not self._ended.is_set():
            await anyio.sleep(pause)  # noqa: TID251 - waits for an operating-system process
            pause = min(pause * 2, 0.1)
        return self._result()

    async def kill(self) -> ExecResult:
        """End it and all it started: politely, then by force. Harmless once it has ended."""
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.end)  # noqa: TID251 - blocks on a process
        return self._result()

    def end(self) -> None:
        """Kill, for callers in a worker thread."""
        for word, wait_s in ((b"T", self._grace_s), (b"K", REAP_S)):
            if self._ended.is_set():
                break
            self._launched.tell(word)
            self._ended.wait(wait_s)
        if not self._ended.is_set():
            self._launched.popen.kill()
            kill_marked(self._mark, COMMAND_MARK)
            self._ended.wait(REAP_S)

    def _result(self) -> ExecResult:
        with self._lock:
            data, cut = join_cut(*self._kept.parts())
        return ExecResult(self._code if self._code is not None else -1, data, cut_bytes=cut)

    def _watch(self) -> None:
        """Read output and the supervisor's word until both have ended, the output at most a moment longer."""
        launched, status = self._launched, b""
        stdout = launched.popen.stdout
        assert stdout is not None
        with selectors.PollSelector() as selector:  # needs no descriptor of its own
            selector.register(launched.control, selectors.EVENT_READ)
            selector.register(stdout, selectors.EVENT_READ)
            ended = False
            while selector.get_map():
                ready = selector.select(DRAIN_S if ended else None)
                if not ready:
                    break  # someone who escaped holds the pipe open
                for key, _ in ready:
                    piece = read_now(key.fd)
                    if piece is None:
                        continue
                    if key.fileobj is stdout and piece:
                        with self._lock:
                            self._kept.write(piece)
                    elif piece and not piece.endswith(b"\n"):
                        status += piece
                    else:
                        status += piece if key.fileobj is not stdout else b""
                        ended = ended or key.fileobj is not stdout
                        selector.unregister(key.fileobj)
        self._finish(status)

    def _finish(self, status: bytes) -> None:
        self._launched.reap(REAP_S)
        if not status:
            kill_marked(self._mark, COMMAND_MARK)  # the supervisor itself was killed
        self._code = int(status) if status else LOST
        self._ended.set()
