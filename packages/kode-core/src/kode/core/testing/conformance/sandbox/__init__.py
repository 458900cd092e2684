"""What every sandbox promises. Subclass `SandboxConformance`, give it a fixture `sandbox`, and run it with pytest.

    class TestMySandbox(SandboxConformance):
        @pytest.fixture
        async def sandbox(self):
            sandbox = MySandbox(...)
            await sandbox.open()
            yield sandbox
            await sandbox.dispose()

        @pytest.fixture
        def again(self):
            return lambda ref: MySandbox(..., ref=ref)

The sandbox's root is empty, and it has a POSIX shell. `again` makes another of the same options, not open yet.
"""

import pytest

pytest.register_assert_rewrite(
    *(f"kode.core.testing.conformance.sandbox.{name}" for name in ("background", "commands", "files", "refs", "search"))
)

from kode.core.testing.conformance.sandbox.background import BackgroundContract  # noqa: E402 - after the rewrite above
from kode.core.testing.conformance.sandbox.case import SandboxCase  # noqa: E402
from kode.core.testing.conformance.sandbox.commands import CommandContract, EndingContract  # noqa: E402
from kode.core.testing.conformance.sandbox.files import FileContract, JailContract  # noqa: E402
from kode.core.testing.conformance.sandbox.refs import RefContract  # noqa: E402
from kode.core.testing.conformance.sandbox.search import GlobContract, GrepContract  # noqa: E402

__all__ = [
    "BackgroundContract",
    "CommandContract",
    "EndingContract",
    "FileContract",
    "GlobContract",
    "GrepContract",
    "JailContract",
    "RefContract",
    "SandboxCase",
    "SandboxConformance",
]


class SandboxConformance(
    CommandContract,
    EndingContract,
    BackgroundContract,
    FileContract,
    JailContract,
    GlobContract,
    GrepContract,
    RefContract,
):
    """All of it."""
