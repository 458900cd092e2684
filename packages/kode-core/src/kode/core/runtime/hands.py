"""The hands of one drive: tasks that carry out effects; the answer of each goes into the mailbox."""

from __future__ import annotations

from collections.abc import Collection

import anyio
from anyio.abc import TaskGroup

from kode.core.errors import KodeError
from kode.core.kernel.effects import CallModel, CompactHistory, Deliver, Effect, RunTool
from kode.core.kernel.inputs import Input
from kode.core.kernel.state import State
from kode.core.runtime.effects.deliver import deliver
from kode.core.runtime.effects.model import call_model
from kode.core.runtime.effects.tool import run_tool
from kode.core.runtime.effects.worker import Worker
from kode.core.runtime.mailbox import Mailbox
from kode.core.tools.base import is_failure

__all__ = ["Hands"]


class _Hand:
    """Where a task is given its next effect."""

    __slots__ = ("_bell", "effect")

    def __init__(self, effect: Effect) -> None:
        self.effect: Effect | None = effect
        self._bell = anyio.Semaphore(0, fast_acquire=True)

    def give(self, effect: Effect | None) -> None:
        """Hand over an effect; the task waits for one. None: there will be no more."""
        self.effect = effect
        self._bell.release()

    async def wait(self) -> None:
        """Wait for the next effect."""
        await self._bell.acquire()


class Hands:
    """Carries out what is durable. A task that has done its effect waits for the next: making one is dearer."""

    __slots__ = ("_idle", "_tasks", "active", "box", "worker")

    def __init__(self, worker: Worker, box: Mailbox, tasks: TaskGroup) -> None:
        self.worker = worker
        self.box = box
        self.active: set[str] = set()
        """Effects being carried out."""
        self._tasks = tasks
        self._idle: list[_Hand] = []

    def start(self, effect: Effect) -> None:
        """Begin an effect; its answer comes into the box."""
        self.active.add(effect.id)
        if self._idle:
            self._idle.pop().give(effect)
        else:
            self._tasks.start_soon(self._work, _Hand(effect))

    def keep(self, wanted: Collection[Effect]) -> None:
        """Cancel all others: nobody waits for their answers any more."""
        if self.active:
            for id in self.active - {effect.id for effect in wanted}:
                self.worker.drop(id)

    def cancel(self, state: State) -> set[str]:
        """Cancel the model and the tools; what says something to other agents goes on. Which they are."""
        mine = {id for id in self.active if not isinstance(state.effect(id), Deliver)}
        for id in mine:
            self.worker.drop(id)
        return mine

    def dismiss(self) -> bool:
        """Have the tasks that wait end; whether those are all.

        To be told is cheaper than to be cancelled, which leaves a traceback of each task behind.
        """
        for hand in self._idle:
            hand.give(None)
        self._idle.clear()
        return not self.active

    async def _work(self, hand: _Hand) -> None:
        """Carry out one effect after another."""
        while hand.effect is not None:
            effect = hand.effect
            try:
                answer = await perform(self.worker, effect)
                if answer is not None:
                    self.box.post(answer)
            except anyio.get_cancelled_exc_class() as error:
                if not is_failure(error):
                    raise
                self.box.fail(KodeError(f"What effect {effect.id} waited for was cancelled.", code="cancelled"))
            except Exception as error:  # noqa: BLE001 - it ends the drive, which raises it
                self.box.fail(error)
            finally:
                self.active.discard(effect.id)
                self.box.wake()
            self._idle.append(hand)
            await hand.wait()


async def perform(worker: Worker, effect: Effect) -> Input | None:
    """Do what the kernel asked for; None when it was dropped before it could answer.

    Nothing is raised for what a model, a tool or another agent does; that is what answers are for. Cancellation passes
    through, and then there is no answer.
    """
    try:
        if isinstance(effect, CallModel):
            return await call_model(worker, effect)
        if isinstance(effect, RunTool):
            return await run_tool(worker, effect)
        if isinstance(effect, Deliver):
            return await deliver(worker, effect)
        return await _compact(worker, effect)
    finally:
        worker.forget(effect.id)


async def _compact(worker: Worker, effect: CompactHistory) -> Input | None:
    with anyio.CancelScope() as scope:
        worker.enter(effect.id, scope)
        return await worker.context.compact(effect)
    return None
