"""The table of the guide on limits has a row for each limit, as it is."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from kode.core.kernel.limits import Limits
from kode.core.kernel.words import RESULT_STATUS, StopReason

GUIDE = (Path(__file__).resolve().parents[3] / "docs" / "guides" / "limits.md").read_text()
ROWS = re.findall(r"^\| `(\w+)` \| ([\d,.]+|None) \| (.+) \| (.+) \|$", GUIDE, re.M)


def test_each_limit_has_its_row() -> None:
    told = {name: None if default == "None" else float(default.replace(",", "")) for name, default, _, _ in ROWS}
    assert told == {field.name: getattr(Limits(), field.name) for field in fields(Limits)}
    assert [name for name, *_ in ROWS] == [field.name for field in fields(Limits)]


def test_each_stop_reason_is_the_one_it_names() -> None:
    said = re.findall(r"`(\w+)` → `(\w+)`", GUIDE)
    assert len(said) == 9
    for reason, status in said:
        assert RESULT_STATUS[StopReason(reason)] == status
