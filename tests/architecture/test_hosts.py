"""No file names the host of a package registry: everyone installs from the one they have set up."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

# In pieces, so that this file does not name them either.
HOSTS = [
    "py" + "pi.org",
    "python" + "hosted.org",
    "np" + "mjs.org",
    "np" + "mjs.com",
    "yarn" + "pkg.com",
    "deb." + "debian.org",
    "proxy." + "golang.org",
]
NAMED = re.compile("|".join(map(re.escape, HOSTS)).encode(), re.IGNORECASE)


def test_no_registry_host_is_named(root: Path) -> None:
    # Tracked files and those about to be; what .gitignore lists (uv.lock) is no part of the repository.
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    files = [root / name for name in listed.split("\0") if name]
    assert root / "pyproject.toml" in files
    assert [str(p.relative_to(root)) for p in files if p.is_file() and NAMED.search(p.read_bytes())] == []
