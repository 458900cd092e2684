"""The program `kode-conformance`, which says what to install where the kit's own dependencies are missing."""

from __future__ import annotations

import sys
from importlib.util import find_spec

__all__ = ["main"]


def main() -> int:
    """Run the kit's command, or say why it cannot be."""
    missing = [name for name in ("pytest", "hypothesis") if find_spec(name) is None]
    if missing:
        sys.stderr.write(
            f"kode-conformance: not installed: {', '.join(missing)}; the kit needs an extra: "
            "pip install 'kode-core[testing]'\n"
        )
        return 2
    from kode.core.testing.conformance.store.command import main as run

    return run()
