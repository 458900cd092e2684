"""What models cost: one table for all providers of the process, filled by its user.

    PRICES["anthropic:claude-sonnet-4-5"] = Prices(3, 15, cache_read=0.3, cache_write=3.75)

None are built in: vendors change theirs by the month, and a cost that is quietly wrong is worse than none.
"""

from __future__ import annotations

import re

from kode.core.provider.base import Prices

__all__ = ["PRICES", "prices_of"]

PRICES: dict[str, Prices] = {}
"""By ``name:model``, with or without the date that ends a model's name (``-20250929``, ``-2025-08-07``, ``-0613``).
``name:`` is for all its models that stand nowhere else."""

_DATE = re.compile(r"[-@](\d{3,4}|\d{8}|\d{4}-\d\d-\d\d|latest)$")


def prices_of(name: str, model: str) -> Prices | None:
    """Find what a provider's model costs, if the table knows."""
    full = f"{name}:{model}"
    return PRICES.get(full) or PRICES.get(_DATE.sub("", full)) or PRICES.get(f"{name}:")
