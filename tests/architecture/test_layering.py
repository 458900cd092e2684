"""The direction of dependencies. The contracts are in the root's pyproject.toml."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_contracts_are_kept(root: Path) -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    ran = subprocess.run([linter, "--no-cache", "--no-logo"], cwd=root, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_public_names_do_not_reach_the_testing_package() -> None:
    """The contracts cannot say this of `kode.core` itself, because it contains `kode.core.testing`."""
    program = (
        "import sys, kode.core\n"
        "for name in getattr(kode.core, '__all__', ()): getattr(kode.core, name)\n"
        "print([name for name in sys.modules if name.startswith('kode.core.testing')])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
