"""Media on their way to a model: bytes that lie apart, uploads, and help for models that neither hear nor see.

* What is large lies in the store as a blob; messages name it by its SHA-256. Bytes are read when a request is made.
* What is larger than ``Dependencies.upload_over`` is uploaded once, and what the vendor calls it is remembered in a
  document of the agent: a later request, also of another process, refers to it. A crash before the next commit loses
  the note, and the file is sent again. An upload that was refused is not tried again for a day.
* A request that is refused may be so for its media: a URL that works no more, a picture that is none. It is asked once
  more without them, and they stay away for a day if that helped.
* What a model cannot take is turned into what it can, by the functions in ``Dependencies``; what came of that is kept.
* What is left goes as a line of text, and an event says so. Nothing is left out without a word, and nothing that was
  stored can keep an agent from going on.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from typing import Any, Final

from kode.core.config import Dependencies
from kode.core.errors import ProviderError, StoreError
from kode.core.kernel.events import Event, preview
from kode.core.kernel.message import BlobBlock, Block, MediaBlock, TextBlock, ToolResultBlock
from kode.core.provider.base import MediaFile, MediaKind, ModelRequest, Provider, TakesUploads, Uploaded
from kode.core.provider.failure import provider_error
from kode.core.provider.media import MediaProblem, as_text, kind_of, left_out, media_type_of, problem, typed
from kode.core.runtime.context.showing import holds_media
from kode.core.runtime.media.door import Way, decoded, way_of
from kode.core.runtime.media.making import MAKERS
from kode.core.runtime.media.remembered import Remembered
from kode.core.runtime.media.shelf import Shelf
from kode.core.tools.base import is_failure
from kode.core.tools.documents import Documents

__all__ = ["Media"]

MAX_MADE: Final = 67_108_864
"""Characters of base64 that one reply or result may bring."""
HEADROOM_US: Final = 600_000_000
"""A file that expires within ten minutes is sent again."""
_SHOWN: Final = 65_536
"""Characters of a text that lies in the store as a blob."""
REFUSED_US: Final = 86_400_000_000
"""What was refused is tried again after a day."""
_UNKNOWN = frozenset({"bad_request", "model_not_found", "permission"})
"""What vendors say of a file or an address that they cannot read."""
_OF_FILES = re.compile(r"\bfile", re.IGNORECASE)


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
        self._provider = provider
        self._deps = deps
        self._note = note
        self._shelf = Shelf(agent_id, deps.store, deps.clock, documents, partial(_account, provider))
        self._said: set[tuple[str, ...]] = set()
        self._referred: set[str] = set()
        """Files that the last request named by what was remembered."""
        self._shown_as: dict[str, str] = {}
        """What the last request showed, and by which address or id; "" for bytes."""
        self._hidden: set[str] = set()
        """What the last request was refused for, perhaps."""

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
        kept = tuple(await self._shelf.stow(tuple(made)))
        return blocks if kept == blocks else kept

    async def ready(self, request: ModelRequest, places: Iterable[int] | None = None) -> ModelRequest:
        """Give the request as it can be sent; the one given stays as it is.

        Args:
            request: What is to be asked.
            places: Which of its messages may hold media, rising; None: look through all of them.

        Raises:
            ProviderError: An upload failed, or it took longer than the request may.
        """
        self._referred.clear()
        self._shown_as.clear()
        found = request.messages
        holding = [at for at in (range(len(found)) if places is None else places) if holds_media(found[at])]
        if not holding:
            return request
        began = self._deps.clock.monotonic()
        with self._deps.clock.move_on_after(request.timeout_s):
            room, messages = _Room(self._provider), list(found)
            for at in reversed(holding):
                messages[at] = replace(found[at], blocks=await self._blocks(found[at].blocks, room))
            left = request.timeout_s
            if left is not None:  # both together take no longer than one may
                left = max(round(left - (self._deps.clock.monotonic() - began), 1), 0.1)
            return replace(request, messages=messages, timeout_s=left)
        text = f"The media for {self._provider.name} were not ready within {request.timeout_s} s; send less, or raise"
        raise provider_error("timeout", f"{text} Limits.model_timeout_s.", provider=self._provider.name)

    async def forget(self, error: ProviderError) -> bool:
        """Do without the media that may be why the last request was refused; True: ask once more.

        First the vendor's own files are sent again, which it may have lost. Then what the error names is left out, or
        all if it names nothing; and if that did not help it was not the media.
        """
        if error.code not in _UNKNOWN:
            return False
        notes = await self._shelf.notes()
        if self._referred and _OF_FILES.search(error.message):
            for key in self._referred:
                notes.uploads.pop(key, None)
            self._referred.clear()
        elif suspects := self._suspects(error):
            for key in suspects:
                notes.refused[f"request:{key}"] = self._refusal(error)
            self._hidden |= suspects
        elif self._hidden:
            for key in self._hidden:
                notes.refused.pop(f"request:{key}", None)
            self._hidden.clear()
            self._shelf.keep(notes)
            return False
        else:
            return False
        self._shelf.keep(notes)
        return True

    def _suspects(self, error: ProviderError) -> set[str]:
        shown = {key: name for key, name in self._shown_as.items() if name or error.code == "bad_request"}
        named = {key for key, name in shown.items() if name and name in error.message}
        return named or set(shown)

    def _refusal(self, error: ProviderError) -> dict[str, Any]:
        return {"until": self._deps.clock.now() + REFUSED_US, "why": error.message[:200]}

    def _refused(self, notes: Remembered, what: str) -> str | None:
        """Why nobody tries this again today."""
        found = notes.refused.get(what)
        return None if found is None or found["until"] < self._deps.clock.now() else found["why"]

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
        data = await self._shelf.get(block.sha256)
        if data is None:
            return TextBlock(f"{block.preview}\n[{block.size} bytes of {block.media_type} are not stored any more]")
        text = data.decode("utf-8", "replace")
        more = len(text) - _SHOWN
        return TextBlock(text if more <= 0 else f"{text[:_SHOWN]}\n[{more:,} more characters are not shown]")

    async def _placed(self, block: MediaBlock) -> list[Block] | MediaProblem:
        """Put one block where the model finds it, or say why it cannot have it."""
        key, notes = _key(block), await self._shelf.notes()
        refused = self._refused(notes, f"request:{key}")
        data: bytes | None = None
        if block.url is None and block.file_id is None:
            remembered = None if refused is not None else self._remembered(notes, block, key)
            if remembered is not None:
                return self._showing(key, remembered)
            data = await self._shelf.get(block.blob) if block.blob is not None else decoded(block.data or "")
            if not data:
                return MediaProblem("media_gone", "its bytes are not there any more, or no base64 text")
            block = typed(block, data[:64])
        size = None if data is None else len(data)
        found = problem(block, self._provider.capabilities, size)
        if found is None and refused is not None:
            found = MediaProblem("media_refused", f"a request with it was refused: {refused}")
        way = way_of(block, size, found, self._provider, self._deps)
        if way is None:
            return found or _FULL
        if way == "as it is":
            return self._showing(key, _inline(block, data))
        if data is not None and way == "upload":
            return await self._upload(block, key, data)
        text = as_text(block, data) if data is not None and way == "text" else None
        return [text] if text is not None else await self._help(block, key, data, way)

    def _showing(self, key: str, block: MediaBlock) -> list[Block]:
        self._shown_as[key] = block.url or block.file_id or ""
        return [block]

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

    def _remembered(self, notes: Remembered, block: MediaBlock, key: str) -> MediaBlock | None:
        known = notes.uploads.get(key)
        if known is None:
            return None
        until, named = known.get("until"), _named(block, known)
        if until is not None and until < self._deps.clock.now() + HEADROOM_US:
            return None
        if problem(named, self._provider.capabilities) is not None:  # another API of the same account was asked then
            return None
        self._referred.add(key)
        return named

    async def _upload(self, block: MediaBlock, key: str, data: bytes) -> list[Block] | MediaProblem:
        """Send it ahead, and remember what the vendor calls it. Where none is kept, it goes with each request."""
        provider, notes = self._provider, await self._shelf.notes()
        assert isinstance(provider, TakesUploads)
        why = self._refused(notes, f"upload:{key}")
        if why is None:
            try:
                done = await provider.upload(_file(block, data))
            except ProviderError as error:
                if error.retryable:
                    raise
                refusal = self._refusal(error)
                why = refusal["why"]
                if error.code in _UNKNOWN or error.code == "protocol":
                    notes.refused[f"upload:{key}"] = refusal
                    self._shelf.keep(notes)
            else:
                return self._showing(key, self._uploaded(notes, block, key, done))
        if problem(block, self._provider.capabilities, len(data)) is None:
            return self._showing(key, _inline(block, data))
        return MediaProblem("media_not_uploaded", f"its upload was refused: {why}")

    def _uploaded(self, notes: Remembered, block: MediaBlock, key: str, done: Uploaded) -> MediaBlock:
        said = {"id": done.file_id, "url": done.url, "until": done.expires_at}
        known = {name: value for name, value in said.items() if value is not None}
        notes.uploads[key] = {"kind": block.type, "type": media_type_of(block), **known}
        named = _named(block, notes.uploads[key])
        self._shelf.keep(notes)
        return named

    # ---- help for who neither hears nor sees

    async def _help(self, block: MediaBlock, key: str, data: bytes | None, way: Way) -> list[Block] | MediaProblem:
        """What a function of the user's makes of it; made once."""
        name, notes = f"{way}:{key}", await self._shelf.notes()
        made = await self._shelf.read_list(notes.made.get(name, []))
        if not made:
            try:
                notes.made[name] = await MAKERS[way](self._shelf, self._deps, _file(block, data or b""))
            except StoreError:
                raise
            except BaseException as error:
                if not is_failure(error):
                    raise
                return MediaProblem("media_not_made", f"the {way} failed: {type(error).__name__}: {error}"[:300])
            made = await self._shelf.read_list(notes.made[name]) or []
            self._shelf.keep(notes)
        shown: list[Block] = []
        for each in made:
            if "text" in each:
                shown.append(TextBlock(each["text"]))
            elif each["kind"] == "text":
                shown.append(await self._text(BlobBlock(each["blob"], each["size"])))
            else:
                shown += await self._shown(MediaBlock(each["kind"], each["type"], blob=each["blob"], name=block.name))
        return shown


def _account(provider: Provider) -> str:
    return provider.account if isinstance(provider, TakesUploads) else ""


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
