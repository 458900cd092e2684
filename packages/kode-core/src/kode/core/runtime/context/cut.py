"""Where a history may be cut: a pure choice.

Never between a call and its result; before a person's message if there is one near by, else between two steps, for the
summary is a user's message too. The last step always stays.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from kode.core.jsontext import parse
from kode.core.kernel.message import Message, ToolResultBlock

__all__ = ["MAX_PINNED", "cut_at", "pinned_in"]

MAX_PINNED = 16
"""Messages that stay because their sender asked for it, the newest of them: their numbers lie in the header."""


def cut_at(messages: Sequence[Message], tokens: Callable[[Sequence[Message]], int], room: int) -> int:
    """Where to cut so that what follows fits into ``room`` tokens; 0: nowhere.

    Args:
        messages: What is shown, without the summary.
        tokens: Measures messages.
        room: If not even the last step fits, the cut is before it.

    Returns:
        The index of the first message that stays.
    """
    last = next((i for i in range(len(messages) - 1, -1, -1) if messages[i].role == "assistant"), len(messages) - 1)
    best = spoken = kept = 0
    behind = len(messages)
    for i in range(last, 0, -1):
        if _answers(messages[i]):
            continue
        kept += tokens(messages[i:behind])
        behind = i
        if best and kept > room:
            break
        best = i
        if messages[i].role == "user" and kept >= room // 2:
            spoken = i
    return spoken or best


def pinned_in(messages: Sequence[Message], first: int | None) -> tuple[int, ...]:
    """Which of these messages stay though they lie before the cut: a run's ``first``, and those sent as pinned."""
    pinned = [m.seq for m in messages if m.seq != first and _is_pinned(m)][-MAX_PINNED:]
    own = [m.seq for m in messages if m.seq == first and not _answers(m)]
    return tuple(sorted((*pinned, *own)))


def _answers(message: Message) -> bool:
    return any(isinstance(block, ToolResultBlock) for block in message.blocks)


def _is_pinned(message: Message) -> bool:
    if message.metadata is None or "pinned" not in message.metadata or message.role != "user" or _answers(message):
        return False
    found = parse(message.metadata)
    return isinstance(found, dict) and found.get("pinned") is True


def without(messages: Sequence[Message], seqs: Collection[int]) -> list[Message]:
    """The messages but those."""
    return [message for message in messages if message.seq not in seqs]
