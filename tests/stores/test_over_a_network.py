"""What the stores over a network share: a server's time, and what PostgreSQL's errors mean."""

from __future__ import annotations

import pytest

from kode.core.store.server_time import ServerTime
from kode.core.testing.clock import VirtualClock
from kode.store.postgres import errors as postgres
from kode.store.supabase import errors as supabase


@pytest.fixture
def anyio_backend() -> str:
    """Time is a clock's, whatever the event loop."""
    return "asyncio"


async def test_a_server_s_time_is_counted_on_for_a_second_and_never_runs_back_for_a_slow_answer() -> None:
    clock = VirtualClock()
    time = ServerTime(clock)
    assert not time.fresh
    time.hear(50_000_000)
    assert (time.fresh, time.now()) == (True, 50_000_000)
    await clock.advance(0.75)
    assert (time.fresh, time.now()) == (True, 50_750_000)
    time.hear(50_100_000)  # it was told before, and was long on its way
    assert time.now() == 50_750_000
    time.hear(60_000_000)
    assert time.now() == 60_000_000
    time.hear(20_000_000)  # the clock was set back
    assert time.now() == 20_000_000
    await clock.advance(1.25)
    assert (time.fresh, time.now()) == (False, 21_250_000)


def test_an_error_of_postgresql_means_the_same_to_both() -> None:
    """Only the sentences differ: to one it is the server, to the other a project's database."""
    here = {state: meaning[:2] for state, meaning in postgres._MEANINGS.items()}
    there = {state: meaning[:2] for state, meaning in supabase._CODES.items() if not state.startswith("PGRST")}
    # Who logs in, to which database, and what makes tables are the project's own affairs.
    assert here.keys() - there.keys() == {"28", "3D000", "42P07"}
    assert {state: here[state] for state in there} == there
