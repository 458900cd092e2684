"""A small world for runtime tests: a virtual clock, a store, agents by script, and work in the background."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import anyio
import anyio.to_thread
import pytest
from anyio.abc import TaskGroup

from kode.core.config import AgentConfig, Dependencies
from kode.core.kernel.limits import Limits
from kode.core.provider.scripted import Script, ScriptedProvider
from kode.core.runtime.agent import Agent
from kode.core.store.base import Store
from kode.core.store.memory import MemoryStore
from kode.core.template import AgentTemplate
from kode.core.testing.clock import VirtualClock
from kode.core.testing.ids import SeededIds
from kode.core.tools.base import Tool

T = TypeVar("T")

THREADS_S = 2.0
"""Real seconds that a test waits for worker threads in all; one that waits for the virtual clock must not hang it."""


class Later(Generic[T]):
    """Work that goes on in the background; ``wait`` gives its value or raises what it raised."""

    def __init__(self, tasks: TaskGroup, work: Callable[[], Awaitable[T]]) -> None:
        self._work = work
        self._done = anyio.Event()
        self._value: T | None = None
        self._error: Exception | None = None
        self.scope = anyio.CancelScope()
        tasks.start_soon(self._run)

    async def _run(self) -> None:
        try:
            with self.scope:
                self._value = await self._work()
        except Exception as error:  # noqa: BLE001 - raised where it is waited for
            self._error = error
        finally:
            self._done.set()

    @property
    def done(self) -> bool:
        return self._done.is_set()

    async def wait(self) -> T:
        await self._done.wait()
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

    async def cancel(self) -> None:
        self.scope.cancel()
        await self._done.wait()
        if self._error is not None:
            raise self._error


class Lab:
    """Where a test's agents live."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.store: Store = MemoryStore(self.clock)
        self.provider: Any = None
        self._processes = 0

    def deps(self, script: Script = (), *tools: Tool, store: Store | None = None, **more: Any) -> Dependencies:
        """Dependencies of one more process."""
        self._processes += 1
        provider = ScriptedProvider(script, clock=self.clock)
        self.provider = self.provider or provider
        return Dependencies(
            store=store or self.store,
            tools=list(tools),
            providers={"m": provider},
            clock=self.clock,
            ids=SeededIds(f"{self._processes}-"),
            random=lambda: 1.0,
            **more,
        )

    async def agent(
        self, script: Script, *tools: Tool, limits: Limits | None = None, id: str = "a", deps: Any = None, **config: Any
    ) -> Agent:
        """A new agent with these tools."""
        deps = deps or self.deps(script, *tools)
        template = AgentTemplate("t", model="m", tools=tuple(t.name for t in tools), limits=limits or Limits())
        return await Agent.create(AgentConfig(template, agent_id=id, **config), deps)

    def later(self, tasks: TaskGroup, work: Callable[[], Awaitable[T]]) -> Later[T]:
        """Start work in the background."""
        return Later(tasks, work)

    async def pass_until(self, task: Later[T], step_s: float = 1.0, most: int = 5_000) -> T:
        """Let time pass until some work is done; not while a thread works, which knows nothing of this clock."""
        threads, patience = anyio.to_thread.current_default_thread_limiter(), anyio.current_time() + THREADS_S
        for _ in range(most):
            if task.done:
                break
            while threads.borrowed_tokens and anyio.current_time() < patience:  # noqa: ASYNC110 - they ring no bell
                await anyio.sleep(0.001)
            await self.clock.advance(step_s)
        assert task.done, f"not done after {most * step_s} s"
        return await task.wait()

    async def events(self, id: str = "a") -> list[Any]:
        """All durable events, in order."""
        return list((await self.store.read_events(id, limit=10_000)).items)

    async def kinds(self, id: str = "a") -> list[str]:
        """Types of all durable events."""
        return [event.type for event in await self.events(id)]

    async def texts(self, id: str = "a") -> list[str]:
        """``role: text`` of every message, tool results in brackets."""
        return [_shown(m) for m in (await self.store.read_messages(id, limit=1_000)).items]


def _shown(message: Any) -> str:
    parts = []
    for block in message.blocks:
        if block.type == "text":
            parts.append(block.text)
        elif block.type == "tool_use":
            parts.append(f"<{block.name}>")
        elif block.type == "tool_result":
            parts.append("[" + "".join(b.text for b in block.content) + "]")
    return f"{message.role}: {' '.join(parts)}"


@pytest.fixture
def lab() -> Lab:
    return Lab()
