"""Threads that live as long as the store is open, and a queue that callers put their work into.

A thread takes all that waits as one batch, so that many concurrent callers share one transaction and one fsync. For
that what is brought during one turn of an event loop is put into the queue together, at its end. Callers wait for
their answer; the thread tells them of it by the loop's own door for other threads, with one call for all of a batch
that wait in that loop.

It is the thread that owns a batch, from the moment it takes it until every job of it has its answer. No task does,
for a task may be cancelled at any moment and by means that no shield holds off (`asyncio.timeout`, `wait_for`,
Ctrl-C). So a caller that is cancelled takes its job out of the queue if it still waits there; if a thread has it, it
is done like the others, and only nobody hears of it. Jobs are begun in the order in which they came.

There may be several threads, each with one batch at a time; they share one queue, so that a batch that takes long
holds up those in it and nobody else.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import anyio
from anyio.lowlevel import current_token

from kode.core.errors import StoreError, StoreUnavailableError

__all__ = ["Job", "Lanes"]

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Job(Generic[T]):
    """What one caller brought."""

    work: Callable[..., T]
    alone: bool
    """It shares its batch with nobody."""
    loop: Any
    """The loop of asyncio or the token of trio: the door to the caller's thread."""
    turn: Any
    """A future of asyncio's, or an event; set when the job is done."""
    state: Literal["waiting", "taken", "dropped"] = "waiting"
    value: T | None = None
    error: BaseException | None = None

    def result(self) -> T:
        """Give its value, or raise what went wrong."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # T may be None itself


class Lanes:
    """Runs jobs in batches, in threads of its own. May be used from several event loops.

    Args:
        name: Of the threads.
        carry: Runs a batch, in a thread; it gives each job its `value` or its `error`.
        leave: Called in the last thread before it ends.
        width: How many threads there are.
        most: How many jobs a batch takes.
    """

    def __init__(
        self,
        name: str,
        carry: Callable[[list[Job[Any]]], None],
        leave: Callable[[], None],
        *,
        width: int,
        most: int,
    ) -> None:
        self._name = name
        self._carry = carry
        self._leave = leave
        self._width = width
        self._most = most
        self._brought: dict[Any, list[Job[Any]]] = {}
        """What was brought during this turn of a loop; only that loop touches its list."""
        self._queue: deque[Job[Any]] = deque()
        self._changed = threading.Condition(threading.Lock())
        self._threads: list[threading.Thread] = []
        self._working = 0
        """Threads that have not decided to end."""
        self._closers: list[Job[Any]] = []
        """Who waits until all threads have ended."""
        self._open = False
        self._pid = os.getpid()

    def open(self) -> None:
        """Start the threads. Does nothing when they run.

        Raises:
            StoreError: ``forked``: this process was forked off the one that made the lanes.
            StoreUnavailableError: ``no_thread``: the system gives no more threads.
        """
        self._check_process()
        with self._changed:
            self._open = True
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            closers, self._closers = self._closers, []
            try:
                while self._working < self._width:
                    # Daemons: a store that nobody closes must not keep its process from ending. What they are at
                    # then was not acknowledged, and SQLite takes it back.
                    thread = threading.Thread(target=self._work, name=f"{self._name}-{self._working}", daemon=True)
                    thread.start()
                    self._threads.append(thread)
                    self._working += 1
            except RuntimeError as error:
                self._open = False
                self._changed.notify_all()
                raise StoreUnavailableError(f"No thread can be had: {error}.", code="no_thread") from error
        _wake(closers)

    async def close(self) -> None:
        """Let the threads finish what is in the queue, and end."""
        if self._pid != os.getpid():
            return
        closer = _job(lambda: None, True)
        self._put(closer.loop)
        with self._changed:
            threads, self._threads = self._threads, []
            running = self._working > 0
            if running:
                self._closers.append(closer)
        self.stop()
        if running:
            await _turn(closer)
        for thread in threads:
            if not self._open:
                thread.join()  # it has left its last line of ours behind

    def stop(self) -> None:
        """Ask the threads to end once the queue is empty, without waiting for that."""
        if self._pid != os.getpid():
            return
        with self._changed:
            self._open = False
            self._changed.notify_all()

    async def run(self, work: Callable[..., T], *, alone: bool = False) -> T:
        """Run a function in a thread and return its value.

        A caller that is cancelled while its batch is under way does not hear what came of it; one that still
        waits in the queue is taken out of it.

        Raises:
            StoreError: ``closed``: there are no threads. ``forked``: they are in another process.
        """
        self._check_process()
        job = _job(work, alone)
        if not self._open:
            raise _closed()
        others = self._brought.get(job.loop)
        if others is None:
            self._brought[job.loop] = [job]
            call = getattr(job.loop, "call_soon", None) or job.loop.run_sync_soon
            call(self._put, job.loop)
        else:
            others.append(job)
        try:
            await _turn(job)
        except BaseException:  # cancelled
            with self._changed:
                if job.state == "waiting":
                    job.state = "dropped"
            raise
        return job.result()

    def _put(self, loop: Any) -> None:
        """Put what this turn of a loop has brought into the queue."""
        jobs = self._brought.pop(loop, [])
        if not jobs:
            return
        with self._changed:
            if self._open:
                self._queue.extend(jobs)
                self._changed.notify()
                return
        for job in jobs:
            job.error = _closed()
        _wake(jobs)

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            # Its lock may be held for ever by a thread that is not here, and its connections are another's.
            raise StoreError(
                "The store was made before this process was forked off; make and open one here.", code="forked"
            )

    # ---- in the threads ------------------------------------------------------------------------------------

    def _work(self) -> None:
        while batch := self._take():
            self._do(batch)
            del batch

    def _take(self) -> list[Job[Any]]:
        """Wait for jobs and take a batch of them; nothing once the lanes are closed, for this thread to end."""
        with self._changed:
            while True:
                batch = self._batch()
                if batch:
                    if self._queue:
                        self._changed.notify()
                    return batch
                if not self._open:
                    break
                self._changed.wait()
            self._working -= 1
            if self._working:
                return []
            closers, self._closers = self._closers, []
        try:
            self._leave()
        finally:
            _wake(closers)
        return []

    def _batch(self) -> list[Job[Any]]:
        batch: list[Job[Any]] = []
        while self._queue and len(batch) < self._most:
            job = self._queue[0]
            if job.alone and batch:
                break
            self._queue.popleft()
            if job.state == "dropped":
                continue
            job.state = "taken"
            batch.append(job)
            if job.alone:
                break
        return batch

    def _do(self, batch: list[Job[Any]]) -> None:
        try:
            self._carry(batch)
        except BaseException as error:  # noqa: BLE001 - nobody may take silence for success
            for job in batch:
                job.error = job.error or error
        _wake(batch)


# ---- between a thread and the loops ------------------------------------------------------------------------


def _closed() -> StoreError:
    return StoreError("The store is closed; open it again.", code="closed")


def _job(work: Callable[..., T], alone: bool) -> Job[T]:
    """Make a job whose caller waits in the loop that runs here."""
    token = current_token()
    loop: Any = getattr(token, "native_token", token)
    future = getattr(loop, "create_future", None)
    return Job(work, alone, loop, anyio.Event() if future is None else future())


async def _turn(job: Job[Any]) -> None:
    """Wait until a job is done."""
    if isinstance(job.turn, anyio.Event):
        await job.turn.wait()
    else:
        await job.turn


def _wake(jobs: list[Job[Any]]) -> None:
    """Tell the callers of jobs that these are done, with one call for each of their loops."""
    loops: dict[Any, list[Job[Any]]] = {}
    for job in jobs:
        loops.setdefault(job.loop, []).append(job)
    for loop, those in loops.items():
        call = getattr(loop, "call_soon_threadsafe", None) or loop.run_sync_soon
        try:
            call(_set, those)
        except RuntimeError:
            pass  # that loop has ended, and who waited in it


def _set(jobs: list[Job[Any]]) -> None:
    for job in jobs:
        if isinstance(job.turn, anyio.Event):
            job.turn.set()
        elif not job.turn.done():
            job.turn.set_result(None)
