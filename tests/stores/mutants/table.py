"""The table of wrong stores: how each is wrong, and which clause of which group says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kode.core.store import Store

__all__ = ["MUTANTS", "Mutant", "wrong"]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One wrong store."""

    make: type[Store]
    group: str
    """The group that it is wrong in."""
    clause: str
    """The clause there that must say so."""
    also: frozenset[str] = frozenset()
    """Other groups that cannot but notice."""
    why: str = ""
    """Why they cannot."""

    @property
    def name(self) -> str:
        """The name of its class."""
        return self.make.__name__


MUTANTS: list[Mutant] = []


def wrong(group: str, clause: str, *, also: str = "", why: str = "") -> Callable[[type[Store]], type[Store]]:
    """Enter a store into the table; `also` names further groups that notice, apart by blanks, `why` the reason."""

    def enter(make: type[Store]) -> type[Store]:
        MUTANTS.append(Mutant(make, group, clause, frozenset(also.split()), why))
        return make

    return enter
