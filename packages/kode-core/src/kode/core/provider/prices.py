"""What models cost: one table for all providers of the process, filled by its user.

    PRICES["anthropic:claude-sonnet"] = Prices(3, 15, cache_read=0.3, cache_write=3.75)

None are built in: vendors change theirs by the month, and a cost that is quietly wrong is worse than none.
"""

from __future__ import annotations

from kode.core.provider.base import Prices

__all__ = ["PRICES", "prices_of"]

PRICES: dict[str, Prices] = {}
"""By the beginning of ``name:model``; the longest that fits counts. A provider looks when it is made."""


def prices_of(name: str, model: str) -> Prices | None:
    """Find what a provider's model costs, if the table knows."""
    full = f"{name}:{model}"
    found = max((key for key in PRICES if full.startswith(key)), key=len, default=None)
    return None if found is None else PRICES[found]
