"""Messages and their content blocks: what a model is shown and what it said.

Values inside are plain and immutable. Anything JSON-shaped (a tool's input, a vendor's opaque part) is kept
as canonical JSON *text* (``Json``), so that a record is read back byte for byte and the kernel never parses
it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NewType, TypeAlias

from kode.core.quick import quick

__all__ = [
    "BlobBlock",
    "Block",
    "Json",
    "MediaBlock",
    "Message",
    "ReasoningBlock",
    "Role",
    "TextBlock",
    "ToolResultBlock",
    "ToolUseBlock",
    "Usage",
]

Json = NewType("Json", str)
"""Canonical JSON text, made by ``kode.core.jsontext.dump``: the rule every store keeps."""

Role = Literal["user", "assistant", "system"]


@dataclass(frozen=True, slots=True)
class TextBlock:
    """Text, well-formed Unicode."""

    text: str
    opaque: Json | None = None
    """What a vendor wants back unchanged with this block; other vendors never see it."""
    type: Literal["text"] = "text"


@dataclass(frozen=True, slots=True)
class ReasoningBlock:
    """A model's reasoning. Shown again only to the vendor that wrote it."""

    text: str
    signature: str | None = None
    redacted: bool = False
    """True: the vendor gave only ciphertext, in ``opaque``."""
    opaque: Json | None = None
    type: Literal["reasoning"] = "reasoning"


@dataclass(frozen=True, slots=True)
class ToolUseBlock:
    """The model asks for a tool. ``id`` is the provider's and never trusted to be unique across steps."""

    id: str
    name: str
    input: Json
    opaque: Json | None = None
    type: Literal["tool_use"] = "tool_use"


@dataclass(frozen=True, slots=True)
class MediaBlock:
    """An image, audio, video or file; one of ``url``, ``file_id``, ``data``, ``blob`` says where it is."""

    type: Literal["image", "audio", "video", "file"]
    media_type: str | None = None
    """MIME type, such as ``image/png``."""
    url: str | None = None
    file_id: str | None = None
    """The id a provider gave to an upload."""
    data: str | None = None
    """Base64 text."""
    blob: str | None = None
    """SHA-256 (hex) of a blob in the store."""
    name: str | None = None
    opaque: Json | None = None


@dataclass(frozen=True, slots=True)
class BlobBlock:
    """Stands for a block whose body lies in the store as a blob, because it is too large for a record."""

    sha256: str
    size: int
    """Bytes."""
    media_type: str = "text/plain"
    preview: str = ""
    type: Literal["blob"] = "blob"


ResultContent: TypeAlias = TextBlock | MediaBlock | BlobBlock


@dataclass(frozen=True, slots=True)
class ToolResultBlock:
    """The answer to one ``ToolUseBlock`` of the message before it."""

    tool_use_id: str
    content: tuple[ResultContent, ...]
    is_error: bool = False
    call: str = ""
    """Our id of the call (``run.step.n``)."""
    type: Literal["tool_result"] = "tool_result"


Block: TypeAlias = TextBlock | ReasoningBlock | ToolUseBlock | ToolResultBlock | MediaBlock | BlobBlock


@quick
@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and cost; additive.

    ``cost_nanos`` counts billionths of the price table's currency unit, so that sums stay exact.
    """

    input: int = 0
    """All input tokens, those read from or written to a cache included."""
    output: int = 0
    """All output tokens, reasoning included."""
    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0
    cost_nanos: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input + other.input,
            self.output + other.output,
            self.cache_read + other.cache_read,
            self.cache_write + other.cache_write,
            self.reasoning + other.reasoning,
            self.cost_nanos + other.cost_nanos,
        )

    @property
    def tokens(self) -> int:
        """Input and output together: what token limits count."""
        return self.input + self.output


@quick
@dataclass(frozen=True, slots=True)
class Message:
    """One entry of an agent's history. ``seq`` counts from 0 without gaps and is never used again."""

    seq: int
    role: Role
    blocks: tuple[Block, ...]
    at: int
    """Microseconds since the epoch, UTC."""
    run: int = 0
    step: int = 0
    origin: str | None = None
    """``inbox:<item id>``, ``reminder:<item id>``, ``timer:<id>``, ``tools``, or None for the model."""
    sender: str | None = None
    """Who spoke, as the sender said."""
    provider: str | None = None
    model: str | None = None
    attempt: str | None = None
    """``fence.n`` of the attempt that produced it."""
    stop_reason: str | None = None
    usage: Usage | None = None
    metadata: Json | None = None
