"""Names that are counted, so that a run can be repeated and a failure reads well."""

from __future__ import annotations

from collections import Counter

from kode.core.config import Ids

__all__ = ["SeededIds"]


class SeededIds(Ids):
    """``agt-1``, ``uid-1``, ``msg-1``, ``commit-1``, … in the order in which they are asked for.

    Two processes that share a store must not share names: give each a seed of its own.

    Args:
        seed: Put into each name: ``SeededIds("a")`` gives ``msg-a1``.
    """

    def __init__(self, seed: str = "") -> None:
        self.seed = seed
        self._given: Counter[str] = Counter()

    def agent_id(self) -> str:
        """``agt-<seed><n>``."""
        return self._next("agt")

    def uid(self) -> str:
        """``uid-<seed><n>``."""
        return self._next("uid")

    def item_id(self) -> str:
        """``msg-<seed><n>``."""
        return self._next("msg")

    def commit_id(self) -> str:
        """``commit-<seed><n>``."""
        return self._next("commit")

    def _next(self, kind: str) -> str:
        self._given[kind] += 1
        return f"{kind}-{self.seed}{self._given[kind]}"
