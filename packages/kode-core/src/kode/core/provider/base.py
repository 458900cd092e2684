"""The contract between KODE and a model vendor: what is asked, what streams back, how it can fail.

A provider turns one ``ModelRequest`` into one stream of chunks. Its duties, which the rest of KODE builds on:

* Blocks are numbered from 0 without gaps, in the order in which they start: a block's index in the stream is
  its place in the finished message, so what a watcher saw and what is stored have one name. Deltas of several
  open blocks may come interleaved. A block that KODE has no type for is left out and takes no number.
* A stream is complete only if its last chunk is ``ReplyEnd``. What ends otherwise was cut.
* It raises nothing but ``ProviderError`` (see ``provider/failure.py``), and passes cancellation on at once.
* A pause that a vendor asks for in the middle of a reply is continued inside the provider, as one stream.
* Keys never appear in a repr, an error, a log, a URL or a chunk.
* It never changes a message it was given. It merges neighbouring messages of one role, leaves empty text out
  and drops another vendor's reasoning and opaque parts, as its API wants.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from kode.core.errors import ProviderError
from kode.core.kernel.message import Block, Json, Message, Usage
from kode.core.kernel.words import StopReason
from kode.core.quick import quick

__all__ = [
    "BlockKind",
    "BlockStart",
    "BlockStop",
    "BlockWhole",
    "CacheHint",
    "Capabilities",
    "Chunk",
    "CountsTokens",
    "Effort",
    "InputDelta",
    "MediaFile",
    "MediaKind",
    "MediaRule",
    "ModelRequest",
    "OutputSchema",
    "Prices",
    "Provider",
    "Reasoning",
    "ReasoningDelta",
    "ReplyEnd",
    "ReplyError",
    "SystemPart",
    "TakesUploads",
    "TextDelta",
    "ToolChoice",
    "ToolSpec",
    "Uploaded",
    "UsageReport",
]

# ---- what is asked -----------------------------------------------------------------------------------------

CacheHint = Literal["short", "long"]
"""How long a vendor should keep what it has read up to here: minutes, or an hour and more."""

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
MediaKind = Literal["image", "audio", "video", "file"]


@dataclass(frozen=True, slots=True)
class SystemPart:
    """A piece of the system prompt, parted where caching asks for it."""

    text: str
    cache: CacheHint | None = None
    """Everything up to the end of this part stays the same from request to request."""


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as the model is told of it."""

    name: str
    description: str
    input_schema: Json
    """JSON Schema of an object."""
    cache: CacheHint | None = None
    strict: bool = False
    """Ask the vendor to hold arguments to the schema, where it can."""


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether the model may, must or must not call tools. ``tool``: it must call the tool named."""

    mode: Literal["auto", "none", "required", "tool"] = "auto"
    tool: str | None = None
    parallel: bool | None = None
    """Whether one reply may hold several calls; None: as the vendor does."""


@dataclass(frozen=True, slots=True)
class OutputSchema:
    """The answer must be JSON of this schema."""

    schema: Json
    name: str = "output"
    strict: bool = True


@dataclass(frozen=True, slots=True)
class Reasoning:
    """How much the model shall think. A vendor that knows one of effort and budget derives it."""

    effort: Effort | None = None
    budget_tokens: int | None = None
    show: bool = True
    """Ask for the thoughts, not only for what came of them."""
    retain: bool = True
    """Show the model its own earlier reasoning again."""


@quick
@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One question to a model. Its repr holds no message, header or body: they may be long, or secret."""

    model: str
    messages: Sequence[Message] = field(repr=False)
    """The window, oldest first; nobody changes it any more. No reference to a blob is left in it."""
    system: str | tuple[SystemPart, ...] = field(default="", repr=False)
    tools: Sequence[ToolSpec] = field(default=(), repr=False)
    tool_choice: ToolChoice | None = None
    max_tokens: int | None = None
    """Of the reply; None: the most the provider thinks sensible."""
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    """Sequences that end the reply."""
    seed: int | None = None
    output_schema: OutputSchema | None = None
    reasoning: Reasoning | None = None
    cache: CacheHint | None = None
    """Cache the history too; the provider places the marks, which move with it."""
    cache_key: str | None = None
    """Same for all requests that share a beginning."""
    metadata: Mapping[str, str] | None = field(default=None, repr=False)
    """Sent to the vendor where its API has a place for it."""
    extra_headers: Mapping[str, str] | None = field(default=None, repr=False)
    extra_body: Json | None = field(default=None, repr=False)
    """A JSON object laid over the body that the provider makes: its fields win."""
    agent_id: str = ""
    """Who asks; never sent."""
    idempotency_key: str | None = None
    """The same for every try of one request. The providers of this package do not send it; yours may."""
    timeout_s: float | None = None
    """Of the whole reply. The shell cancels at it; a provider may pass it on to its connection."""

    @property
    def system_parts(self) -> tuple[SystemPart, ...]:
        """The system prompt in parts; none if it is empty."""
        if isinstance(self.system, str):
            return (SystemPart(self.system),) if self.system else ()
        return self.system


