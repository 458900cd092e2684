"""Hypothesis strategies for every value that is stored or fed to a kernel, made from the values' own annotations.

``values(Message)`` draws messages with every field anywhere in its range: the strategy reads the annotations, so a new
field is drawn as soon as it exists. What an annotation cannot say (canonical JSON, numbers that are never negative, the
alphabet of an agent id) is written down here. Needs the extra ``kode-core[testing]``.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from enum import StrEnum
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from hypothesis import strategies as st

from kode.core import jsontext
from kode.core.kernel.events import DURABLE, Event
from kode.core.kernel.inputs import (
    ApprovalDecided,
    CallResolved,
    InboxInput,
    Instructed,
    InterruptRequested,
    MessageReceived,
)
from kode.core.kernel.message import Json, Message
from kode.core.kernel.state import Document, RunRecord, State
from kode.core.kernel.toolcall import Call
from kode.core.kernel.window import Compaction, Range, Snapshot, Window
from kode.core.store.contract import Bounds, Commit, DocumentBody, Item, Lease

__all__ = [
    "agent_ids",
    "calls",
    "commits",
    "compactions",
    "documents",
    "event_lists",
    "inbox_inputs",
    "items",
    "json_texts",
    "json_values",
    "leases",
    "messages",
    "names",
    "numbers",
    "run_records",
    "snapshots",
    "states",
    "texts",
    "times",
    "values",
]

T = TypeVar("T")

texts: st.SearchStrategy[str] = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
"""Well-formed Unicode, NUL and other control characters included."""
column_texts: st.SearchStrategy[str] = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12
)
"""Text as a record's column holds it."""
names: st.SearchStrategy[str] = st.text(
    st.characters(exclude_categories=["C", "Zl", "Zp", "Zs"]) | st.sampled_from(" /%"), min_size=1, max_size=12
)
"""Text that a store takes as a name: printable, not empty."""
words: st.SearchStrategy[str] = names.filter(lambda name: "/" not in name)
"""Names of which a key's first or last part is made."""
ids: st.SearchStrategy[str] = st.text("abcXYZ019._:@-", min_size=1, max_size=8)
agent_ids: st.SearchStrategy[str] = ids.filter(lambda id: id not in (".", ".."))
"""Ids that a store takes."""
numbers: st.SearchStrategy[int] = st.integers(0, 2**53)
"""Counts, sizes and sequence numbers."""
times: st.SearchStrategy[int] = st.integers(0, 2**53)
"""Microseconds since the epoch."""
floats: st.SearchStrategy[float] = st.floats(allow_nan=False, allow_infinity=False)
scalars: st.SearchStrategy[Any] = st.none() | st.booleans() | st.integers() | floats | texts

json_values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
"""Plain values that the rule for JSON allows."""
json_texts: st.SearchStrategy[Json] = json_values.map(jsontext.dump)
"""Canonical JSON text."""

windows: st.SearchStrategy[Window] = st.builds(
    Window,
    compaction=st.none() | ids,
    pinned=st.lists(numbers, max_size=3).map(tuple),
    ranges=st.lists(st.builds(Range, numbers, numbers), max_size=2).flatmap(
        lambda closed: numbers.map(lambda start: (*closed, Range(start)))
    ),
)

_PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    str: texts,
    int: numbers,
    bool: st.booleans(),
    float: floats,
    Json: json_texts,
    Window: windows,
}
_FIELDS: dict[tuple[type, str], st.SearchStrategy[Any]] = {
    # What a record keeps as its key or in a column; the rest of a class is drawn from its annotations.
    (Message, "at"): times,
    (Call, "tool"): column_texts,
    (RunRecord, "status"): column_texts,
    (Compaction, "id"): ids,
    (Snapshot, "id"): ids,
    (Snapshot, "parent"): st.none() | ids,
    (Snapshot, "tags"): st.lists(column_texts, max_size=3).map(tuple),
    (Document, "kind"): words,
    (Document, "name"): names,
    (Document, "digest"): words,
    (DocumentBody, "kind"): words,
    (DocumentBody, "name"): names,
    (State, "agent_id"): agent_ids,
    (State, "uid"): ids,
    (State, "template"): column_texts,
    (State, "tenant"): st.none() | column_texts,
    (Item, "id"): ids,
    (Item, "priority"): st.integers(-100, 100),
    (Item, "tenant"): st.none() | column_texts,
    (Commit, "commit_id"): ids,
    (Bounds, "dedupe_for_s"): st.integers(0, 10**12).map(lambda us: us / 1_000_000),
    (Event, "type"): st.sampled_from(sorted(DURABLE)),
}


