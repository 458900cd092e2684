"""Beginning a journal, and closing the one before it.

A journal begins with all that may still change and names the segments, so it alone says what is in a folder. Its first
lines are written and durable before it gets its name, in one step of the file system; until then the old journal holds,
afterwards the new one. Whatever a stop in between leaves is named by nothing, and goes with the next `tidy`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from kode.core.store.json import names
from kode.core.store.json.disk import Disk
from kode.core.store.json.index import Index, Segment
from kode.core.store.json.lines import Address, Line, Raw, encode, seal
from kode.core.store.json.view import FolderView

__all__ = ["Begun", "begin", "is_long", "roll", "tidy"]

ROLLED: Final = 1_048_576
"""Bytes by which a journal grows before it is closed."""
PORTION: Final = 1_048_576
"""Bytes of records in one of the lines a journal begins with."""
LIVE: Final = 4
"""A file of which less than one part in so many is still needed is not kept: what is needed is copied."""
GONE: Final = 1_000
"""Records that lists name in vain, above which the lists are written anew."""


@dataclass(slots=True)
class Begun:
    """A journal that has begun."""

    file: int
    segments: Mapping[int, Segment]
    lines: list[Line] = field(default_factory=list)
    end: int = 0
    mark: bytes = b""
    forgotten: Sequence[Address] = ()
    fresh_lists: bool = False

    def enter(self, index: Index) -> None:
        """Have an index speak of this journal."""
        held, closed = dict(index.held), index.file
        for address in self.forgotten:
            held.pop(address, None)
            index.remove(address)
        index.file, index.end, index.begun, index.mark = self.file, self.end, self.end, self.mark
        # What is copied leaves the files it was in; what was just closed counts only what stays there.
        index.segments = {file: segment for file, segment in self.segments.items() if file != closed}
        index.recent = {}
        for line in self.lines:
            index.take(line)
        if closed in self.segments:
            index.segments[closed] = self.segments[closed]
        if self.fresh_lists or not index.segments:
            index.gone = set()
        index.held = held


def is_long(index: Index) -> bool:
    """Tell whether a journal is to be closed: what is copied into the next one is paid for by what was written."""
    return index.end > index.begun + max(ROLLED, index.begun)


def begin(
    disk: Disk,
    folder: str,
    file: int,
    segments: Mapping[int, Segment],
    gone: Iterable[Address],
    portions: Iterable[Sequence[Raw]],
) -> Begun:
    """Begin a journal with some records; it takes the place of the one before."""
    path = os.path.join(folder, names.NEW)
    listed = [[number, segment.revision, segment.size] for number, segment in sorted(segments.items())]
    begun = Begun(file, segments)
    disk.step("create", path)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        for rows in portions:
            first = not begun.lines
            head = {"file": file, "segments": listed} if first else {"file": file}
            data, line = encode(rows, sorted(gone) if first else (), file=file, at=begun.end, head=head)
            disk.write(fd, path, data, begun.end)
            begun.lines.append(line)
            begun.end += len(data)
            begun.mark = data[-12:]
        disk.sync(fd, path)
    finally:
        os.close(fd)
    disk.rename(path, os.path.join(folder, names.JOURNAL))
    disk.sync_folder(folder)
    return begun


def roll(disk: Disk, folder: str, view: FolderView, forget: str | None = None) -> Begun:
    """Close the journal and begin the next one; with `forget` nothing of that uid is kept in any file."""
    index = view.index
    new, forgotten = index.file + 1, [a for a, _ in index.all() if a[1] == forget] if forget else []
    stays = [(address, place) for address in index.recent if (place := index.find(address)) is not None]
    closed = Segment(new, index.end, sum(place.size for _, place in stays))
    segments = {**index.segments, index.file: closed}
    kept = {n: segment for n, segment in segments.items() if not forget and LIVE * segment.live >= segment.size}
    copied = [*index.mutable(), *_in_files(index, segments.keys() - kept.keys())]
    if forget:
        copied = [address for address in copied if address[1] != forget]
    fresh = len(index.gone) > GONE
    if index.file in kept:
        disk.link(os.path.join(folder, names.JOURNAL), os.path.join(folder, names.segment_name(index.file)))
        _list(disk, folder, index, index.file, new, [address for address, _ in stays])
    if fresh:
        _list_anew(disk, folder, index, kept, new)
    if fresh or index.file in kept:
        disk.sync_folder(folder)  # before a journal can name them
    gone = index.gone if kept and not fresh else ()
    begun = begin(disk, folder, new, kept, gone, _portions(view, copied))
    begun.forgotten, begun.fresh_lists = forgotten, fresh
    return begun


def tidy(disk: Disk, folder: str, index: Index) -> None:
    """Remove what nothing names."""
    named = {names.segment_name(file) for file in index.segments} | index.apart
    named |= {names.index_name(file, segment.revision) for file, segment in index.segments.items()}
    for name in os.listdir(folder):
        if name not in named and names.OURS.fullmatch(name):
            disk.remove(os.path.join(folder, name))


def _in_files(index: Index, files: Iterable[int]) -> list[Address]:
    """List what will not change and lies in some files."""
    chosen = set(files)
    if chosen <= {index.file}:
        return list(index.recent) if chosen else []
    changing = set(index.mutable())
    return [address for address, place in index.all() if place.file in chosen and address not in changing]


def _list(disk: Disk, folder: str, index: Index, file: int, revision: int, addresses: Iterable[Address]) -> None:
    data, _ = seal({"records": index.listed(addresses)})
    disk.create(os.path.join(folder, names.index_name(file, revision)), data)


def _list_anew(disk: Disk, folder: str, index: Index, kept: dict[int, Segment], revision: int) -> None:
    found: dict[int, list[Address]] = {}
    for address, place in index.all():
        found.setdefault(place.file, []).append(address)
    for file, segment in kept.items():
        if file != index.file:
            _list(disk, folder, index, file, revision, found.get(file, ()))
            kept[file] = Segment(revision, segment.size, segment.live)


def _portions(view: FolderView, addresses: Sequence[Address]) -> Iterator[list[Raw]]:
    """Read records in parts that fit into memory; at least one part, which may be empty."""
    part: list[Raw] = []
    size = 0
    for raw in view.raw(addresses):
        if size + len(raw.data) > PORTION and part:
            yield part
            part, size = [], 0
        part.append(raw)
        size += len(raw.data)
    yield part
