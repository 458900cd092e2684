"""Media on their way to a model: bytes that lie apart, uploads, and help for models that neither hear nor see.

* What is large lies in the store as a blob; messages name it by its SHA-256. Bytes are read when a request is made.
* What is larger than ``Dependencies.upload_over`` is uploaded once, and what the vendor calls it is remembered in a
  document of the agent: a later request, also of another process, refers to it. A crash before the next commit loses
  the note, and the file is sent again.
* What a model cannot take is turned into what it can, by the functions in ``Dependencies``; what came of that is kept.
* What is left goes as a line of text, and an event says so. Nothing is left out without a word, and nothing that was
  stored can keep an agent from going on.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any, Final

from kode.core.config import Dependencies
from kode.core.errors import NotFoundError, ProviderError, StoreError
from kode.core.kernel.events import Event, preview
from kode.core.kernel.message import BlobBlock, Block, MediaBlock, Message, TextBlock, ToolResultBlock
from kode.core.provider.base import MediaFile, MediaKind, ModelRequest, Provider, TakesUploads
from kode.core.provider.failure import provider_error
from kode.core.provider.media import MediaProblem, as_text, kind_of, left_out, media_type_of, problem, typed
from kode.core.runtime.media.door import Way, decoded, stowed, way_of
from kode.core.runtime.media.remembered import Remembered
from kode.core.tools.base import is_failure
from kode.core.tools.documents import Documents

__all__ = ["Media"]

MAX_MADE: Final = 67_108_864
"""Characters of base64 that one reply or result may bring."""
HEADROOM_US: Final = 600_000_000
"""A file that expires within ten minutes is sent again."""
_SHOWN: Final = 65_536
"""Characters of a text that lies in the store as a blob."""
_UNKNOWN = frozenset({"bad_request", "model_not_found", "permission"})
"""What vendors say of a file that they do not have any more."""


class _Room:
    """What still fits into one request, the newest first."""

    def __init__(self, provider: Provider) -> None:
        self._rules = provider.capabilities.media
        self._left = provider.capabilities.max_media_bytes
        self._items: Counter[MediaKind] = Counter()

    def takes(self, block: MediaBlock) -> bool:
        rule, size = self._rules.get(block.type), len(block.data or "")
        most = None if rule is None else rule.max_items
        if (most is not None and self._items[block.type] >= most) or (self._left is not None and size > self._left):
            return False
        self._items[block.type] += 1
        if self._left is not None:
            self._left -= size
        return True


_FULL = MediaProblem("too_many_media", "newer media fill what one request may hold")


class Media:
    """One drive's media.

    Args:
        agent_id: Whose.
        provider: Who is asked.
        deps: Where blobs lie, and what helps.
        documents: Where it is remembered.
        note: Takes durable events.
    """

    def __init__(
        self,
        agent_id: str,
        provider: Provider,
        deps: Dependencies,
        documents: Documents,
        note: Callable[[Event], None],
    ) -> None:
        self._agent_id = agent_id
        self._provider = provider
        self._deps = deps
        self._documents = documents
        self._note = note
        self._said: set[tuple[str, ...]] = set()
        self._referred: set[str] = set()
        """Files that the last request named by what was remembered."""

    async def kept(self, blocks: tuple[Block, ...]) -> tuple[Block, ...]:
        """Store what a reply or a result brought apart from its message."""
        if not any(isinstance(block, MediaBlock) for block in blocks):
            return blocks
        left, made = MAX_MADE, list(blocks)
        for at, block in enumerate(made):
            size = len(block.data or "") if isinstance(block, MediaBlock) else 0
            left -= size
            if size and left < 0 and isinstance(block, MediaBlock):
                found = MediaProblem("media_too_large", f"more than {MAX_MADE:,} characters came at once")
                made[at] = self._left_out(block, found)
        return await stowed(tuple(made), self._agent_id, self._deps.store)

    async def ready(self, request: ModelRequest) -> ModelRequest:
        """Give the request as it can be sent; the one given stays as it is.

        Raises:
            ProviderError: An upload failed, or it took longer than the request may.
        """
        self._referred.clear()
        if not any(map(_carries, request.messages)):
            return request
        with self._deps.clock.move_on_after(request.timeout_s):
            room, messages = _Room(self._provider), list(request.messages)
            for at in range(len(messages) - 1, -1, -1):
                if _carries(messages[at]):
                    messages[at] = replace(messages[at], blocks=await self._blocks(messages[at].blocks, room))
            return replace(request, messages=messages)
        text = f"The media for {self._provider.name} were not ready within {request.timeout_s} s; send less, or raise"
        raise provider_error("timeout", f"{text} Limits.model_timeout_s.", provider=self._provider.name)

    async def forget(self, error: ProviderError) -> bool:
        """Forget the files that the last request named, if that may be why it was refused; True: ask once more."""
        if not self._referred or error.code not in _UNKNOWN or "file" not in error.message.lower():
            return False
        notes = await self._notes()
        for key in self._referred:
            notes.uploads.pop(key, None)
        self._referred.clear()
        self._documents.keep_media(notes.text())
        return True

    # ---- block by block

    async def _blocks(self, blocks: Sequence[Block], room: _Room) -> tuple[Any, ...]:
        made: list[Block] = []
        for block in reversed(blocks):
            if isinstance(block, ToolResultBlock):
                made.append(replace(block, content=await self._blocks(block.content, room)))
            elif isinstance(block, MediaBlock | BlobBlock):
                for each in reversed(await self._shown(block)):
                    if isinstance(each, MediaBlock) and not room.takes(each):
                        each = self._left_out(each, _FULL)
                    made.append(each)
            else:
                made.append(block)
        return tuple(reversed(made))

    async def _shown(self, block: MediaBlock | BlobBlock) -> list[Block]:
        """What the model gets for one block."""
        if isinstance(block, BlobBlock):
            if block.media_type.startswith("text/"):
                return [await self._text(block)]
            block = MediaBlock(kind_of(block.media_type), block.media_type, blob=block.sha256)
        shown = await self._placed(typed(block))
        return [self._left_out(block, shown)] if isinstance(shown, MediaProblem) else shown

    async def _text(self, block: BlobBlock) -> TextBlock:
        data = await self._blob(block.sha256)
        if data is None:
            return TextBlock(f"{block.preview}\n[{block.size} bytes of {block.media_type} are not stored any more]")
        text = data.decode("utf-8", "replace")
        more = len(text) - _SHOWN
        return TextBlock(text if more <= 0 else f"{text[:_SHOWN]}\n[{more:,} more characters are not shown]")

    async def _placed(self, block: MediaBlock) -> list[Block] | MediaProblem:
        """Put one block where the model finds it, or say why it cannot have it."""
        key = _key(block)
        data: bytes | None = None
        if block.url is None and block.file_id is None:
            remembered = await self._remembered(block, key)
            if remembered is not None:
                return [remembered]
            data = await self._blob(block.blob) if block.blob is not None else decoded(block.data or "")
            if not data:
                return MediaProblem("media_gone", "its bytes are not there any more, or no base64 text")
            block = typed(block, data[:64])
        size = None if data is None else len(data)
        found = problem(block, self._provider.capabilities, size)
        way = way_of(block, size, found, self._provider, self._deps)
        if way is None:
            return found or _FULL
        if way == "as it is":
            return [_inline(block, data)]
        if data is not None and way == "upload":
            return await self._upload(block, key, data)
        text = as_text(block, data) if data is not None and way == "text" else None
        return [text] if text is not None else await self._help(block, key, data, way)

    async def _blob(self, sha: str) -> bytes | None:
        try:
            return await self._deps.store.get_blob(self._agent_id, sha)
        except NotFoundError:
            return None

    def _left_out(self, block: MediaBlock | BlobBlock, found: MediaProblem) -> TextBlock:
        """A line for the model, and an event for those who watch: once a drive."""
        if isinstance(block, BlobBlock):
            block = MediaBlock(kind_of(block.media_type), block.media_type, blob=block.sha256)
        line = left_out(block, found.text)
        if (said := (_key(block), found.code)) not in self._said:
            self._said.add(said)
            self._note(Event("error", preview=preview(line.text), data={"code": found.code, "phase": "media"}))
        return line

    # ---- uploads

    async def _notes(self) -> Remembered:
        account = self._provider.account if isinstance(self._provider, TakesUploads) else ""
        return Remembered.read(await self._documents.get("media"), account)

    async def _remembered(self, block: MediaBlock, key: str) -> MediaBlock | None:
        known = (await self._notes()).uploads.get(key)
        if known is None:
            return None
        until = known.get("until")
        if until is not None and until < self._deps.clock.now() + HEADROOM_US:
            return None
        self._referred.add(key)
        return _named(block, known)

    async def _upload(self, block: MediaBlock, key: str, data: bytes) -> list[Block] | MediaProblem:
        """Send it ahead, and remember what the vendor calls it. Where none is kept, it goes with each request."""
        provider = self._provider
        assert isinstance(provider, TakesUploads)
        try:
            done = await provider.upload(_file(block, data))
        except ProviderError as error:
            if error.retryable:
                raise
            if problem(block, self._provider.capabilities, len(data)) is None:
                return [_inline(block, data)]
            return MediaProblem("media_not_uploaded", f"its upload was refused: {error.message}"[:300])
        known = {"kind": block.type, "type": media_type_of(block), "id": done.file_id, "url": done.url}
        notes = await self._notes()
        notes.uploads[key] = {name: value for name, value in known.items() if value is not None}
        if done.expires_at is not None:
            notes.uploads[key]["until"] = done.expires_at
        self._documents.keep_media(notes.text())
        return [_named(block, notes.uploads[key])]

    # ---- help for who neither hears nor sees

    async def _help(self, block: MediaBlock, key: str, data: bytes | None, way: Way) -> list[Block] | MediaProblem:
        """What a function of the user's makes of it; made once."""
        name = f"{way}:{key}"
        made = (await self._notes()).made.get(name)
        if made is None:
            try:
                made = await _MAKERS[way](self, _file(block, data or b""))
            except StoreError:
                raise
            except BaseException as error:
                if not is_failure(error):
                    raise
                return MediaProblem("media_not_made", f"the {way} failed: {type(error).__name__}: {error}"[:300])
            notes = await self._notes()
            notes.made[name] = made
            self._documents.keep_media(notes.text())
        shown: list[Block] = []
        for each in made:
            if "text" in each:
                shown.append(TextBlock(each["text"]))
            elif each["kind"] == "text":
                shown.append(await self._text(BlobBlock(each["blob"], each["size"])))
            else:
                shown += await self._shown(MediaBlock(each["kind"], each["type"], blob=each["blob"], name=block.name))
        return shown

    async def _transcript(self, file: MediaFile) -> list[dict[str, Any]]:
        call = self._deps.transcriber
        assert call is not None
        head = " ".join(filter(None, ("[Transcript of the audio", file.name)))
        text = f"{head}]\n{(await call(file)).strip()}"
        return [await self._put("text", "text/plain", text.encode("utf-8", "replace"))]

    async def _frames(self, file: MediaFile) -> list[dict[str, Any]]:
        call = self._deps.frame_extractor
        assert call is not None
        frames = await call(file)
        made: list[dict[str, Any]] = [
            {"text": f"[The video {file.name or ''} as {len(frames)} pictures, in their order]"}
        ]
        for frame in frames:
            if frame.kind != "image":
                raise ValueError(f"a frame is of the kind {frame.kind!r}, not an image")
            made.append(await self._put(frame.kind, frame.media_type, frame.data))
        return made

    async def _fetched(self, file: MediaFile) -> list[dict[str, Any]]:
        call = self._deps.media_fetcher
        assert call is not None
        found = await call(file.url or "")
        return [await self._put(found.kind, found.media_type, found.data)]

    async def _put(self, kind: str, media_type: str, data: bytes) -> dict[str, Any]:
        blob = await self._deps.store.put_blob(self._agent_id, data, media_type)
        return {"kind": kind, "type": media_type, "blob": blob, "size": len(data)}


