"""The four things a kernel can ask the shell to do. Each puts exactly one answer back as an input.

An effect is *open* from the commit that names it to the commit that holds its answer. ``attempt`` is
``(fence, n)``: under which right to drive it was asked, and how often under that one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["Attempt", "CallModel", "CompactHistory", "Deliver", "DeliverKind", "Effect", "RunTool"]


@dataclass(frozen=True, slots=True, order=True)
class Attempt:
    """Names one try of an effect; written ``fence.n``."""

    fence: int
    n: int = 1

    def __str__(self) -> str:
        return f"{self.fence}.{self.n}"


@dataclass(frozen=True, slots=True)
class CallModel:
    """Ask the model with the window as it is up to message ``upto`` (exclusive)."""

    id: str
    attempt: Attempt
    upto: int
    timeout_s: float | None = None
    kind: Literal["CallModel"] = "CallModel"


@dataclass(frozen=True, slots=True)
class RunTool:
    """Run the call of the same id."""

    id: str
    attempt: Attempt
    timeout_s: float | None = None
    kind: Literal["RunTool"] = "RunTool"


@dataclass(frozen=True, slots=True)
class CompactHistory:
    """Summarise messages ``start`` to ``stop`` (exclusive); what is appended meanwhile does no harm."""

    id: str
    attempt: Attempt
    start: int
    stop: int
    method: str = "model"
    timeout_s: float | None = None
    kind: Literal["CompactHistory"] = "CompactHistory"


DeliverKind = Literal["resolve", "interrupt"]


@dataclass(frozen=True, slots=True)
class Deliver:
    """Put an item into another agent's inbox under ``item_id``; harmless twice, for the inbox knows its ids.

    The shell builds the item from the records, so that the header stays small.
    """

    id: str
    attempt: Attempt
    target: str
    """Agent id of the receiver."""
    item_id: str
    item_kind: DeliverKind
    call: str | None = None
    """``resolve``: the receiver's call that this answers."""
    uid: str | None = None
    """Identity of the receiver; one of another uid counts as gone."""
    run: int | None = None
    """``resolve``: our run whose answer it is."""
    timeout_s: float | None = None
    kind: Literal["Deliver"] = "Deliver"


Effect: TypeAlias = CallModel | RunTool | CompactHistory | Deliver
