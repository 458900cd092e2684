"""The public names and their signatures are a decision: a change to them shows in a file that is reviewed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


# How a signature is written differs between versions of Python: the file is that of the lowest one supported.
@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="public_api.txt is written by Python 3.11")
def test_public_api_is_the_decided_one(root: Path) -> None:
    here = root / "tests/architecture"
    decided = here / "public_api.txt"
    command = [sys.executable, here / "public_api.py"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    meant = "run scripts/public-api if the change is meant"
    assert ran.stdout.splitlines() == decided.read_text().splitlines(), meant
