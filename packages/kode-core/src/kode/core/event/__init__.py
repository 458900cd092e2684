"""What observers receive, and the place where live and stored events meet."""

from kode.core.event.base import Envelope, Position
from kode.core.event.hub import Hub, Subscription, switchboard

__all__ = ["Envelope", "Hub", "Position", "Subscription", "switchboard"]
