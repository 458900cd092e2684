"""Crashes at a chosen point of the I/O, as far as one process can have them.

    plan = CrashPlan()                      # counts the points of a scenario
    plan = crash_at(17)                     # the same scenario, ended at its 17th point
    deps = Dependencies(store=plan.store(store), providers={"m": plan.provider(model)}, tools=[plan.tool(t)])

A *point* lies before and after every write, before and after every model call and tool. At the chosen one
``Crashed`` is raised, and from then on everything the plan wraps refuses every call of this "process": its
``finally`` blocks run, but nothing that they do gets anywhere. Its lease stays, as a dead process's does; let the
clock pass it, then begin again with a new plan over the same inner store.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from types import TracebackType
from typing import Any, TypeVar

from kode.core.provider.base import Capabilities, Chunk, ModelRequest, Provider
from kode.core.sandbox.base import Sandbox
from kode.core.sandbox.catalog import SandboxFactory, default_sandboxes
from kode.core.store.base import Store
from kode.core.testing.wrapped import WRITES, WrappedStore
from kode.core.tools.base import Tool, ToolContext, ToolResult

__all__ = ["CrashPlan", "Crashed", "crash_at", "until_crash"]

T = TypeVar("T")


class Crashed(BaseException):
    """This process is dead. Not an ``Exception``: nothing that handles failures may handle it."""


class CrashPlan:
    """Counts points, and crashes at one.

    Args:
        at: The point to crash at: its number from 0, or its name (the ``nth`` time it is reached). None: never.
        nth: Which time, when ``at`` is a name.
    """

    def __init__(self, at: int | str | None = None, nth: int = 1) -> None:
        self.at = at
        self.nth = nth
        self.points: list[str] = []
        """Names of the points reached, in order: ``before commit``, ``after model``, …"""
        self.crashed = False

    def point(self, name: str) -> None:
        """Reach a point. What is no I/O of ours (a tool's own second half) may call it too.

        Raises:
            Crashed: Here, or the process crashed before.
        """
        self.check()
        self.points.append(name)
        hit = len(self.points) - 1 == self.at or (name == self.at and self.points.count(name) == self.nth)
        if hit:
            self.crashed = True
            self.check()

    def check(self) -> None:
        """Refuse if the process is dead: for ledgers, and whatever else outlives it.

        Raises:
            Crashed: It is.
        """
        if self.crashed:
            where = self.points[-1] if self.points else "the start"
            raise Crashed(f"The process crashed at point {len(self.points) - 1}: {where}.")

    # ---- what a process is made of -------------------------------------------------------------------------

    def store(self, inner: Store) -> Store:
        """The store as this process sees it."""
        return _CrashStore(inner, self)

    def provider(self, inner: Provider) -> Provider:
        """The model as this process sees it: points ``before model`` and ``after model``."""
        return _CrashProvider(inner, self)

    def tool(self, inner: Tool) -> Tool:
        """The tool as this process runs it: points ``before <name>`` and ``after <name>``."""
        function = inner.function

        async def run(context: ToolContext, arguments: dict[str, Any]) -> ToolResult:
            self.point(f"before {inner.name}")
            result = await function(context, arguments)
            self.point(f"after {inner.name}")
            return result

        return replace(inner, function=run)

    def sandboxes(self, inner: SandboxFactory | None = None) -> SandboxFactory:
        """Sandboxes as this process sees them: after the crash even ``close`` is refused, so children stay."""
        return _CrashSandboxes(inner or default_sandboxes, self)


def crash_at(point: int | str, nth: int = 1) -> CrashPlan:
    """Plan a crash at a point, by its number or its name; see ``CrashPlan``."""
    return CrashPlan(point, nth)


async def until_crash(plan: CrashPlan, work: Callable[[], Awaitable[T]]) -> T | None:
    """Run a process to its end or its crash; None after a crash. Everything else it raises passes through."""
    try:
        return await work()
    except BaseException as error:
        if plan.crashed and _only_crashes(error):
            return None
        raise


def _only_crashes(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_only_crashes(one) for one in error.exceptions)
    return isinstance(error, Crashed)


class _CrashStore(WrappedStore):
    """Points before and after each write, named by the operation it belongs to."""

    def __init__(self, inner: Store, plan: CrashPlan) -> None:
        super().__init__(inner)
        self._plan = plan

    async def around(self, method: str, call: Callable[[], Awaitable[T]]) -> T:
        name = self.operation or method
        if method not in WRITES:
            self._plan.check()
            return await call()
        self._plan.point(f"before {name}")
        value = await call()
        self._plan.point(f"after {name}")
        return value


class _CrashProvider:
    """A provider with points around each answer."""

    def __init__(self, inner: Provider, plan: CrashPlan) -> None:
        self._inner = inner
        self._plan = plan
        self.name = inner.name
        self.model = inner.model
        self.window_tokens = inner.window_tokens
        self.capabilities: Capabilities = inner.capabilities

    def stream(self, request: ModelRequest) -> _CrashStream:
        return _CrashStream(self._inner.stream(request), self._plan)

    async def close(self) -> None:
        await self._inner.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _CrashStream:
    def __init__(self, inner: Any, plan: CrashPlan) -> None:
        self._inner = inner
        self._plan = plan
        self._chunks: AsyncIterator[Chunk] | None = None

    async def __aenter__(self) -> _CrashStream:
        self._plan.point("before model")
        self._chunks = aiter(await self._inner.__aenter__())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._inner.__aexit__(kind, error, trace)
        if error is None:
            self._plan.point("after model")

    def __aiter__(self) -> _CrashStream:
        return self

    async def __anext__(self) -> Chunk:
        self._plan.check()
        assert self._chunks is not None, "the stream is read inside its async with"
        return await anext(self._chunks)


class _CrashSandboxes(SandboxFactory):
    def __init__(self, inner: SandboxFactory, plan: CrashPlan) -> None:
        super().__init__()
        self._inner = inner
        self._plan = plan

    def get(self, kind: str) -> type[Sandbox]:
        return self._inner.get(kind)

    def create(self, kind: str, **options: Any) -> Sandbox:
        self._plan.check()
        sandbox: Any = _CrashSandbox(self._inner.create(kind, **options), self._plan)
        return sandbox  # type: ignore[no-any-return]  # a proxy: it has what the inner one has

    async def kill_ref(self, ref: str) -> int:
        self._plan.check()
        return await self._inner.kill_ref(ref)


class _CrashSandbox:
    """Every call first asks whether the process lives."""

    def __init__(self, inner: Sandbox, plan: CrashPlan) -> None:
        self._inner = inner
        self._plan = plan

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if not callable(value):
            return value

        def call(*given: Any, **options: Any) -> Any:
            self._plan.check()
            return value(*given, **options)

        return call
