"""What every reader of replies is made of: who it reads, what it counts, how it says that a reply is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kode.core.errors import KodeError
from kode.core.jsontext import dump
from kode.core.kernel.message import Json, Usage
from kode.core.provider.base import BlockStart, BlockStop, Chunk, Prices, ReplyError, UsageReport
from kode.core.provider.wire.frames import failed
from kode.core.provider.wire.refusal import excerpt, understood

__all__ = ["Reading", "kept", "text_in"]


class Reading:
    """Base of the readers; see ``wire.stream.ReplyReader``. One per attempt.

    Args:
        who: The provider's name, for errors.
        model: The one asked, for errors.
        prices: Give usage its cost.
        hide: Blots out secrets in what the server says.
    """

    __slots__ = ("_count", "_head", "_hide", "_notes", "_prices", "_stop", "model", "over", "who")

    def __init__(
        self, who: str = "", model: str = "", prices: Prices | None = None, hide: Callable[[str], str] = str
    ) -> None:
        self.who = who
        self.model = model
        self.over = False
        """Nothing more is wanted: the mark of the end or an error came."""
        self._prices = prices
        self._hide = hide
        self._count = 0  # blocks begun
        self._notes: dict[str, Any] = {}  # sources of what was said, for the opaque part of its block
        self._stop: str | None = None  # why the model stopped
        self._head: tuple[str | None, str | None] = (None, None)  # id and model, as the vendor names them

    @property
    def finished(self) -> bool:
        """Whether the model has said why it stopped, so that nothing of the reply can be missing."""
        return self._stop is not None

    def _next(self) -> int:
        """The place of a block that begins."""
        self._count += 1
        return self._count - 1

    def _noted(self, **more: Any) -> Json | None:
        """Take the notes there are, for a block that ends."""
        notes, self._notes = {**more, **self._notes}, {}
        return kept(notes)

    def _rest(self) -> list[Chunk]:
        """Keep notes that came behind the block they are about: in one of their own, without a text."""
        if not self._notes:
            return []
        place = self._next()
        return [BlockStart(place, "text", opaque=self._noted()), BlockStop(place)]

    def _name(self, id: Any, model: Any) -> None:
        """Keep what the vendor calls the reply and its model; the first word counts."""
        if self._head == (None, None):
            self._head = self._shown(id) or None, self._shown(model) or None

    def _shown(self, said: Any) -> str:
        """Make what the vendor says fit to be shown."""
        return excerpt(said, self._hide) if isinstance(said, str) else ""

    def _used(self, usage: Usage) -> UsageReport:
        return UsageReport(usage if self._prices is None else self._prices.priced(usage))

    def _fail(self, code: str, what: str, *, retryable: bool | None = None) -> list[Chunk]:
        self.over = True
        return [failed(self.who, self.model, code, what, retryable=retryable)]

    def _no_json(self, data: str, *, retryable: bool) -> list[Chunk]:
        """Behind good frames it is some accident on the way; at the beginning it is another protocol."""
        text = f"sent a frame that is no JSON object: {excerpt(data, self._hide)!r}."
        return self._fail("protocol", text, retryable=retryable)

    def _refused(self, frame: dict[str, Any]) -> list[Chunk]:
        """Report the error that a frame holds."""
        self.over = True
        return [ReplyError(understood(200, frame, self._hide).error(self.who, model=self.model or None))]


def kept(value: dict[str, Any]) -> Json | None:
    """Write what a block keeps for its vendor; what no store could hold is not kept."""
    try:
        return dump(value) if value else None
    except KodeError:
        return None


def text_in(value: dict[str, Any], name: str) -> str:
    """Give a field that is text; anything else is none."""
    found = value.get(name)
    return found if isinstance(found, str) else ""