def values(cls: type[T]) -> st.SearchStrategy[T]:
    """Draw values of one of the kernel's or the store's dataclasses, each field as its annotation allows."""
    return _of(typing.cast(Any, cls))


@cache
def _of(hint: Any) -> st.SearchStrategy[Any]:
    if hint in _PLAIN:
        return _PLAIN[hint]
    if isinstance(hint, type) and is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        ruled = {name: drawn for (owner, name), drawn in _FIELDS.items() if owner is hint}
        return st.builds(hint, **{f.name: _of(hints[f.name]) for f in fields(hint)} | ruled)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return st.sampled_from(hint)
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return st.sampled_from(args)
    if origin in (Union, types.UnionType):
        return st.one_of([st.none() if arg is type(None) else _of(arg) for arg in args])
    return _collection(origin, args, hint)


def _collection(origin: Any, args: tuple[Any, ...], hint: Any) -> st.SearchStrategy[Any]:
    if origin is tuple and args[1:] == (...,):
        return st.lists(_of(args[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(_of, args))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return st.dictionaries(_of(args[0]), scalars, max_size=3)
    raise TypeError(f"No rule for how to draw {hint!r}; kode.core.testing.strategies lists what there is.")


messages: st.SearchStrategy[Message] = values(Message)
calls: st.SearchStrategy[Call] = values(Call)
run_records: st.SearchStrategy[RunRecord] = values(RunRecord)
compactions: st.SearchStrategy[Compaction] = values(Compaction)
snapshots: st.SearchStrategy[Snapshot] = values(Snapshot)
documents: st.SearchStrategy[DocumentBody] = values(DocumentBody)
items: st.SearchStrategy[Item] = values(Item)
leases: st.SearchStrategy[Lease] = values(Lease)
inbox_inputs: st.SearchStrategy[InboxInput] = st.one_of(
    values(MessageReceived),
    values(ApprovalDecided).map(lambda decided: replace(decided, plan=None)),
    values(CallResolved),
    values(InterruptRequested),
    values(Instructed),
)
"""Inputs as they come out of an inbox: a decision has no plan yet."""


@st.composite
def states(draw: st.DrawFn) -> State:
    """Draw any state, whether or not a kernel could reach it; its calls have different ids."""
    state = draw(values(State))
    return replace(state, calls=tuple({call.id: call for call in state.calls}.values()))


@st.composite
def event_lists(draw: st.DrawFn, max_size: int = 4) -> list[Event]:
    """Draw the durable events of one commit: at least one, cursors rising."""
    events = draw(st.lists(values(Event), min_size=1, max_size=max_size))
    cursor = draw(st.integers(1, 2**40))
    numbered = []
    for event in events:
        numbered.append(replace(event, cursor=cursor))
        cursor += draw(st.sampled_from([1, 1, 1, 5]))
    return numbered


@st.composite
def commits(draw: st.DrawFn) -> Commit:
    """Draw a commit of any state that appends nothing; add what is needed with ``dataclasses.replace``."""
    return Commit(
        state=draw(states()),
        commit_id=draw(ids),
        version=draw(st.none() | numbers),
        fence=draw(st.none() | numbers),
        at=draw(times),
        bounds=draw(values(Bounds)),
        wake_at=draw(st.none() | times),
        seen=draw(numbers),
    )
