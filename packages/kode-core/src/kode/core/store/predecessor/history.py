"""The predecessor's messages as a history that every provider accepts, with a record of each tool call.

Its histories may be torn: a crash leaves tool uses without results, an interrupted agent answers one call twice, a
compression cuts results from their uses. Here every use gets exactly one result in the next message: the one that is
there, else the one that the call's record holds, else one that says that nothing is known. A result without a use
becomes text. Whatever follows keeps its order; numbers are given anew.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from operator import itemgetter
from typing import Any, Final

from kode.core.kernel.message import Block, Json, Message, Role, TextBlock, ToolResultBlock, ToolUseBlock
from kode.core.store.predecessor.blocks import as_json, block_of, content_of

__all__ = ["History", "Use", "convert"]

UNKNOWN: Final = (
    "The outcome of this call is not known: it was open when its agent was moved here from another system. It may have "
    "taken effect or not; check before you do it again."
)

_ROLES: Final[dict[str, Role]] = {"user": "user", "assistant": "assistant", "system": "system"}


@dataclass(frozen=True, slots=True)
class Use:
    """A tool use and its place."""

    provider_id: str
    """As the predecessor knew it, which keyed its records."""
    tool: str
    run: int
    step: int
    n: int
    seq: int
    block: int
    result_seq: int
    is_error: bool
    sealed: bool


@dataclass(slots=True)
class _Said:
    """One message of the predecessor."""

    role: Role
    blocks: list[Block]
    metadata: Json | None
    answers: list[_Answer] = field(default_factory=list)
    """For its tool uses, in their order."""


@dataclass(frozen=True, slots=True)
class _Answer:
    result: ToolResultBlock
    sealed: bool = False


@dataclass(slots=True)
class History:
    """What came of it."""

    messages: list[Message] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)
    starts: list[int | None] = field(default_factory=list)
    """How many messages there are before the n-th of the predecessor's; None: not a safe point."""
    mended: Counter[str] = field(default_factory=Counter)
    run: int = 0
    step: int = 0


def convert(raws: Sequence[Any], records: Mapping[str, dict[str, Any]]) -> History:
    """Make a history of the predecessor's messages.

    Args:
        raws: Its messages.
        records: Its records of tool calls, by the id of the use.
    """
    made = History()
    said = [_said(raw, made.mended) for raw in raws]
    _pair(said, records, made.mended)
    for index, one in enumerate(said):
        after_use = index > 0 and bool(said[index - 1].answers)
        made.starts.append(None if after_use else len(made.messages))
        uses = [block for block in one.blocks if isinstance(block, ToolUseBlock)]
        if not one.blocks:
            made.mended["empty messages left out"] += not after_use
            continue
        _say(made, one.role, one.blocks, one.metadata)
        if uses:
            _answer(made, one, uses)
    made.starts.append(len(made.messages))
    return made


def _said(raw: Any, mended: Counter[str]) -> _Said:
    if not isinstance(raw, dict):
        mended["entries that are no message kept as text"] += 1
        return _Said("user", [TextBlock(as_json(raw))], None)
    role: Role = _ROLES.get(str(raw.get("role")), "user")
    mended["messages of an unknown role taken for the user's"] += str(raw.get("role")) not in _ROLES
    content = raw.get("content")
    metadata = dict(raw["metadata"]) if isinstance(raw.get("metadata"), dict) else {}
    unreduced = metadata.pop("content_blocks", None)
    if isinstance(unreduced, list) and metadata.get("transport") != "omit":
        content = unreduced  # it is what providers were shown
    blocks = _blocks(content, mended)
    return _Said(role, blocks, as_json(metadata) if metadata else None)


def _blocks(content: Any, mended: Counter[str]) -> list[Block]:
    blocks = []
    for raw in content if isinstance(content, list) else [] if content is None else [content]:
        block = block_of(raw)
        known = isinstance(raw, str) or (isinstance(raw, dict) and raw.get("type") == "text")
        mended["blocks of unknown kinds kept as text"] += isinstance(block, TextBlock) and not known
        blocks.append(block)
    return blocks


# ---- uses and results --------------------------------------------------------------------------------------


