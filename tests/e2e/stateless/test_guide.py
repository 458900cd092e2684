"""The table of docs/guides/stateless.md knows every status."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from kode.core.kernel.words import ResultStatus

GUIDE = (Path(__file__).resolve().parents[3] / "docs/guides/stateless.md").read_text()


def test_the_table_names_every_status() -> None:
    rows = "".join(re.findall(r"^\| (`.*?) \| ", GUIDE, re.M))
    assert set(re.findall(r"`(\w+)`", rows)) - {"status"} == set(get_args(ResultStatus))
