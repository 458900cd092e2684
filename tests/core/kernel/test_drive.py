"""The kernel driven at random; hypothesis looks for the shortest way to break it."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kode.core.kernel.inputs import Proceed
from kode.core.kernel.invariants import check
from kode.core.kernel.machine import Context, advance, transition
from kode.core.testing.drive import Journey, legal_input

SLOW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@SLOW
@given(st.randoms(), st.integers(1, 12))
def test_no_journey_breaks_an_invariant(random: Random, length: int) -> None:
    journey = Journey(random)
    journey.begin()
    for _ in range(length):
        journey.go()
    journey.finish()


@SLOW
@given(st.integers(0, 2**32), st.integers(0, 40))
def test_a_batch_of_one_is_its_transition_and_a_proceed(seed: int, length: int) -> None:
    random = Random(seed)
    journey = Journey(random)
    journey.begin()
    for _ in range(length):
        journey.go()
    context = Context(journey.at, journey.fence, journey.limits, used_us=7)
    input = legal_input(journey.state, random, context)
    alone = transition(journey.state, input, context)
    after = transition(alone.state, Proceed(), Context(journey.at, journey.fence, journey.limits)).state
    batch = advance(journey.state, [input], context)
    # A batch also says what changed; that is all it adds.
    told = [e for e in batch.events if e.type in ("breakpoint_changed", "state_changed")]
    assert after.next_cursor + len(told) == batch.state.next_cursor
    if alone.postponed == batch.postponed:
        assert (after.calls, after.effects, after.window) == (
            batch.state.calls,
            batch.state.effects,
            batch.state.window,
        )
    check(batch.state)


def test_the_same_seed_makes_the_same_journey() -> None:
    def travel() -> str:
        journey = Journey(Random(7))
        journey.begin()
        for _ in range(50):
            journey.go()
        return repr((journey.state, journey.messages))

    assert travel() == travel()


@pytest.mark.parametrize("seed", range(8))
def test_random_journeys_break_no_invariant(seed: int) -> None:
    journeys = 0
    random = Random(seed)
    rows = Journey(random).rows
    while rows.total() < 2_500:
        journey = Journey(random, rows)
        journey.begin()
        for _ in range(60):
            journey.go()
        journey.finish()
        journeys += 1
    assert journeys > 5