def _pair(said: list[_Said], records: Mapping[str, dict[str, Any]], mended: Counter[str]) -> None:
    """Bring each tool use the result that answers it, and make text of results and uses that are out of place."""
    asked: defaultdict[str, list[int]] = defaultdict(list)
    given: defaultdict[str, list[tuple[int, ToolResultBlock]]] = defaultdict(list)
    for index, one in enumerate(said):
        if one.role != "assistant":
            one.blocks = [_stray(block, mended) if isinstance(block, ToolUseBlock) else block for block in one.blocks]
        for block in one.blocks:
            if isinstance(block, ToolUseBlock):
                asked[block.id].append(index)
            elif isinstance(block, ToolResultBlock):
                given[block.tool_use_id].append((index, block))
    taken: set[int] = set()
    for index, one in enumerate(said):
        for use in [block for block in one.blocks if isinstance(block, ToolUseBlock)]:
            places = asked[use.id]
            later = bisect_right(places, index)
            before = places[later] if later < len(places) else len(said)
            result = _result(given[use.id], taken, index, before)
            if result is not None:
                one.answers.append(_Answer(result))
            else:
                # A record is of the last use of its id.
                one.answers.append(_made_up(use, records.get(use.id) if before == len(said) else None, mended))
    for one in said:
        one.blocks = [_left_over(block, mended) for block in one.blocks if id(block) not in taken]


def _result(
    given: list[tuple[int, ToolResultBlock]], taken: set[int], after: int, before: int
) -> ToolResultBlock | None:
    """Find the first result behind a use, before its id is used again."""
    for index, block in islice(given, bisect_right(given, after, key=itemgetter(0)), None):
        if index > before:
            break
        if id(block) not in taken:
            taken.add(id(block))
            return block
    return None


def _made_up(use: ToolUseBlock, record: dict[str, Any] | None, mended: Counter[str]) -> _Answer:
    """Make the result that a history lacks."""
    if record is not None and record.get("state") in ("COMPLETED", "FAILED") and _outcome(record) is not None:
        mended["results taken from the call's record"] += 1
        return _Answer(ToolResultBlock(use.id, content_of(_outcome(record)), record.get("state") == "FAILED"))
    mended["calls without a result sealed"] += 1
    return _Answer(ToolResultBlock(use.id, (TextBlock(UNKNOWN),), is_error=True), sealed=True)


def _outcome(record: dict[str, Any]) -> Any:
    return record.get("result") if record.get("result") is not None else record.get("error")


def _stray(use: ToolUseBlock, mended: Counter[str]) -> TextBlock:
    mended["tool uses that are not the model's kept as text"] += 1
    return TextBlock(f"Call of {use.name} ({use.id}): {use.input}")


def _left_over(block: Block, mended: Counter[str]) -> Block:
    if not isinstance(block, ToolResultBlock):
        return block
    mended["results without an open call kept as text"] += 1
    said = "\n".join(one.text if isinstance(one, TextBlock) else f"[{one.type}]" for one in block.content)
    return TextBlock(f"Result of call {block.tool_use_id}, which is not open in this history:\n{said}")


# ---- numbers -----------------------------------------------------------------------------------------------


def _say(
    made: History, role: Role, blocks: Sequence[Block], metadata: Json | None = None, *, joins: bool = False
) -> None:
    """Append a message. A run begins where somebody speaks to a model that has ended its turn."""
    last = made.messages[-1] if made.messages else None
    if not joins:
        if last is None or (role != "assistant" and last.role == "assistant"):
            made.run, made.step = made.run + 1, 0
        made.step += role == "assistant"
    seq = len(made.messages)
    origin = None if role == "assistant" else "tools" if joins else "import"
    made.messages.append(
        Message(seq, role, tuple(blocks), 0, run=made.run, step=made.step, origin=origin, metadata=metadata)
    )


def _answer(made: History, one: _Said, uses: Sequence[ToolUseBlock]) -> None:
    """Give the uses of the message just said ids of their own, and append the message with their results."""
    asking = made.messages[-1]
    seq, run, step = asking.seq, made.run, made.step
    seen: set[str] = set()
    blocks, results = list(asking.blocks), []
    places = [i for i, block in enumerate(blocks) if isinstance(block, ToolUseBlock)]
    for n, (place, use, answer) in enumerate(zip(places, uses, one.answers, strict=True), 1):
        name, count = use.id or "call", 1
        while name in seen:
            count += 1
            name = f"{use.id or 'call'}#{count}"
        made.mended["tool uses given an id of their own"] += name != use.id
        seen.add(name)
        blocks[place] = replace(use, id=name)
        result = replace(answer.result, tool_use_id=name, call=f"{run}.{step}.{n}")
        results.append(result)
        made.uses.append(Use(use.id, use.name, run, step, n, seq, place, seq + 1, result.is_error, answer.sealed))
    made.messages[-1] = replace(asking, blocks=tuple(blocks))
    _say(made, "user", results, joins=True)