# ---- what streams back -------------------------------------------------------------------------------------
# Not frozen: one is made per token, and a frozen one costs three times as much. Nobody changes one though.

BlockKind = Literal["text", "reasoning", "tool_use"]


@dataclass(slots=True)
class BlockStart:
    """A block begins. ``id`` and ``name`` are a tool call's."""

    index: int
    kind: BlockKind
    id: str = ""
    name: str = ""
    opaque: Json | None = None
    redacted: bool = False
    """Of reasoning: only ciphertext, in ``opaque``."""


@dataclass(slots=True)
class TextDelta:
    """More text. It may end in the middle of a surrogate pair."""

    index: int
    text: str


@dataclass(slots=True)
class ReasoningDelta:
    """More reasoning, or a piece of its signature."""

    index: int
    text: str = ""
    signature: str | None = None


@dataclass(slots=True)
class InputDelta:
    """More of a tool call's arguments: a fragment of JSON text."""

    index: int
    json: str


@dataclass(slots=True)
class BlockStop:
    """A block is complete. ``opaque``, if given, replaces that of its start."""

    index: int
    opaque: Json | None = None


@dataclass(slots=True)
class BlockWhole:
    """A block that came in one piece: media, or anything from an API that does not stream it."""

    index: int
    block: Block


@dataclass(slots=True)
class UsageReport:
    """All that the reply has used so far; 0 is not known yet. A larger number replaces a smaller one."""

    usage: Usage


@dataclass(slots=True)
class ReplyEnd:
    """The reply is complete. ``END_TURN`` also when it ends with tool calls."""

    stop: StopReason = StopReason.END_TURN
    raw: str = ""
    """The vendor's word for it."""
    model: str | None = None
    """The model that answered, where it says more than the one asked."""
    id: str | None = None
    """The vendor's id of the reply."""
    provider: str | None = None
    """Who answered, where the provider asked is only a front for several."""


@dataclass(slots=True)
class ReplyError:
    """The vendor reported an error in the middle of the stream; nothing follows. The same as raising it."""

    error: ProviderError


Chunk: TypeAlias = (
    BlockStart | TextDelta | ReasoningDelta | InputDelta | BlockStop | BlockWhole | UsageReport | ReplyEnd | ReplyError
)

