"""What the tests of sandboxes share: processes looked at from outside, and an isolation that works."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from kode.core.errors import SandboxError
from kode.core.sandbox.local import LocalSandbox
from kode.core.sandbox.orphans import marked


def until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Wait for a condition, bounded; a dead process is seen by asking, not by hoping."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    if sys.platform == "linux":
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except (FileNotFoundError, ProcessLookupError):
            return False
    return True


@pytest.fixture(scope="session")
def isolated(missing: Callable[[str], NoReturn], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Commands can be isolated here; else the test is skipped, or fails where everything is required."""
    import anyio

    try:
        anyio.run(LocalSandbox(tmp_path_factory.mktemp("probe"), isolation="bwrap").open)
    except SandboxError as error:
        missing(error.message)


def isolated_sandbox(root: Path, **options: Any) -> LocalSandbox:
    """Make a sandbox that does not try the isolation out once more: the fixture ``isolated`` did, for all."""
    one = LocalSandbox(root, isolation="bwrap", **options)
    one._tried = True  # the trial is a third of what a test costs
    return one


@pytest.fixture(params=["none", "bwrap"])
def isolation(request: pytest.FixtureRequest) -> str:
    """Each way of running commands."""
    if request.param == "bwrap":
        request.getfixturevalue("isolated")
    return str(request.param)


@pytest.fixture
async def either(tmp_path: Path, isolation: str, anyio_backend: str) -> AsyncIterator[LocalSandbox]:
    """A sandbox of each isolation."""
    make = LocalSandbox if isolation == "none" else isolated_sandbox
    one = make(tmp_path / "root", grace_s=0.3)
    await one.open()
    yield one
    await one.close()
    assert marked(one.ref) == []