_MAKERS: dict[str, Callable[[Media, MediaFile], Awaitable[list[dict[str, Any]]]]] = {
    "transcript": Media._transcript,  # noqa: SLF001 - its own
    "frames": Media._frames,  # noqa: SLF001
    "fetched": Media._fetched,  # noqa: SLF001
}


def _carries(message: Message) -> bool:
    return any(
        isinstance(block, MediaBlock | BlobBlock)
        or (isinstance(block, ToolResultBlock) and not all(isinstance(one, TextBlock) for one in block.content))
        for block in message.blocks
    )


def _key(block: MediaBlock) -> str:
    if block.blob is not None:
        return block.blob
    if block.data is not None:
        return sha256(decoded(block.data) or b"").hexdigest()
    return sha256((block.url or block.file_id or "").encode("utf-8", "replace")).hexdigest()


def _inline(block: MediaBlock, data: bytes | None) -> MediaBlock:
    if data is None or block.data is not None:
        return block
    return replace(block, blob=None, data=base64.b64encode(data).decode())


def _named(block: MediaBlock, known: dict[str, Any]) -> MediaBlock:
    return replace(
        block,
        type=known["kind"],
        media_type=known["type"],
        data=None,
        blob=None,
        file_id=known.get("id"),
        url=known.get("url"),
    )


def _file(block: MediaBlock, data: bytes) -> MediaFile:
    return MediaFile(block.type, media_type_of(block), data, block.name or "", block.url)
