"""The numbers of docs/guides/todos-and-timers.md are those of the code."""

from __future__ import annotations

from pathlib import Path

from kode.core.kernel.history import MAX_TIMER_DATA, MAX_TIMERS
from kode.core.template import AgentTemplate
from kode.core.tools.todos import MAX_NOTES, MAX_TITLE, MAX_TODOS

GUIDE = (Path(__file__).resolve().parents[3] / "docs" / "guides" / "todos-and-timers.md").read_text()


def test_its_numbers_are_those_of_the_code() -> None:
    text = " ".join(GUIDE.split())
    assert f"at most {MAX_TODOS} todos; a title has up to {MAX_TITLE} characters, notes up to {MAX_NOTES}" in text
    assert f"at most {MAX_TIMERS} timers, a text at most {MAX_TIMER_DATA:,} characters" in text
    assert f"After {AgentTemplate('t').remind_todos_every} steps" in text
