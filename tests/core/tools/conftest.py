"""Calls built-in tools the way the shell does, over a real local sandbox."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kode.core import jsontext
from kode.core.clock import RealClock
from kode.core.kernel.limits import Limits
from kode.core.kernel.message import TextBlock
from kode.core.sandbox.local import LocalSandbox
from kode.core.tools.base import Tool, ToolContext, ToolOutcome
from kode.core.tools.documents import Documents


class Bench:
    """One agent's tools."""

    def __init__(self, root: Path) -> None:
        self.sandbox = LocalSandbox(root, grace_s=0.3)
        self.documents = Documents()
        self.limits = Limits()
        self.timeout_s: float | None = None
        self.progress: list[str] = []
        self.outcome = ToolOutcome(())

    async def __call__(self, one: Tool, /, **arguments: Any) -> dict[str, Any]:
        checked = one.check(jsontext.dump(arguments))
        assert isinstance(checked, dict), checked
        context = ToolContext(
            "agent",
            "uid",
            "1.1.1",
            fence=1,
            attempt="1.1",
            clock=RealClock(),
            timeout_s=self.timeout_s,
            limits=self.limits,
            sandbox=self.sandbox,
            documents=self.documents,
            on_progress=self.progress.append,
        )
        outcome = await one.call(context, checked)
        assert isinstance(outcome, ToolOutcome)
        (block,) = outcome.content
        assert isinstance(block, TextBlock)
        assert len(block.text.encode()) <= self.limits.max_tool_result_bytes
        self.outcome = outcome
        value: dict[str, Any] = jsontext.parse(block.text)
        assert ("error" in value) == outcome.is_error
        return value


@pytest.fixture
async def bench(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Bench]:
    one = Bench(tmp_path)
    yield one
    await one.sandbox.close()