# ---- the provider ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MediaRule:
    """What an API takes of one kind of media, and how it may come."""

    types: frozenset[str] = frozenset()
    """MIME types; empty: it does not say."""
    max_bytes: int = 2**53
    """Of one whose bytes go with the request; 0: none does."""
    max_items: int | None = None
    """In one request."""
    urls: bool = True
    """Whether the vendor fetches it from a URL."""
    schemes: tuple[str, ...] = ("https://", "http://")
    """What URLs that it fetches begin with."""
    url_types: frozenset[str] = frozenset()
    """MIME types that it fetches; empty: all that it takes."""
    max_upload_bytes: int = 0
    """Of one that is uploaded ahead of the request; 0: none is."""
    file_ids: str | None = ""
    """What ids of uploaded files begin with, so that another vendor's are not sent; None: it takes none."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a provider can do with its model; checked before sending, so that a refusal is readable."""

    tools: bool = True
    parallel_calls: bool = True
    reasoning: bool = False
    structured_output: bool = False
    prompt_cache: bool = False
    media: Mapping[MediaKind, MediaRule] = field(default_factory=dict, hash=False)
    """What it takes of each kind; a kind that is missing is not taken."""
    max_media_bytes: int | None = None
    """Of all media that go with one request, as base64 text."""
    output_media: frozenset[MediaKind] = frozenset()
    max_output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Prices:
    """Currency units per million tokens. A cache price that is None is that of fresh input."""

    input: float = 0.0
    output: float = 0.0
    cache_read: float | None = None
    cache_write: float | None = None

    def priced(self, usage: Usage) -> Usage:
        """Give the usage its ``cost_nanos``; what went through a cache is billed once, at that price."""
        read = self.input if self.cache_read is None else self.cache_read
        write = self.input if self.cache_write is None else self.cache_write
        fresh = usage.input - usage.cache_read - usage.cache_write
        cost = fresh * self.input + usage.cache_read * read + usage.cache_write * write
        cost += usage.output * self.output
        # A unit per million tokens is a thousand nano-units per token.
        nanos = round(cost * 1000)
        return Usage(usage.input, usage.output, usage.cache_read, usage.cache_write, usage.reasoning, nanos)


class Provider(Protocol):
    """One vendor's API with one default model. Shared by all agents of a process, which use it at once."""

    @property
    def name(self) -> str:
        """The vendor: stored with each message, so that reasoning goes back to the one that wrote it."""
        ...

    @property
    def model(self) -> str:
        """The model asked when the template names none."""
        ...

    @property
    def window_tokens(self) -> int:
        """Tokens that request and reply may hold together."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""
        ...

    def stream(self, request: ModelRequest) -> AbstractAsyncContextManager[AsyncIterator[Chunk]]:
        """Ask. Entering sends the request; leaving, by whatever way, gives the connection back or closes it.

        Not an async generator: a task group or cancel scope would be held across its ``yield``. Nothing is
        tried again inside: ``retry`` does that, where a new attempt can be announced.

        Raises:
            ProviderError: On entering or iterating, with a code of ``FAILURES``.
        """
        ...

    async def close(self) -> None:
        """Close connections; twice is fine. Streams that are open fail; a later request opens new connections."""
        ...


@runtime_checkable
class CountsTokens(Protocol):
    """A provider that can count a request's tokens without answering it."""

    async def count_tokens(self, request: ModelRequest) -> int:
        """Count its input tokens."""
        ...


@dataclass(frozen=True, slots=True)
class MediaFile:
    """An image, a recording, a video or a file, as bytes."""

    kind: MediaKind
    media_type: str
    data: bytes = field(default=b"", repr=False)
    name: str = ""
    url: str | None = None
    """Where it lies instead, for who fetches it."""


@dataclass(frozen=True, slots=True)
class Uploaded:
    """Where the vendor keeps it: ``file_id`` or ``url`` of a ``MediaBlock``."""

    file_id: str | None = None
    url: str | None = None
    expires_at: int | None = None
    """Microseconds since the epoch; None: it stays."""


@runtime_checkable
class TakesUploads(Protocol):
    """A provider that takes files ahead of the request that refers to them."""

    @property
    def account(self) -> str:
        """Tells whose files they are: vendor, server and account, without anything of a key. Stored."""
        ...

    async def upload(self, file: MediaFile) -> Uploaded:
        """Send the file, and wait until it can be used.

        Raises:
            ProviderError: It was refused.
        """
        ...
