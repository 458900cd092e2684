"""The guides' classes for the conformance kits run as they stand, over stores and sandboxes that keep the contract."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

GUIDES = Path(__file__).resolve().parents[2] / "docs/guides"

A_STORE = "from kode.core import SqliteStore as MyStore"
A_SANDBOX = '''
import os
from kode.core import LocalSandbox

class MySandbox(LocalSandbox):
    """Takes what the guide's does: an image, and the ref of one that is there."""
    def __init__(self, image, ref=None):
        super().__init__(os.getcwd(), **({} if ref is None else {"ref": ref}))
'''


def blocks(guide: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (GUIDES / guide).read_text(), re.MULTILINE | re.DOTALL)


def clauses_that_hold(source: str, clauses: str, folder: Path) -> int:
    """Let pytest run some clauses of a test class, as its author would."""
    (folder / "test_mine.py").write_text(source)
    (folder / "pytest.ini").write_text("[pytest]\nanyio_mode = auto\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", clauses, "test_mine.py"]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 0, ran.stdout
    return int(re.findall(r"^(\d+) passed", ran.stdout, re.MULTILINE)[0])


@pytest.mark.integration
def test_the_class_of_conformance_md(tmp_path: Path) -> None:
    (block,) = blocks("conformance.md")
    assert clauses_that_hold(f"{A_STORE}\n{block}", "asyncio and (seen_at_once or other_s_writes)", tmp_path) == 2


@pytest.mark.integration
def test_the_class_of_sandbox_md(tmp_path: Path) -> None:
    template, block = blocks("sandbox.md")
    named: dict[str, Any] = {}
    exec(compile(template, "sandbox.md", "exec"), named)
    assert '"isolation":"bwrap"' in str(named["template"].sandbox_options).replace(" ", "")
    assert clauses_that_hold(f"{A_SANDBOX}\n{block}", "asyncio and (second_one or paths)", tmp_path) == 2
