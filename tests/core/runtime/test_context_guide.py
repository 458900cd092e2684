"""The tables of the guide on context are those of the code."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from kode.core.kernel.context import ContextPolicy
from kode.core.runtime.context.cut import MAX_PINNED
from kode.core.runtime.context.estimate import MEDIA_TOKENS
from kode.core.runtime.context.window import MAX_SUMMARY

GUIDE = (Path(__file__).resolve().parents[3] / "docs" / "guides" / "context.md").read_text()
ROWS = re.findall(r"^\| `(\w+)` \| (\S+) \| .+ \|$", GUIDE, re.M)


def test_each_field_has_its_row() -> None:
    told = {name: default.strip("`").strip('"') for name, default in ROWS}
    assert told == {field.name: str(getattr(ContextPolicy(), field.name)) for field in fields(ContextPolicy)}


def test_the_numbers_are_those_of_the_code() -> None:
    for said in (f"the newest {MAX_PINNED}", f"is {MEDIA_TOKENS:,} tokens", f"bounded: {MAX_SUMMARY:,} tokens"):
        assert said in GUIDE
