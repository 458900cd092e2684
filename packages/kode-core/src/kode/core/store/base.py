"""`Store`: everything an agent needs of storage, built on the record primitives.

Written in layers, each on the one before: `Records` (what a store's author writes), `Reading`, `Leasing`, `Staging`,
`Writing`, `Upkeep`. A store may override any method for speed; what it promises stays.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from kode.core.store.upkeep import Upkeep

__all__ = ["Store"]


class Store(Upkeep):
    """The one write door. An async context manager that opens and closes.

    Subclass it, write the primitives of `Records`, and run the classes of `kode.core.testing.conformance` over it.
    """

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
