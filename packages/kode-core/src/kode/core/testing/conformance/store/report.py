"""Runs the kit over the store of a URL and says what holds: `run_kit`."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import anyio
import pytest

from kode.core.errors import UsageError
from kode.core.store.contract import Scan
from kode.core.store.open import open_store
from kode.core.testing.conformance.store.kit import GROUPS, Clause, clauses

__all__ = ["Outcome", "Report", "run_kit"]

Result = Literal["passed", "failed", "skipped"]
Verdict = Literal["full", "core", "failed", "partial"]
_OPTIONS: Final = ("-p", "no:terminal", "-p", "no:cacheprovider", "-p", "no:xdist", "--noconftest", "-c", "/dev/null")
_FILE: Final = """
import pytest
pytest.register_assert_rewrite({package!r})
from {package}.suite import Kit
class TestStore(Kit):
    url, backend = {url!r}, {backend!r}
"""
MOST_LINES: Final = 12
"""Of what was seen, for each clause."""
_MEANINGS: Final[dict[Verdict, str]] = {
    "full": "every group holds, with several processes and kill -9",
    "core": "all that one process asks of a store holds; several processes were not asked for",
    "partial": "what was asked holds; only some groups were asked",
    "failed": "it is no store to keep agents in",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one clause."""

    clause: Clause
    result: Result
    seen: str
    """What was seen instead, or why it was not asked."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Report:
    """What holds of a store."""

    store: str
    """Name of its class."""
    groups: tuple[str, ...]
    """Those that were asked."""
    outcomes: tuple[Outcome, ...]

    @property
    def counts(self) -> Counter[str]:
        """How many clauses passed, failed and were skipped."""
        return Counter(outcome.result for outcome in self.outcomes)

    @property
    def verdict(self) -> Verdict:
        """In one word; `meaning` says it in a sentence."""
        if self.counts["failed"] or not self.outcomes:
            return "failed"
        if len(self.groups) < len(GROUPS):
            return "partial"
        asked = {outcome.clause.group for outcome in self.outcomes if outcome.result == "passed"}
        return "full" if asked == GROUPS.keys() else "core"

    @property
    def meaning(self) -> str:
        """What the verdict means."""
        return _MEANINGS[self.verdict]

    def as_json(self) -> dict[str, Any]:
        """Give it as plain values: verdict, counts, and a list of clauses."""
        return {
            "store": self.store,
            "verdict": self.verdict,
            "meaning": self.meaning,
            "counts": {name: self.counts[name] for name in ("passed", "failed", "skipped")},
            "clauses": [
                {**asdict(o.clause), "result": o.result, "seen": o.seen, "seconds": round(o.seconds, 3)}
                for o in self.outcomes
            ],
        }


def run_kit(
    url: str,
    *,
    groups: Sequence[str] | None = None,
    backend: Literal["asyncio", "trio"] = "asyncio",
    heard: Callable[[Outcome], None] = lambda outcome: None,
) -> Report:
    """Run the kit over the store that a URL names.

    Args:
        url: As for `open_store`. ``{}`` in it stands for a name that is new for each clause; without it the store
            must be empty, and all that a clause wrote is removed behind it.
        groups: Which groups; None: all.
        backend: The event loop.
        heard: Is told each outcome as it comes.

    Raises:
        UsageError: The URL names no store (`open_store` says why), there is no such group, or the store is not
            empty (``not_empty``).
    """
    unknown = set(groups or ()) - GROUPS.keys()
    if unknown:
        raise UsageError(f"There is no group {unknown.pop()!r}; there are {', '.join(GROUPS)}.", code="no_group")
    kind = anyio.run(_look, url)
    chosen = tuple(name for name in GROUPS if not groups or name in groups)
    listener = _Listener(heard, chosen)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "test_store.py")
        file.write_text(_FILE.format(package=__package__, url=url, backend=backend))
        _forget()
        pytest.main([*_OPTIONS, "--rootdir", folder, str(file)], plugins=[listener])
    return Report(kind, chosen, tuple(listener.outcomes))


async def _look(url: str) -> str:
    """Name the store's class, and refuse one that is not empty where it would be emptied."""
    store = open_store(url.replace("{}", "0"))
    if "{}" not in url:
        async with store:
            if await store.agents("", "", 1) or await store.scan("", Scan("staged", "", limit=1)):
                raise UsageError(
                    "The store holds agents, which the kit would remove; give an empty one, or a URL with {}.",
                    code="not_empty",
                )
    return type(store).__name__


def _forget() -> None:
    """Have the clauses imported anew: pytest can tell what they saw only if it was there when they were read."""
    for name in [name for name in sys.modules if name.startswith(f"{__package__}.") and name != __name__]:
        del sys.modules[name]


class _Listener:
    """Hears pytest."""

    def __init__(self, heard: Callable[[Outcome], None], groups: tuple[str, ...]) -> None:
        self.outcomes: list[Outcome] = []
        self._heard = heard
        self._clauses = {clause.name: clause for clause in clauses() if clause.group in groups}
        self._order = {name: n for n, name in enumerate(self._clauses)}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Leave what was asked for, in the order of the contract."""
        items[:] = sorted((i for i in items if _name(i.nodeid) in self._order), key=self._place)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Take down what came of a clause; of one that broke off before or after, that."""
        if report.when != "call" and report.outcome == "passed":
            return
        clause = self._clauses[_name(report.nodeid)]
        if report.outcome == "skipped":
            seen = str(report.longrepr[2]).removeprefix("Skipped: ")
        else:
            seen = "" if report.longrepr is None else _seen(report.longrepr)
        outcome = Outcome(clause, report.outcome, seen, report.duration)
        self.outcomes.append(outcome)
        self._heard(outcome)

    def _place(self, item: Any) -> int:
        return self._order[_name(item.nodeid)]


def _name(nodeid: str) -> str:
    return nodeid.rpartition("::test_")[2].partition("[")[0]


def _seen(shown: Any) -> str:
    crash = getattr(shown, "reprcrash", None)
    text = str(shown) if crash is None else f"{crash.message}\nat {Path(crash.path).name}:{crash.lineno}"
    lines = [line for line in text.splitlines() if line.strip() and "Use -v" not in line]
    return "\n".join(lines if len(lines) <= MOST_LINES else [*lines[: MOST_LINES - 2], "…", lines[-1]])
