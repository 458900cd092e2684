"""The file methods of the local sandbox keep the contract; they are the same in each isolation."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kode.core.sandbox.local import LocalSandbox
from kode.core.testing.conformance.sandbox import FileContract, GlobContract, GrepContract, JailContract


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """They run in worker threads: which loop waits for these makes no difference."""
    return "trio"


class TestFiles(FileContract, JailContract, GlobContract, GrepContract):
    if sys.platform == "darwin":
        names = FileContract.names[:-1]  # its file system takes UTF-8 only

    @pytest.fixture
    async def sandbox(self, tmp_path: Path) -> AsyncIterator[LocalSandbox]:
        one = LocalSandbox(tmp_path / "root")
        await one.open()
        yield one
        await one.dispose()
