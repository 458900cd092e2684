"""What every store promises. Subclass `StoreConformance`, give it a fixture `store`, and run it with pytest.

    class TestMyStore(StoreConformance):
        @pytest.fixture
        async def store(self, clock, tmp_path):
            async with MyStore(tmp_path / "data", clock=clock) as store:
                yield store

        def place(self, store):  # how another process opens the same data; leave it out where nobody else can
            return functools.partial(MyStore, store.path)

A store that goes by another clock than the one given overrides `elapse`. `kode-conformance URL` asks the same and
writes a report.
"""

import pytest

pytest.register_assert_rewrite(
    *(
        f"kode.core.testing.conformance.store.{name}"
        for name in (
            *(
                "author",
                "cancel",
                "consistency",
                "corruption",
                "documents",
                "due",
                "events",
                "faults",
                "fork",
                "health",
            ),
            *(
                "inbox",
                "isolation",
                "kill",
                "lease",
                "lifecycle",
                "listing",
                "paging",
                "processes",
                "query",
                "races",
                "records",
            ),
            *("removal", "repeat", "requests", "retention", "stats", "swap", "watch", "worker"),
        )
    )
)

from kode.core.testing.conformance.store.author import Author, StoreCase  # noqa: E402 - after the rewrite above
from kode.core.testing.conformance.store.kit import GROUPS, Clause, Group, StoreConformance, clauses  # noqa: E402

__all__ = ["GROUPS", "Author", "Clause", "Group", "StoreCase", "StoreConformance", "clauses"]
