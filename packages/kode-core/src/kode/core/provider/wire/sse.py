"""Parse server-sent events as their bytes come. Pure: the same bytes, cut however, give the same events.

The format is that of https://html.spec.whatwg.org/multipage/server-sent-events.html, section 9.2.6: lines end with LF,
CR or CRLF, an empty line sends the event off, and an event that the stream ends in the middle of is dropped. Work is
linear in the bytes, however they are cut; what one line and one event may hold is bounded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kode.core.provider.failure import provider_error

__all__ = ["MAX_EVENT_BYTES", "SseEvent", "SseParser"]

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""Default bound of a line, and of an event's data."""

_END_OF_LINE = re.compile(rb"\r\n?|\n")
_BOM = b"\xef\xbb\xbf"


@dataclass(slots=True)
class SseEvent:
    """One event."""

    data: str
    """Its data lines, joined by LF."""
    type: str = "message"
    id: str = ""
    """The last id the stream has named, in this event or before it."""


class SseParser:
    """Fed with bytes, gives events. One per stream.

    Args:
        max_event_bytes: What a line, and the data of an event, may hold.
    """

    __slots__ = ("_after_cr", "_data", "_first", "_held", "_id", "_max", "_size", "_type", "retry_ms")

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self.retry_ms: int | None = None
        """How long the server asks to wait before coming back, if it did."""
        self._max = max_event_bytes
        self._held = bytearray()  # the line that is not complete
        self._after_cr = False  # an LF that comes next belongs to the CR before it
        self._first = True
        self._data: list[str] = []
        self._size = 0
        self._type = ""
        self._id = ""

    def feed(self, data: bytes) -> list[SseEvent]:
        """Take the next bytes and give the events that they complete.

        Raises:
            ProviderError: Code ``protocol``: a line or an event is larger than the bound. The stream is lost.
        """
        events: list[SseEvent] = []
        if not data:
            return events
        start = 1 if self._after_cr and data[0] == 10 else 0
        for end in _END_OF_LINE.finditer(data, start):
            line = data[start : end.start()]
            start = end.end()
            if self._held:
                self._held += line
                line = bytes(self._held)
                self._held.clear()
            self._line(line, events)
        self._after_cr = data[-1] == 13
        if start < len(data):
            self._held += data[start:]
            if len(self._held) > self._max:
                raise self._too_large("line")
        return events

    def _line(self, line: bytes, events: list[SseEvent]) -> None:
        if self._first:
            self._first = False
            line = line.removeprefix(_BOM)
        if len(line) > self._max:
            raise self._too_large("line")
        if not line:
            self._dispatch(events)
        elif line.startswith(b"data:"):
            # All but a few lines are this; the space behind the colon is not part of the value.
            self._add(line[6:] if line[5:6] == b" " else line[5:])
        elif line[0] != 58:  # a colon begins a comment
            name, _, value = line.partition(b":")
            self._field(name, value[1:] if value[:1] == b" " else value)

    def _add(self, value: bytes) -> None:
        self._size += len(value) + 1
        if self._size > self._max:
            raise self._too_large("event")
        self._data.append(value.decode("utf-8", "replace"))

    def _field(self, name: bytes, value: bytes) -> None:
        if name == b"data":
            self._add(value)
        elif name == b"event":
            self._type = value.decode("utf-8", "replace")
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit() and len(value) <= 12:
            self.retry_ms = int(value)

    def _dispatch(self, events: list[SseEvent]) -> None:
        if self._data:
            data = self._data[0] if len(self._data) == 1 else "\n".join(self._data)
            events.append(SseEvent(data, self._type or "message", self._id))
            self._data.clear()
            self._size = 0
        self._type = ""

    def _too_large(self, what: str) -> Exception:
        return provider_error("protocol", f"The stream holds a {what} of more than {self._max:,} bytes; it was left.")
