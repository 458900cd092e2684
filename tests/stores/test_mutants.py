"""Wrong stores: each is caught by the clause that is meant for it, and by no group that has nothing to do with it."""

from __future__ import annotations

from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests.stores.mutants import acts, asks, inboxes, keeps, outside, reads, wholes
from tests.stores.mutants.runner import changed, failing, reached
from tests.stores.mutants.shared import SHARED
from tests.stores.mutants.table import MUTANTS, Mutant

from kode.core.store import MemoryStore, SqliteStore
from kode.core.testing.conformance.store import GROUPS, Clause, StoreConformance, clauses
from kode.core.testing.conformance.store.author import Place

ONE_LOOP = pytest.mark.parametrize("anyio_backend", ["asyncio"])
FILES = (acts, asks, inboxes, keeps, outside, reads, wholes)

HEAVY = {
    "a_message_may_have_10_mb",
    "messages_are_bounded_and_nothing_else_is",
    "a_window_of_thousands",
    "large_agents_are_erased_whole",
    "a_long_history_is_forked_whole",
    "a_body_may_be_large",
    "a_document_of_any_size",
    "a_cancelled_fork",
    "a_cancelled_large_commit",
    "a_scan_gives_as_many_as_asked_for",
    "many_calls_at_once",
    "messages_in_pages_both_ways",
    "a_large_body_is_not_written_when_a_condition_fails",
    "a_refused_commit_changes_no_large_body",
    "a_reader_that_goes_on_meets_every_item",
    "a_scan_meets_all_that_stays",
    "an_item_that_races_a_release_is_seen_or_wakes_someone",
    "get_of_a_thousand_keys",
    "commits_do_not_disturb_each_other",
    "a_prune",
    "blobs_belong_to_an_agent",
    "events_in_pages_both_ways",
    "pages_by_bytes_fit_together_backwards",
    "a_cancelled_reader",
    "a_body_of_more_than_any_row_may_have",
    "pages_fit_together_where_values_are_the_same",
    "a_busy_agent_has_no_finding",
    "writes_land_in_the_order_they_were_begun",
    "every_change_wakes_its_watchers",
    "one_that_does_not_answer_is_not_waited_for",
    "the_order_is_exact_both_ways",
    "a_pruned_agent_goes_on",
    "a_fork",
    "what_is_named_and_not_there_is_named",
    "what_was_acknowledged_is_there_whoever_is_cancelled",
}
"""Large, or slow, rather than subtle: run only for a store that is meant to fail there."""


ALONE = [clause for clause in clauses() if clause.group not in ("processes", "kill", "requests")]
"""All that a store in memory can be asked."""


async def asked(mutant: Mutant) -> list[Clause]:
    """What is run for a wrong store: all that comes by what is wrong in it; no other could tell it from a right one."""
    wrong = changed(mutant.make)
    return [
        clause
        for clause in ALONE
        if clause.name == mutant.clause or (clause.name not in HEAVY and wrong & await reached(clause))
    ]


@ONE_LOOP
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
async def test_each_is_caught_where_it_is_wrong_and_nowhere_else(mutant: Mutant) -> None:
    group_of = {clause.name: clause.group for clause in clauses()}
    seen = await failing(mutant.make, await asked(mutant))
    assert mutant.clause in seen, "the clause that is meant for it passes"
    assert group_of[mutant.clause] == mutant.group
    assert {group_of[name] for name in seen} == {mutant.group, *mutant.also}, seen


@ONE_LOOP
async def test_a_right_store_is_caught_by_none() -> None:
    assert await failing(MemoryStore, [clause for clause in ALONE if clause.name not in HEAVY]) == {}


class Shared(StoreConformance):
    def place(self, store: Any) -> Place:
        return partial(type(store), store.path, durability="process", busy_timeout_s=60)


@ONE_LOOP
@pytest.mark.integration
@pytest.mark.parametrize("mutant", [*SHARED, Mutant(SqliteStore, "", "")], ids=lambda mutant: mutant.name)
async def test_those_who_share_are_caught(
    mutant: Mutant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.syspath_prepend(request.config.rootpath)  # other processes have to find the wrong stores
    numbers = count()
    kind: Any = mutant.make
    meant = {each.clause for each in SHARED if mutant.clause in ("", each.clause)}
    seen = await failing(
        lambda clock: kind(tmp_path / f"{next(numbers)}.db", durability="process", clock=clock),
        [clause for clause in clauses() if clause.name in meant],
        Shared,
    )
    assert seen.keys() == (meant if mutant.clause else set())


def test_the_table_is_whole() -> None:
    assert len(MUTANTS) >= 160
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert {group for mutant in MUTANTS for group in (mutant.group, *mutant.also)} <= GROUPS.keys()
    assert [mutant.name for mutant in MUTANTS if bool(mutant.also) is not bool(mutant.why)] == []
