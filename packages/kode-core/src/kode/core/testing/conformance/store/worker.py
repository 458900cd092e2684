"""Another process at the same data: what the kit has it do, and how it is started, told to go, heard and killed.

A worker tells each thing that was acknowledged to it. What it told must be found afterwards, whatever became of the
worker: that is all that is asked of a store here. Workers come from a fork server, which has imported all of this once.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import count
from multiprocessing.connection import Connection
from typing import Any

import anyio

from kode.core.errors import AgentExistsError, ConflictError, DuplicateIdError, LeaseLostError, StoreUnavailableError
from kode.core.store.base import Store
from kode.core.testing.conformance.store.author import Author, Place, item, loaded
from kode.core.testing.conformance.store.faults import Cut

__all__ = ["ENDLESS", "Worker", "adopt", "workers"]

ENDLESS = -1
"""As a number of times: until it is killed."""
PATIENCE_S = 60.0
_READY = "ready"


class Worker:
    """One other process, which waits for `go`."""

    def __init__(self, place: Place, *job: Any) -> None:
        fork = multiprocessing.get_context("forkserver")
        fork.set_forkserver_preload([__name__])
        self._heard, told = fork.Pipe()
        self._process = fork.Process(target=_work, args=(told, place, *job), daemon=True)
        self._process.start()
        told.close()

    def ready(self) -> None:
        """Wait until it has opened its store."""
        assert self._line() == _READY

    def go(self) -> None:
        """Let it begin, or go on."""
        self._heard.send(None)

    async def hear(self, lines: int) -> list[Any]:
        """Wait for so many of the things it tells."""
        return await anyio.to_thread.run_sync(lambda: [self._line() for _ in range(lines)])

    async def end(self) -> list[Any]:
        """Wait until it ends by itself; the rest of what it told."""
        said = await self.ended()
        assert self._process.exitcode == 0, "the other process failed; its error is above"
        return said

    async def ended(self) -> list[Any]:
        """Wait until it has killed itself, or ended; the rest of what it told."""
        return await anyio.to_thread.run_sync(self._rest)

    async def kill(self) -> list[Any]:
        """Kill it without a warning; the rest of what it told."""
        self._process.kill()
        return await self.ended()

    def close(self) -> None:
        """Leave nothing behind."""
        self._process.kill()
        self._process.join()
        self._heard.close()

    def _line(self) -> Any:
        assert self._heard.poll(PATIENCE_S), f"the other process said nothing for {PATIENCE_S} s"
        try:
            return self._heard.recv()
        except EOFError:
            raise AssertionError("the other process ended too early; its error is above") from None

    def _rest(self) -> list[Any]:
        said: list[Any] = []
        try:
            while self._heard.poll(PATIENCE_S):
                said.append(self._heard.recv())
        except (EOFError, ConnectionResetError):
            pass  # what was cut off in the middle was not said
        self._process.join(PATIENCE_S)
        return said


@contextmanager
def workers(place: Place, *jobs: tuple[Any, ...]) -> Iterator[list[Worker]]:
    """Start a process for each job `(task, *arguments)` and wait until all are ready; none is left behind."""
    started: list[Worker] = []
    try:
        for job in jobs:
            started.append(Worker(place, *job))  # noqa: PERF401 - each that was started must be ended
        for worker in started:
            worker.ready()
        yield started
    finally:
        for worker in started:
            worker.close()


# ---- what they do ----------------------------------------------------------------------------------------------


def rounds(times: int) -> Iterator[int]:
    """Count so many times, or for ever."""
    return iter(count() if times == ENDLESS else range(times))


async def adopt(store: Store, agent_id: str = "agent") -> Author:
    """Take up an agent that is stored, as a driver without a lease would."""
    found = await loaded(store, agent_id)
    author = Author(store, agent_id, found.state.uid)
    author.state, author.version, author.seen = found.state, found.version, found.seen
    return author


async def enqueue(store: Store, told: Connection, name: str, times: int) -> None:
    """Send items `<name>-<n>`; tells position and id."""
    for n in rounds(times):
        done = await store.enqueue("agent", item(f"{name}-{n}"))
        told.send([done.position, f"{name}-{n}"])


async def commit(store: Store, told: Connection, name: str, times: int) -> None:
    """Commit messages `<name>-<n>` and take what waits; tells sequence number, text, and ids that were taken."""
    for n in rounds(times):
        while True:
            author = await adopt(store)
            taken = {i.position: i for i in (await loaded(store)).inbox}
            ids = [i.id for i in taken.values()]
            try:
                await author.say(f"{name}-{n}", commit_id=f"{name}-{n}", consumed=taken, taken=dict.fromkeys(ids, 1))
                break
            except ConflictError:
                pass
        told.send([author.state.next_seq - 1, f"{name}-{n}", ids])


async def large(store: Store, told: Connection, name: str, times: int) -> None:
    """Commit a hundred messages at a time; tells how many there are by then."""
    author = await adopt(store)
    for n in rounds(times):
        await author.say(*[f"{name}-{n}-{k}" for k in range(100)], events=3)
        told.send(author.state.next_seq)


async def decide(store: Store, told: Connection, name: str, times: int) -> None:
    """Send decisions whose ids others send too; tells which were taken."""
    for n in rounds(times):
        sent = item(f"decision:1.1.{n}:1", name, kind="decision")
        try:
            if not (await store.enqueue("agent", sent)).duplicate:
                told.send(n)
        except DuplicateIdError:
            pass


async def create(store: Store, told: Connection, name: str, times: int) -> None:
    """Create agents that others create too; tells which were made."""
    for n in rounds(times):
        try:
            await Author(store, f"new-{n}", f"uid-{name}-{n}").create()
            told.send([f"new-{n}", f"uid-{name}-{n}"])
        except AgentExistsError:
            pass


async def drive(store: Store, told: Connection, name: str, times: int) -> None:
    """Take the lease, commit under its fence, give it back; tells each fence and the version made under it."""
    for _ in rounds(times):
        while True:
            try:
                lease = await store.acquire("agent", name, 300)
                break
            except (LeaseLostError, StoreUnavailableError):
                await anyio.sleep(0.001)
        author = await adopt(store)
        author.fence = lease.fence
        done = await author.say(name)
        told.send([lease.fence, done.version])
        await store.release(lease)


async def hold(store: Store, told: Connection, holder: str, ttl_s: float) -> None:
    """Take the lease, tell its fence, and keep it."""
    told.send((await store.acquire("agent", holder, ttl_s)).fence)
    await anyio.sleep_forever()


async def look(store: Store, told: Connection, name: str, times: int) -> None:
    """Each time it is told to, tell what is there: version, messages and items."""
    for _ in rounds(times):
        await anyio.to_thread.run_sync(told.recv)
        found = await loaded(store)
        told.send([found.version, len(found.window), len(found.inbox)])


async def blobs(store: Store, told: Connection, name: str, times: int) -> None:
    """Keep blobs of some hundred kilobytes; tells their names."""
    for n in rounds(times):
        told.send(await store.put_blob("agent", f"{name}-{n}".encode() * 30_000))


async def strike(store: Store, told: Connection, act: str, nth: int, after: bool) -> None:
    """Kill itself before or after the n-th write of an act; or, when the act is over before that, having said so."""
    cut = Cut(store, nth, after, lambda: os.kill(os.getpid(), signal.SIGKILL))
    if act == "fork":
        await cut.fork("agent", "fork", new_uid="uid-fork")
    elif act == "erase":
        await cut.erase("agent")
    elif act == "enqueue":
        await cut.enqueue("agent", item("struck"))
    else:
        author = await adopt(store)
        author.store = cut
        await author.say(*[f"{n}" for n in range(40)], events=3, commit_id="struck")
    told.send("over")
    os.kill(os.getpid(), signal.SIGKILL)


TASKS: dict[str, Callable[..., Awaitable[None]]] = {
    task.__name__: task for task in (enqueue, commit, large, decide, create, drive, hold, look, blobs, strike)
}


async def work(told: Connection, place: Place, task: str | Callable[..., Awaitable[None]], *arguments: Any) -> None:
    """Open the store, wait for the word, and do the task."""
    async with place() as store:
        await store.exists("agent")
        told.send(_READY)
        told.recv()
        await (TASKS[task] if isinstance(task, str) else task)(store, told, *arguments)


def _work(told: Connection, place: Place, *job: Any) -> None:
    anyio.run(work, told, place, *job)
