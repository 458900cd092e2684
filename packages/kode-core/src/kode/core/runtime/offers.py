"""Inbox items as inputs: what may be offered to the kernel now, and what a driver has to add to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from kode.core.errors import IllegalInputError, RecordCorruptError, SchemaTooNewError, UsageError
from kode.core.kernel.events import Event, preview
from kode.core.kernel.inputs import (
    ApprovalDecided,
    Input,
    Instructed,
    LimitsChanged,
    MessageReceived,
    Noted,
    TimerSet,
    TodosSet,
)
from kode.core.kernel.limits import laid_over, limits_of
from kode.core.kernel.message import Json
from kode.core.kernel.state import State
from kode.core.runtime.birth import inbox_bounds
from kode.core.runtime.drive import Work
from kode.core.runtime.plan import plan_input
from kode.core.runtime.schedule import take_timer
from kode.core.runtime.todos import take_todos
from kode.core.store.contract import Item
from kode.core.store.records import item_input
from kode.core.template import encode_template

if TYPE_CHECKING:
    from kode.core.runtime.resident import Resident
    from kode.core.tools.documents import Documents

__all__ = ["Offers"]


class Offers:
    """The items of one drive, each read once: offered again and again, an input stays the same object."""

    __slots__ = ("_known", "documents", "resident", "work")

    def __init__(self, work: Work, resident: Resident, documents: Documents) -> None:
        self.work = work
        self.resident = resident
        self.documents = documents
        self._known: dict[int, tuple[Item, Input]] = {}
        """By position."""

    def ready(self, now: int) -> list[Input]:
        """What may be offered now; higher priority first, else in their order."""
        inbox = self.resident.inbox
        if not inbox:
            return []
        items = [item for item in inbox if item.not_before is None or item.not_before <= now]
        for item in items:
            if item.position not in self._known:
                self._known[item.position] = (item, self._read(item, now))
        items.sort(key=lambda item: (-item.priority, item.position))
        return [self._known[item.position][1] for item in items]

    def used(self, offered: Iterable[Input], postponed: Iterable[Input]) -> dict[int, Item]:
        """The items that a batch used up, by position.

        What was not offered this time (a clock was set back) is as little used up as what must wait.
        """
        if not self._known:
            return {}
        taken = {id(input) for input in offered} - {id(input) for input in postponed}
        return {at: item for at, (item, input) in self._known.items() if id(input) in taken}

    def forget(self, positions: Iterable[int]) -> None:
        """They were used up."""
        for position in positions:
            del self._known[position]

    def _read(self, item: Item, now: int) -> Input:
        """The input an item carries; what cannot be read is used up with an event, not raised.

        Raises:
            SchemaTooNewError: It names limits that only a newer version knows; it stays for that one.
        """
        try:
            input = item_input(item)
            if isinstance(input, ApprovalDecided):
                _check_not_expired(self.resident.state, input, item.at)
        except (IllegalInputError, RecordCorruptError) as error:
            return _rejected(item.id, error.message)
        if isinstance(input, ApprovalDecided) and input.input is not None:
            call = self.resident.state.call(input.call)
            if call is not None:
                return replace(input, plan=plan_input(self.work.binding, call.tool, input.input))
        _check_known(item.id, input)
        return self._instructed(input, now) if isinstance(input, Instructed) else input

    def _instructed(self, input: Instructed, now: int) -> Input:
        """What is asked for beside the kernel's part of it: documents, schedules."""
        what = input.what
        if isinstance(what, LimitsChanged):
            return self._change_limits(input, what.limits)
        if isinstance(what, TodosSet):
            return take_todos(self.documents, input, what)
        if isinstance(what, TimerSet):
            return take_timer(input, what, now)
        return input

    def _change_limits(self, input: Instructed, text: Json) -> Input:
        """Lay named fields over the recipe's; it rides in the commit that takes the instruction."""
        binding = self.work.binding
        try:
            recipe = binding.template.changed(limits=laid_over(binding.template.limits, text))
        except UsageError as error:
            return _rejected(input.item, error.message)
        body, binding.recipe = encode_template(recipe)
        self.documents.rewrite_recipe(body, binding.recipe)
        self.resident.bounds = inbox_bounds(recipe.limits)
        self.work.adopt(recipe)
        return input


def _check_not_expired(state: State, decision: ApprovalDecided, at: int) -> None:
    """Check that a decision came before its question's deadline; how late the driver looks does not matter.

    Raises:
        IllegalInputError: It came too late; the question expires.
    """
    call = state.call(decision.call)
    asked = None if call is None else call.approval
    if asked is not None and asked.n == decision.n and asked.due_at is not None and asked.due_at <= at:
        raise IllegalInputError(
            f"The decision about call {decision.call} came after the deadline of question {asked.n}; it has expired.",
            code="expired",
        )


def _rejected(item: str, why: str) -> Noted:
    return Noted((Event("input_rejected", preview=preview(why), data={"item": item}),))


def _check_known(item: str, input: Input) -> None:
    """Refuse limits that this version does not know: used up, they would be lost to those who do."""
    text = input.limits if isinstance(input, MessageReceived) else None
    if isinstance(input, Instructed) and isinstance(input.what, LimitsChanged):
        text = input.what.limits
    if text is None:
        return
    try:
        limits_of(text)
    except UsageError as error:
        if error.code == "unknown_limit":
            newer = f"Item {item!r} names limits that this KODE does not know; upgrade it. {error.message}"
            raise SchemaTooNewError(newer, item=item) from None
