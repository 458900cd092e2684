"""What every store promises. Subclass `StoreConformance`, give it a fixture `store`, and run it with pytest.

    class TestMyStore(StoreConformance):
        @pytest.fixture
        async def store(self, clock):
            async with MyStore(clock=clock) as store:
                yield store

A store that goes by another clock than the one given overrides `elapse`.
"""

import pytest

pytest.register_assert_rewrite(
    *(
        f"kode.core.testing.conformance.store.{name}"
        for name in ("records", "commit", "inbox", "lease", "reading", "whole")
    )
)

from kode.core.testing.conformance.store.author import Author, StoreCase  # noqa: E402 - after the rewrite above
from kode.core.testing.conformance.store.commit import CommitContract  # noqa: E402
from kode.core.testing.conformance.store.inbox import DueContract, InboxContract  # noqa: E402
from kode.core.testing.conformance.store.lease import LeaseContract  # noqa: E402
from kode.core.testing.conformance.store.reading import ReadingContract  # noqa: E402
from kode.core.testing.conformance.store.records import RecordsContract  # noqa: E402
from kode.core.testing.conformance.store.whole import WholeAgentContract  # noqa: E402

__all__ = [
    "Author",
    "CommitContract",
    "DueContract",
    "InboxContract",
    "LeaseContract",
    "ReadingContract",
    "RecordsContract",
    "StoreCase",
    "StoreConformance",
    "WholeAgentContract",
]


class StoreConformance(
    RecordsContract,
    CommitContract,
    InboxContract,
    DueContract,
    LeaseContract,
    ReadingContract,
    WholeAgentContract,
):
    """All of it."""
