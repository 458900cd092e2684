"""Ask a vendor how many tokens a request has: one document in answer, one number in it."""

from __future__ import annotations

from kode.core.provider.failure import provider_error
from kode.core.provider.wire.frames import load
from kode.core.provider.wire.http import EventStream

__all__ = ["counted"]


async def counted(answer: EventStream, field: str, who: str, model: str) -> int:
    """Read the number.

    Args:
        answer: To a request that is not sent yet.
        field: Which one of the document.
        who: The provider's name, for errors.
        model: The one asked, for errors.

    Raises:
        ProviderError: It was refused, or answered otherwise.
    """
    async with answer:
        events = await answer.read()
        answer.complete = True
    frame = load(events[0].data) if events else None
    value = None if frame is None else frame.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise provider_error("protocol", f"{who} did not count: no {field!r} in its answer.", provider=who, model=model)
    return value
