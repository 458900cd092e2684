"""How one hook is asked: with a time-out, in a worker thread if it is plain, and with a stated end if it fails."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import anyio

from kode.core.clock import Clock
from kode.core.errors import UsageError
from kode.core.hook.base import Hooks
from kode.core.kernel.events import Event, preview
from kode.core.tools.base import is_failure
from kode.core.tools.threads import Seat

__all__ = ["Asker", "HookFailed", "LateError", "Wrapping", "called"]

T = TypeVar("T")
_log = logging.getLogger("kode")


class HookFailed(Exception):  # noqa: N818 - it never leaves the chain of hooks
    """A hook raised, took too long, or returned what it may not. Its text is safe to show: no word of the hook's."""

    def __init__(self, text: str, *, late: bool) -> None:
        super().__init__(text)
        self.late = late


class LateError(Exception):
    """A hook or an observer did not end in time."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Asks hooks for one agent."""

    clock: Clock
    note: Callable[[Event], None]
    """Takes the durable event of a failure."""

    async def ask(self, hooks: Hooks, stage: str, read: Callable[[Any], T], *given: Any, call: str | None = None) -> T:
        """Ask one hook of a set; ``read`` turns what it returned into what is wanted, or raises.

        Raises:
            HookFailed: It was noted as an event already.
        """
        try:
            return read(await called(self.clock, hooks.timeout_s, getattr(hooks, stage), *given))
        except LateError:
            raise self.failed(hooks, stage, None, call) from None
        except BaseException as error:
            if not is_failure(error):
                raise
            raise self.failed(hooks, stage, error, call) from error

    def failed(self, hooks: Hooks, stage: str, error: BaseException | None, call: str | None) -> HookFailed:
        """Note a failure; None: it did not end in time."""
        what = "did not end in time" if error is None else f"failed ({type(error).__name__})"
        text = f"hook {hooks.name!r} {what} at {stage}"
        # What the hook itself says may hold anything: it goes to this process's log only.
        _log.warning("The %s", text, exc_info=error)
        data = {"hooks": hooks.name, "stage": stage, "error": "timeout" if error is None else type(error).__name__}
        self.note(Event("hook_failed", call=call, preview=preview(text), data=data))
        return HookFailed(text, late=error is None)


async def called(clock: Clock, timeout_s: float, function: Callable[..., Any], *given: Any) -> Any:
    """Call an async function here, a plain one in a worker thread: its time begins when it has one.

    Raises:
        LateError: It did not end in time, or had no thread in as much time.
    """
    work: Callable[[], Any] = partial(function, *given)
    if not inspect.iscoroutinefunction(function):
        seat = Seat()
        with clock.move_on_after(timeout_s):
            await seat.take()
        if not seat.taken:
            raise LateError
        work = partial(seat.run, work)
    with clock.move_on_after(timeout_s):
        value = await work()
        return await value if inspect.isawaitable(value) else value
    raise LateError


class Wrapping(Generic[T]):
    """One ``around_…`` hook at work.

    Its own time is bounded, that of what it wraps is not. What it wraps counts: once that has given a value, a hook
    that fails afterwards takes nothing away.

    Args:
        inner: What it wraps.
        repeatable: Whether that may run more than once.
        passing: Errors that the hook may raise as an answer of its own.
    """

    def __init__(
        self,
        asker: Asker,
        hooks: Hooks,
        inner: Callable[..., Awaitable[T]],
        *,
        repeatable: bool = True,
        passing: tuple[type[Exception], ...] = (),
    ) -> None:
        self.asker = asker
        self.hooks = hooks
        self.inner = inner
        self.repeatable = repeatable
        self.passing = passing
        self.begun = False
        self.got: T | None = None
        """What ``inner`` gave last."""
        self.raised: Exception | None = None
        """What ``inner`` raised last, if that was its last word."""
        self._inside = 0
        self._moved = anyio.Event()

    async def next(self, *given: Any) -> T:
        """Run what is wrapped; given to the hook."""
        if self.begun and not self.repeatable:
            raise UsageError("This tool may run once only, so next() cannot be called again.", code="runs_once")
        self.begun, self.got, self.raised = True, None, None
        self._move(1)
        try:
            self.got = await self.inner(*given)
            return self.got
        except Exception as error:
            self.raised = error
            raise
        finally:
            self._move(-1)

    async def run(self, stage: str, read: Callable[[Any, T | None], T], *given: Any, call: str | None) -> T:
        """Ask the hook.

        Raises:
            HookFailed: It failed, and there is no value of what it wraps to go on with.
            Exception: What the wrapped raised, if the hook let it pass or had nothing better.
        """
        error: BaseException | None = None
        async with anyio.create_task_group() as tasks:
            with anyio.CancelScope() as scope:
                tasks.start_soon(self._watch, scope)
                try:
                    answer = read(await getattr(self.hooks, stage)(*given, self.next), self.got)
                    tasks.cancel_scope.cancel()
                    return answer
                except BaseException as caught:  # a stranger's code, whose end is stated below
                    if not is_failure(caught):
                        raise
                    error = caught
            tasks.cancel_scope.cancel()
        if isinstance(error, self.passing):
            raise error
        if self.raised is not None and error is self.raised:
            raise self.raised
        failed = self.asker.failed(self.hooks, stage, error, call)
        if self.got is not None:
            return self.got
        if self.raised is not None:
            raise self.raised
        raise failed

    def _move(self, by: int) -> None:
        self._inside += by
        self._moved.set()
        self._moved = anyio.Event()

    async def _watch(self, scope: anyio.CancelScope) -> None:
        """Cancel the hook when it works for too long outside of what it wraps."""
        while True:
            moved = self._moved
            with self.asker.clock.move_on_after(None if self._inside else self.hooks.timeout_s):
                await moved.wait()
            if moved is self._moved and not self._inside:
                scope.cancel()
                return
