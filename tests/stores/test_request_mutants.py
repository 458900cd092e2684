"""Stores that are wrong where one request follows another are caught by the clause that is meant for them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.stores.mutants.requests import MUTANTS
from tests.stores.mutants.runner import failing
from tests.stores.mutants.table import Mutant

from kode.core.store import SqliteStore
from kode.core.testing.conformance.store import StoreConformance, clauses
from kode.core.testing.conformance.store.author import Place

pytestmark = pytest.mark.integration
NAMES = [clause.name for clause in clauses() if clause.group == "requests"]


class Shared(StoreConformance):
    def place(self, store: Any) -> Place:
        return partial(type(store), store.path, durability="process", busy_timeout_s=60)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
async def test_each_is_caught(
    mutant: Mutant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.syspath_prepend(request.config.rootpath)  # other processes have to find the wrong stores
    for kind, caught in ((mutant.make, {mutant.clause}), (SqliteStore, set())):
        make: Any = kind
        seen = await failing(
            lambda clock, make=make: make(tmp_path / f"{make.__name__}.db", durability="process", clock=clock),  # type: ignore[misc]
            [clause for clause in clauses() if clause.name == mutant.clause],
            Shared,
        )
        assert seen.keys() == caught, seen


def test_each_clause_has_a_store_that_breaks_it() -> None:
    assert sorted(mutant.clause for mutant in MUTANTS) == sorted(NAMES)
