"""What the contracts of sandboxes share."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import anyio
import pytest

from kode.core.errors import SandboxError
from kode.core.sandbox.base import Logs, Process, Sandbox

__all__ = ["BEATS", "SandboxCase", "first_output", "nothing_beats", "refused"]


class SandboxCase:
    """Base of every contract of a sandbox."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    async def sandbox(self) -> Any:
        """An open sandbox with an empty root."""
        raise NotImplementedError("give a fixture `sandbox`")


async def refused(attempt: Awaitable[object]) -> str:
    """Return the code of the `SandboxError` that an attempt ends with."""
    with pytest.raises(SandboxError) as caught:
        await attempt
    return caught.value.code


async def first_output(process: Process) -> Logs:
    """Wait for what a background process writes first."""
    with anyio.fail_after(30):
        while not (logs := await process.logs()).data:  # noqa: ASYNC110 - a process, not a task
            await anyio.sleep(0.01)
    return logs


BEATS = "while :; do echo x >> beats; sleep 0.05; done"
"""Shell text that writes for as long as it lives."""


async def nothing_beats(sandbox: Sandbox) -> None:
    """Look whether anything still writes."""
    count = "cat beats 2>/dev/null | wc -l"
    before, after = (await sandbox.exec(f"{count}; sleep 0.3; {count}")).output.split()
    assert before == after
