"""What observers receive, and the place where live and stored events meet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kode.core.lazy import exports

if TYPE_CHECKING:
    from kode.core.event.base import Envelope, Position
    from kode.core.event.family import FamilySubscription
    from kode.core.event.hub import Hub, switchboard
    from kode.core.event.subscription import Subscription

__getattr__, __dir__ = exports(
    __name__,
    {
        "Envelope": "base",
        "FamilySubscription": "family",
        "Hub": "hub",
        "Position": "base",
        "Subscription": "subscription",
        "switchboard": "hub",
    },
)

__all__ = [
    "Envelope",
    "FamilySubscription",
    "Hub",
    "Position",
    "Subscription",
    "switchboard",
]
