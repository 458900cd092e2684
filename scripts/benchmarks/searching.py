"""What a search through many files costs, and a command that says much."""

from __future__ import annotations

import resource
import subprocess
import time
from pathlib import Path
from typing import Any

from figures import spread

from kode.core import LocalSandbox


async def grep(folder: str) -> dict[str, Any]:
    """`LocalSandbox.grep` over 100,000 files beside ripgrep, in turns; and 100 MB that a command says."""
    root = Path(folder) / "many"
    line = "the quick brown fox jumps over the lazy dog and comes back again\n"
    for n in range(1_000):
        (root / f"{n // 50:02}" / f"{n:03}").mkdir(parents=True)
        for m in range(100):
            text = line * 32 + (f"needle {n} {m}\n" if m == 50 and n % 10 == 0 else "")
            (root / f"{n // 50:02}" / f"{n:03}" / f"{m}.txt").write_text(text)
    rows: dict[str, Any] = {}
    sandbox = LocalSandbox(root)
    cases = {"plain text": ("needle", False), "a pattern": (r"needle \d+", True), "hits everywhere": ("fox", False)}
    for name, (pattern, regex) in cases.items():
        ours, rg = [], []
        for _ in range(6):
            start = time.perf_counter()
            found = await sandbox.grep(pattern, regex=regex)
            ours.append((time.perf_counter() - start) * 1e3)
            assert found.matches
            start = time.perf_counter()
            # As fs_grep searches: hidden and ignored files too, line numbers asked for.
            subprocess.run(["rg", "-n", "--no-ignore", "--hidden", pattern, str(root)], stdout=subprocess.DEVNULL)  # noqa: ASYNC221
            rg.append((time.perf_counter() - start) * 1e3)
        for label, taken in ((f"100,000 files, {name}", ours[1:]), (f"the same, rg -n, {name}", rg[1:])):
            rows[label] = spread(taken)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    result = await sandbox.exec("head -c 100000000 /dev/zero | tr '\\0' x")
    rows["100 MB of output, seconds"] = round(time.perf_counter() - start, 2)
    rows["the same, growth of the process's peak, MB"] = round(
        (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, 1
    )
    assert result.cut_bytes > 80_000_000
    await sandbox.close()
    return rows
