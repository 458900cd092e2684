"""Commits too large for one `apply`: rows first, the header as the act, then settling.

1. The rows are put under kind ``staged``, keyed by the commit's id, in portions; nobody looks at them.
2. The header is put under the commit's conditions and names them. With that the commit is durable.
3. *Settling* brings the rows to their places in portions, each on the condition that the header still names
   them, then has the header name them no more, then removes them. Whoever reads or commits settles first; two
   may at once.

What a process leaves behind before step 2, or before the end of step 3, is removed by `prune`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from kode.core.errors import StoreError, StoreUnavailableError
from kode.core.store import lookups
from kode.core.store import records as rec
from kode.core.store.contract import MOST, Commit, Condition, Key, Record, Scan
from kode.core.store.layers.leases import TRIES, Leasing
from kode.core.store.lookups import header_key, uid_of
from kode.core.store.primitives import portions, weight

__all__ = ["Staging"]


class Staging(Leasing):
    """Writes as many records as a commit has."""

    async def _write(
        self, commit: Commit, conditions: list[Condition], puts: list[Record], deletes: list[Key]
    ) -> tuple[int | None, list[Record]]:
        """Apply a commit whose header is the last put: at once, or staged when it is too large."""
        agent_id, uid = commit.state.agent_id, commit.state.uid
        if self._fits([*puts, *deletes]):
            after = rec.int_key(commit.seen)
            return await self.apply_and_look(agent_id, conditions, puts, deletes, uid=uid, after=after)
        # The lease is part of the act: who is refused must not have given it back.
        act = [record for record in puts if record.kind in ("header", "lease")]
        rows: list[Record | Key] = [record for record in puts if record.kind not in ("header", "lease")]
        rows += deletes
        at = await self._time()
        staged = [rec.staged_record(commit.commit_id, i, at, uid, row) for i, row in enumerate(rows)]
        for part in portions(staged, self._most, self.max_batch_bytes):
            # Conditions here too, so that a loser stops early; they are judged again at the act.
            failed = await self.apply(agent_id, conditions, part, ())
            if failed is not None:
                return failed, []
        header = act.pop()
        act.append(replace(header, columns={**header.columns, "staged": commit.commit_id}))
        # `prune` takes rows for broken off after an hour, the first of them first.
        there = [Condition("equals", row.address, "at", at) for row in staged[:1]]
        failed = await self.apply(agent_id, [*conditions, *there], act, ())
        if failed == len(conditions):
            raise StoreUnavailableError(
                f"The commit to {agent_id!r} took so long that it was taken for broken off; repeat it.",
                code="too_slow",
                agent_id=agent_id,
            )
        if failed is None:
            try:
                await self._settle_agent(agent_id)
            except StoreUnavailableError:
                pass  # it is durable; whoever comes next settles it
        return failed, []

    async def _settle_agent(self, agent_id: str) -> None:
        (header,) = await self.get(agent_id, [header_key(agent_id)])
        if header is not None and header.columns["staged"] is not None:
            await self.settle(agent_id, header)

    async def settle(self, agent_id: str, header: Record) -> None:
        """Bring the commit that this header names as staged to its places. Doing it again does no harm."""
        uid, commit_id = uid_of(header), str(header.columns["staged"])
        named = Condition("equals", header_key(agent_id), "staged", commit_id)
        same = Condition("equals", header_key(agent_id), "uid", uid)
        scan = Scan("staged", uid, prefix=f"{commit_id}/")
        rows = await self.look_up(agent_id, lookups.scan_all(scan))
        for part in self._portions(rec.read_staged(row) for row in rows):
            puts = [change for change in part if isinstance(change, Record)]
            deletes = [change for change in part if isinstance(change, Key)]
            if await self.apply(agent_id, [same, named], puts, deletes) is not None:
                return  # another has settled it
        await self._unname(agent_id, header, [same, named])
        await self._remove(agent_id, [row.address for row in rows])

    async def _unname(self, agent_id: str, header: Record, conditions: Sequence[Condition]) -> None:
        """Have the header name the staged commit no more. An enqueue may move `wake_at` at any time."""
        current: Record | None = header
        for _ in range(TRIES):
            if current is None or current.columns["staged"] != header.columns["staged"]:
                return
            wake_at = Condition("equals", header_key(agent_id), "wake_at", current.columns["wake_at"])
            done = replace(current, columns={**current.columns, "staged": None})
            if await self.apply(agent_id, [*conditions, wake_at], [done], ()) is None:
                return
            (current,) = await self.get(agent_id, [header_key(agent_id)])
        raise StoreError(f"The header of {agent_id!r} changes too fast to settle its commit.", agent_id=agent_id)

    async def _remove(self, agent_id: str, keys: Sequence[Key]) -> None:
        for part in portions(keys, self._most, self.max_batch_bytes):
            await self.apply(agent_id, (), (), part)

    # ---- how much one apply can take -----------------------------------------------------------------------

    @property
    def _most(self) -> int:
        return self.max_batch or MOST

    def _fits(self, rows: Sequence[Record | Key]) -> bool:
        if self.max_batch is not None and len(rows) > self.max_batch:
            return False
        return self.max_batch_bytes is None or sum(map(weight, rows)) <= self.max_batch_bytes

    def _portions(self, rows: Iterable[Record | Key]) -> Iterator[list[Record | Key]]:
        return portions(rows, self._most, self.max_batch_bytes)
