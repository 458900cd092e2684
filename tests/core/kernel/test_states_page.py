"""docs/internals/states.md is drawn from the table, and its arrows are those that the kernel takes."""

from __future__ import annotations

import runpy
from pathlib import Path
from random import Random
from typing import Any

import pytest

from kode.core.kernel.machine import Context, transition
from kode.core.kernel.state import State
from kode.core.kernel.words import Phase
from kode.core.testing.drive import legal_input

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def draw() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "scripts/draw_states.py"))


def test_the_page_is_current(draw: dict[str, Any]) -> None:
    assert (ROOT / "docs/internals/states.md").read_text() == draw["page"](), "run scripts/draw_states"


def test_the_page_explains_every_word(draw: dict[str, Any]) -> None:
    page = draw["page"]()
    for word in ("IDLE", "THINKING", "ACTING", "BOUNDARY", "WORKING", "PAUSED"):
        assert f"* **{word}**: " in page


def test_the_arrows_are_the_changes_of_phase_that_happen(draw: dict[str, Any]) -> None:
    random = Random(3)
    taken: set[tuple[Phase, Phase]] = set()
    for _ in range(30):
        state = State("agent", "uid", 0, 0)
        for at in range(400):
            context = Context(at, 1)
            after = transition(state, legal_input(state, random, context), context).state
            taken.add((state.phase, after.phase))
            state = after
    drawn = {(start, end) for start, _, end in draw["ARROWS"]}
    assert {(start, end) for start, end in taken if start is not end} == drawn
