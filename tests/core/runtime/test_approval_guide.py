"""docs/guides/approvals.md names every mode and every end of an approval."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from kode.core.kernel.permission import MAX_SEARCHED, MODES
from kode.core.kernel.toolcall import ApprovalState

GUIDE = (Path(__file__).resolve().parents[3] / "docs" / "guides" / "approvals.md").read_text()


def test_it_names_every_mode_and_every_end() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", GUIDE, re.M)) == {*get_args(ApprovalState)} - {"pending"}
    assert all(f"`{mode}`" in GUIDE for mode in MODES)
    assert f"more than {MAX_SEARCHED:,} characters" in GUIDE
