"""The local sandbox keeps the contract, in each of its isolations."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kode.core.sandbox.local import LocalSandbox
from kode.core.sandbox.orphans import marked
from kode.core.testing.conformance.sandbox import (
    BackgroundContract,
    CommandContract,
    EndingContract,
    SandboxConformance,
)


class TestPlain(SandboxConformance):
    if sys.platform == "darwin":
        names = SandboxConformance.names[:-1]  # its file system takes UTF-8 only

    @pytest.fixture
    async def sandbox(self, tmp_path: Path, anyio_backend: str) -> AsyncIterator[LocalSandbox]:
        one = LocalSandbox(tmp_path / "root", grace_s=0.7)
        await one.open()
        yield one
        await one.dispose()
        assert marked(one.ref) == []


class TestIsolated(CommandContract, EndingContract, BackgroundContract):
    """Its file methods are those of the plain one."""

    @pytest.fixture
    async def sandbox(self, tmp_path: Path, isolated: None, anyio_backend: str) -> AsyncIterator[LocalSandbox]:
        one = LocalSandbox(tmp_path / "root", grace_s=0.7, isolation="bwrap")
        await one.open()
        yield one
        await one.dispose()
        assert marked(one.ref) == []
