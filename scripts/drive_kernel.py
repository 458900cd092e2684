"""What scripts/drive-kernel runs: random journeys through the pure kernel, counted by row of the table."""

from __future__ import annotations

import argparse
import sys
import time
from random import Random

from kode.core.kernel.table import ILLEGAL, LATE, POSTPONE, REJECT, TABLE
from kode.core.kernel.words import Phase
from kode.core.testing.drive import Journey, Rows

LEAST = 100
"""Hits that each row must have to count as tested."""
BATCHES = 60


def drive(transitions: int, seed: int) -> tuple[Rows, int]:
    """Send agents on journeys until so many inputs were applied; each journey can be repeated by its seed."""
    rows: Rows = Rows()
    journeys = 0
    while rows.total() < transitions:
        name = f"{seed}.{journeys}"
        journey = Journey(Random(name), rows)
        journey.begin()
        try:
            for _ in range(BATCHES):
                journey.go()
            journey.finish()
        except Exception:
            print(f"Journey {name} failed after {len(journey.messages)} messages.", file=sys.stderr)
            raise
        journeys += 1
    return rows, journeys


def report(rows: Rows) -> list[str]:
    """Print the table of hits; hand back the rows that were hit too rarely."""
    rare = []
    print(f"{'':20}" + "".join(f"{phase:>16}" for phase in Phase))
    for kind in dict.fromkeys(kind for kind, _ in TABLE):
        line = f"{kind.__name__:20}"
        for phase in Phase:
            what, hits = TABLE[kind, phase], rows[kind.__name__, phase]
            mark = {LATE: "late", POSTPONE: "wait", REJECT: "reject"}.get(what, "") if isinstance(what, str) else ""
            line += f"{'illegal' if what == ILLEGAL else f'{mark} {hits}':>16}"
            if what != ILLEGAL and hits < LEAST:
                rare.append(f"{kind.__name__} x {phase}: {hits}")
        print(line)
    return rare


def main() -> int:
    """Drive, report, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transitions", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.monotonic()
    rows, journeys = drive(options.transitions, options.seed)
    rare = report(rows)
    took = time.monotonic() - began
    print(f"{rows.total()} transitions in {journeys} journeys, seed {options.seed}, {took:.1f} s: no invariant broke.")
    if rare:
        print(f"Hit fewer than {LEAST} times: {', '.join(rare)}", file=sys.stderr)
    return 1 if rare else 0


if __name__ == "__main__":
    sys.exit(main())
