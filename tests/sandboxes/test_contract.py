"""The local sandbox keeps the contract, in each of its isolations."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.sandboxes.conftest import isolated_sandbox

from kode.core.sandbox.local import LocalSandbox
from kode.core.sandbox.orphans import marked
from kode.core.testing.conformance.sandbox import (
    BackgroundContract,
    CommandContract,
    EndingContract,
    RefContract,
)


class TestPlain(CommandContract, EndingContract, BackgroundContract, RefContract):
    """Its file methods: ``test_file_contract.py``."""

    @pytest.fixture
    async def sandbox(self, tmp_path: Path, anyio_backend: str) -> AsyncIterator[LocalSandbox]:
        one = LocalSandbox(tmp_path / "root", grace_s=0.7)
        await one.open()
        yield one
        await one.dispose()
        assert marked(one.ref) == []

    @pytest.fixture
    def again(self, tmp_path: Path) -> Callable[[str | None], LocalSandbox]:
        return lambda ref: LocalSandbox(tmp_path / "root", ref=ref)


class TestIsolated(CommandContract, EndingContract, BackgroundContract, RefContract):
    """Its file methods are those of the plain one."""

    @pytest.fixture
    async def sandbox(self, tmp_path: Path, isolated: None, anyio_backend: str) -> AsyncIterator[LocalSandbox]:
        one = isolated_sandbox(tmp_path / "root", grace_s=0.7)
        await one.open()
        yield one
        await one.dispose()
        assert marked(one.ref) == []

    @pytest.fixture
    def again(self, tmp_path: Path) -> Callable[[str | None], LocalSandbox]:
        return lambda ref: LocalSandbox(tmp_path / "root", ref=ref, isolation="bwrap")
