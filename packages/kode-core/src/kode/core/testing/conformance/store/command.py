"""`kode-conformance URL`: the kit for people who want a report. Needs the extra ``kode-core[testing]``.

It runs pytest underneath, without the configuration or plugins of the folder it is called in but anyio's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from kode.core.errors import KodeError
from kode.core.testing.conformance.store.kit import GROUPS, clauses
from kode.core.testing.conformance.store.report import Outcome, Report, run_kit

__all__ = ["main"]

MARKS = {"passed": "ok", "failed": "FAILED", "skipped": "-"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the kit over a store, print what holds, and say so by the exit code: 0, 1 (a clause fails), 2 (no run)."""
    given = _parser().parse_args(arguments)
    if given.list:
        for clause in clauses():
            if not given.group or clause.group in given.group:
                _say(f"{clause.group:17} {clause.name}: {clause.words}")
        return 0
    if given.url is None:
        _parser().error("give the URL of a store, or --list")
    printer = _Printer(verbose=given.verbose)
    try:
        report = run_kit(given.url, groups=given.group, backend=given.backend, heard=printer.hear)
    except KodeError as error:
        _say(f"kode-conformance: {error}", stream=sys.stderr)
        return 2
    printer.end(report)
    if given.json is not None:
        Path(given.json).write_text(json.dumps(report.as_json(), indent=2, ensure_ascii=False) + "\n")
    return 0 if report.verdict != "failed" else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kode-conformance",
        description="Hold a store to its contract. {} in the URL stands for a name that is new for each clause, as in "
        "sqlite:////tmp/kit/{}.db; without it the store must be empty, and is emptied behind each clause.",
    )
    parser.add_argument("url", nargs="?", metavar="URL", help="the store, as for open_store")
    parser.add_argument(
        "--group", action="append", choices=list(GROUPS), metavar="G", help="only this group; repeatable"
    )
    parser.add_argument(
        "--backend", choices=("asyncio", "trio"), default="asyncio", help="event loop (default asyncio)"
    )
    parser.add_argument("--json", metavar="FILE", help="write the report there, too")
    parser.add_argument("--list", action="store_true", help="print the clauses and run nothing")
    parser.add_argument("-v", "--verbose", action="store_true", help="print every clause, not only what fails")
    return parser


class _Printer:
    """Prints group by group while the kit runs."""

    def __init__(self, *, verbose: bool) -> None:
        self._verbose = verbose
        self._group: list[Outcome] = []

    def hear(self, outcome: Outcome) -> None:
        if self._group and self._group[0].clause.group != outcome.clause.group:
            self._flush()
        self._group.append(outcome)

    def end(self, report: Report) -> None:
        if self._group:
            self._flush()
        counts = report.counts
        _say(f"\n{counts['passed']} clauses hold, {counts['failed']} fail, {counts['skipped']} were not asked.")
        _say(f"Verdict: {report.verdict} ({report.meaning})")

    def _flush(self) -> None:
        name = self._group[0].clause.group
        asked = [outcome for outcome in self._group if outcome.result != "skipped"]
        held = sum(outcome.result == "passed" for outcome in asked)
        seconds = sum(outcome.seconds for outcome in self._group)
        mark = "-" if not asked else "ok" if held == len(asked) else "FAILED"
        words = f"{held} of {len(asked)} hold" if asked else f"not asked: {self._group[0].seen}"
        _say(f"{name:17} {mark:7} {words} ({seconds:.1f} s)")
        for outcome in self._group:
            if self._verbose or outcome.result == "failed":
                _say(f"    {MARKS[outcome.result]:7} {outcome.clause.name}\n            {outcome.clause.words}")
                if outcome.result == "failed":
                    _say("\n".join(f"            | {line}" for line in outcome.seen.splitlines()))
        self._group.clear()


def _say(text: str, stream: object = None) -> None:
    print(text, file=stream or sys.stdout, flush=True)  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())
