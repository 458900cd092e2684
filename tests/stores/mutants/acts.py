"""Wrong in `apply`: conditions judged wrongly, writes that are not whole, records not kept as given."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from typing import Any

from anyio.lowlevel import checkpoint
from tests.stores.mutants.table import wrong

from kode.core.store import Condition, Key, MemoryStore, Record
from kode.core.store.rules import holds


class Kept(MemoryStore):
    """What it keeps may be other than what it was given."""

    def kept(self, record: Record) -> Record:
        raise NotImplementedError

    async def apply(self, agent_id, conditions, puts, deletes):  # type: ignore[no-untyped-def]
        return await super().apply(agent_id, conditions, [self.kept(put) for put in puts], deletes)


class Judging(MemoryStore):
    """It judges conditions in its own way."""

    def judged(self, condition: Condition, row: Record | None) -> bool | None:
        raise NotImplementedError

    def _meets(self, condition: Condition) -> bool:
        key = condition.key
        mine = self.judged(condition, self._row(key.kind, key.uid, key.key))
        return holds(self._view, condition) if mine is None else mine

    async def apply(self, agent_id, conditions, puts, deletes):  # type: ignore[no-untyped-def]
        for n, condition in enumerate(conditions):
            if not self._meets(condition):
                return n
        return await super().apply(agent_id, (), puts, deletes)


# ---- conditions --------------------------------------------------------------------------------------------


@wrong(
    "compare-and-swap",
    "only_one_of_many_concurrent_applies_meets_its_condition",
    also="repeat lease fork races",
    why="whatever is elected by a condition is elected twice",
)
class NotAtomic(MemoryStore):
    """Between judging and writing others get their turn."""

    async def apply(self, agent_id, conditions, puts, deletes):  # type: ignore[no-untyped-def]
        failed = await super().apply(agent_id, conditions, (), ())
        if conditions:
            await checkpoint()
        return await super().apply(agent_id, (), puts, deletes) if failed is None else failed


@wrong("compare-and-swap", "absent")
class AbsentIgnored(Judging):
    """An `INSERT` that became an `UPSERT`."""

    def judged(self, condition: Condition, row: Record | None) -> bool | None:
        return True if condition.op == "absent" and condition.key.kind != "header" else None


@wrong(
    "compare-and-swap",
    "of_concurrent_commits_on_one_version_one_wins",
    also="repeat removal",
    why="the version also tells a repetition, and a prune that came too late",
)
class VersionIgnored(Judging):
    """The last one wins."""

    def judged(self, condition: Condition, row: Record | None) -> bool | None:
        return True if condition.column == "version" and row is not None else None


@wrong(
    "compare-and-swap",
    "uid_is_checked_first",
    also="isolation removal",
    why="the uid is what keeps strangers and the deleted out",
)
class UidIgnored(Judging):
    """An agent is known by its id alone."""

    def judged(self, condition: Condition, row: Record | None) -> bool | None:
        return True if condition.column == "uid" and row is not None else None


@wrong(
    "lease", "the_fence_is_checked_before_the_commit_id", also="repeat", why="a repetition is refused by the fence, too"
)
class FenceIgnored(Judging):
    """A fence is kept, and not compared."""

    def judged(self, condition: Condition, row: Record | None) -> bool | None:
        return True if condition.column == "fence" and row is not None else None


@wrong(
    "compare-and-swap",
    "the_first_failed_condition_is_named",
    also="repeat lease removal",
    why="which condition failed decides which error is raised",
)
class LastFailureNamed(MemoryStore):
    """Conditions are judged from the end."""

    async def apply(self, agent_id, conditions, puts, deletes):  # type: ignore[no-untyped-def]
        failed = await super().apply(agent_id, conditions, puts, deletes)
        later = [n for n, condition in enumerate(conditions) if not holds(self._view, condition)]
        return failed if failed is None else later[-1]


@wrong(
    "compare-and-swap",
    "nothing_is_written_when_a_condition_fails",
    also="lease removal retention",
    why="what consumes an item, prunes a document or expires is a delete under conditions",
)
class DeletesAnyway(MemoryStore):
    """Deletes are outside of the transaction."""

    async def apply(self, agent_id, conditions, puts, deletes):  # type: ignore[no-untyped-def]
        failed = await super().apply(agent_id, conditions, puts, deletes)
        if failed is not None:
            await super().apply(agent_id, (), (), deletes)
        return failed


@wrong("compare-and-swap", "equals_needs_a_record")
class NothingEqualsNull(Judging):
    """A record that is not there has null in all its columns."""

    def judged(self, condition: Condition, row: Record | None) -> bool | None:
        return True if condition.op == "equals" and row is None and condition.value is None else None


@wrong("compare-and-swap", "equals_of_null")
class NullIsEmpty(Judging):
    """Null, "" and 0 are the same to it."""

    def judged(self, condition: Condition, row: Record | None) -> bool | None:
        return not row.columns[condition.column] if row and condition.op == "equals" and not condition.value else None


@wrong("compare-and-swap", "equals_tells_texts_apart")
class ComparesLoosely(Judging):
    """A collation without case."""

    def judged(self, condition: Condition, row: Record | None) -> bool | None:
        if row is None or not isinstance(condition.value, str) or condition.op != "equals":
            return None
        return str(row.columns[condition.column]).casefold() == condition.value.casefold()


@wrong("compare-and-swap", "equals_of_large_numbers")
class ComparesAsFloats(Judging):
    """JSON numbers of 53 bits."""

    def judged(self, condition: Condition, row: Record | None) -> bool | None:
        held: Any = None if row is None or condition.op != "equals" else row.columns[condition.column]
        return float(held) == float(condition.value) if type(held) is int and type(condition.value) is int else None


@wrong("compare-and-swap", "free")
class FreeTooLate(Judging):
    """A lease is still held at the moment it ends."""

    def judged(self, condition: Condition, row: Record | None) -> bool | None:
        return None if condition.op != "free" or row is None or row.columns["until"] != condition.value else False


@wrong(
    "compare-and-swap",
    "no_inbox_after",
    also="due lease faults",
    why="a release asks this condition, and so does who must wake",
)
class InboxAfterInclusive(Judging):
    """An item at that very position counts."""

    def judged(self, condition: Condition, row: Record | None) -> bool | None:
        at = Key("inbox", condition.key.uid, str(condition.value))
        return False if condition.op == "no_inbox_after" and self._row(at.kind, at.uid, at.key) else None


@wrong("compare-and-swap", "no_inbox_after_looks_at_one_inbox")
class InboxAfterOfAnybody(Judging):
    """It forgot the uid in its WHERE."""

    def judged(self, condition: Condition, row: Record | None) -> bool | None:
        if condition.op != "no_inbox_after":
            return None
        inboxes = [shelf for (kind, _), shelf in self._shelves.items() if kind == "inbox"]
        return all(not shelf.keys or shelf.keys[-1] <= str(condition.value) for shelf in inboxes)


@wrong("cancellation", "a_cancelled_act_is_atomic")
class HalfWritten(MemoryStore):
    """No transaction: a caller that is cancelled leaves half of what it wrote."""

    async def apply(self, agent_id, conditions, puts, deletes):  # type: ignore[no-untyped-def]
        if len(puts) < 2 or puts[-1].kind == "header":
            return await super().apply(agent_id, conditions, puts, deletes)
        failed = await super().apply(agent_id, conditions, puts[:1], deletes)
        await checkpoint()
        return failed if failed is not None else await super().apply(agent_id, (), puts[1:], ())


# ---- records -----------------------------------------------------------------------------------------------


@wrong("round-trip", "nothing_is_shared_with_who_put_it")
class SharedWithWriters(MemoryStore):
    """It keeps the very object it was given."""

    async def apply(self, agent_id, conditions, puts, deletes):  # type: ignore[no-untyped-def]
        failed = await super().apply(agent_id, conditions, puts, deletes)
        for put in puts if failed is None else ():
            self._shelves[put.kind, put.uid].rows[put.key] = put
        return failed


@wrong("round-trip", "nothing_is_shared_with_who_reads_it")
class SharedWithReaders(MemoryStore):
    """It hands out the very dictionary that it keeps."""

    async def scan(self, agent_id, ask):  # type: ignore[no-untyped-def]
        return [self._row(ask.kind, ask.uid, record.key) for record in await super().scan(agent_id, ask)]


@wrong("round-trip", "a_put_replaces_the_whole_record")
class Merges(MemoryStore):
    """A put leaves columns as they were where it brings null."""

    async def apply(self, agent_id, conditions, puts, deletes):  # type: ignore[no-untyped-def]
        merged = []
        for put in puts:
            old = self._row(put.kind, put.uid, put.key) if put.kind == "call" else None
            given = {name: value for name, value in put.columns.items() if value is not None}
            merged.append(put if old is None else replace(put, columns={**old.columns, **given}))
        return await super().apply(agent_id, conditions, merged, deletes)


@wrong("round-trip", "a_put_wins_over_a_delete")
class DeleteWins(MemoryStore):
    """It deletes last."""

    async def apply(self, agent_id, conditions, puts, deletes):  # type: ignore[no-untyped-def]
        failed = await super().apply(agent_id, conditions, puts, deletes)
        return failed if failed is not None else await super().apply(agent_id, (), (), deletes)


@wrong(
    "round-trip",
    "get_answers_in_the_order_asked_with_none_for_what_is_not_there",
    also="documents",
    why="documents are read by one `get`",
)
class GetInItsOwnOrder(MemoryStore):
    """`WHERE key IN (…)`: in the order of the index, each once."""

    async def get(self, agent_id, keys):  # type: ignore[no-untyped-def]
        found = await super().get(agent_id, keys)
        if len({key.kind for key in keys}) != 1:
            return found
        return sorted(found, key=lambda row: (row is None, row.key if row else ""))


@wrong(
    "round-trip",
    "an_empty_body_stays_empty",
    also="blobs corruption",
    why="a blob may be empty, and so may a damaged body",
)
class EmptyBecomesNull(Kept):
    """No bytes are written as null."""

    def kept(self, record: Record) -> Record:
        return record if record.body or record.kind == "lease" else replace(record, body=b"null")


@wrong("round-trip", "a_body_is_never_touched", also="inbox blobs corruption", why="bodies are looked at there as well")
class NulCutsBodies(Kept):
    """A C string."""

    def kept(self, record: Record) -> Record:
        return replace(record, body=record.body.split(b"\0")[0])


@wrong("round-trip", "a_body_is_never_touched", also="blobs", why="a blob may end with blanks")
class TrimsBodies(Kept):
    """A text field that is trimmed."""

    def kept(self, record: Record) -> Record:
        return replace(record, body=record.body.rstrip(b" \n"))


@wrong("round-trip", "a_body_may_be_large")
class CutsLargeBodies(Kept):
    """A column of 4 MB."""

    def kept(self, record: Record) -> Record:
        return replace(record, body=record.body[: 4 * 2**20])


@wrong(
    "round-trip",
    "null_and_empty_and_zero_are_three_things",
    also="compare-and-swap",
    why="a condition compares what was kept",
)
class EmptyTextIsNull(Kept):
    """Some engines do so."""

    def kept(self, record: Record) -> Record:
        if record.kind != "call":
            return record
        return replace(record, columns={name: None if value == "" else value for name, value in record.columns.items()})


@wrong("round-trip", "whole_numbers_are_exact", also="compare-and-swap", why="a condition compares what was kept")
class NumbersAreFloats(Kept):
    """Numbers went through a float on their way."""

    def kept(self, record: Record) -> Record:
        columns = {n: int(float(v)) if isinstance(v, int) else v for n, v in record.columns.items()}
        return replace(record, columns=columns)


@wrong(
    "round-trip",
    "text_is_kept_code_point_for_code_point",
    also="lease query",
    why="a holder's name is a column, and so is what is asked for",
)
class ThreeBytesOnly(Kept):
    """UTF-8 of three bytes: beyond the BMP there are question marks."""

    def kept(self, record: Record) -> Record:
        columns = {n: _bmp(v) if isinstance(v, str) else v for n, v in record.columns.items()}
        return replace(record, columns=columns)


@wrong("round-trip", "text_is_kept_code_point_for_code_point")
class NormalForm(Kept):
    """File names on some systems."""

    def kept(self, record: Record) -> Record:
        return replace(record, key=unicodedata.normalize("NFC", record.key))


@wrong("round-trip", "every_kind_keeps_its_columns")
class ForgetsAColumn(Kept):
    """A column was added to the contract, and not to its table."""

    def kept(self, record: Record) -> Record:
        return replace(record, columns={**record.columns, "media_type": None}) if record.kind == "blob" else record


def _bmp(text: str) -> str:
    return "".join(char if ord(char) < 0x10000 else "?" for char in text)
