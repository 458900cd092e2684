"""How an agent is steered from outside: answered, interrupted, bounded, summed up. A part of `Agent`."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, Literal

from kode.core.errors import UsageError
from kode.core.kernel.inputs import (
    CompactionRequested,
    Instructed,
    InterruptRequested,
    LimitsChanged,
    SnapshotTaken,
)
from kode.core.kernel.limits import Limits
from kode.core.kernel.message import Json
from kode.core.kernel.window import Compaction
from kode.core.runtime.context.reverting import compactions_of, revert
from kode.core.runtime.handle import Handle
from kode.core.runtime.once import apply_once
from kode.core.runtime.sending import Sent, check_text, decide

__all__ = ["Steering"]


class Steering(Handle):
    """The members of `Agent` that steer."""

    async def decide(
        self,
        call: str,
        decision: Literal["allow", "deny"],
        *,
        by: str | None = None,
        note: str | None = None,
        input: Json | None = None,
        n: int | None = None,
    ) -> Sent:
        """Answer the open question of a call. Of several deciders exactly one wins.

        Args:
            call: ``run.step.n``.
            decision: ``allow`` or ``deny``.
            by: Who; stored, and told to the model with a denial or a note.
            note: Why; stored, and told to the model.
            input: Other arguments to run it with, as JSON text; they are checked again, and told to the model.
            n: Which question of the call, as ``permission_required`` and ``RunResult.questions`` name it; None: its
                first. Another is never answered, so that a decision may be delivered twice.

        Raises:
            UsageError: No question of that call is open, or somebody else answered first.
        """
        with self._noting_gone():
            return await decide(
                self._deps.store, self.agent_id, call, decision, by=by, note=note, input=input, n=n, uid=self.uid
            )

    async def interrupt(self, note: str | None = None, *, by: str | None = None) -> Sent:
        """Stop the run: running tools get ``cancel_grace_s``, what has not answered then is sealed.

        Durable like a message; when nobody drives the agent, it takes effect with the next drive.
        """
        id = self._deps.ids.item_id()
        check_text(note=note, by=by)
        return await self._enqueue(InterruptRequested(id, note, by))

    async def set_limits(self, **fields: Any) -> Sent:
        """Change bounds of the agent for good, also while it runs: ``await agent.set_limits(max_steps_per_run=500)``.

        Durable like a message: whoever drives the agent takes it up, and a handle of another process with its next
        drive. What is not named stays.

        Raises:
            UsageError: A field or a value is wrong.
        """
        strange = sorted(set(fields) - set(Limits.__dataclass_fields__))
        if strange or not fields:
            named = f"no field {strange[0]!r}" if strange else "nothing to change"
            raise UsageError(f"set_limits got {named}; name fields of Limits.", code="bad_limit")
        Limits(**fields)
        change = LimitsChanged(Json(json.dumps(fields, separators=(",", ":"))))
        return await self._enqueue(Instructed(self._deps.ids.item_id(), change))

    async def compact(self) -> Sent:
        """Have the older part of the history summed up at the next boundary. Durable like a message."""
        return await self._enqueue(Instructed(self._deps.ids.item_id(), CompactionRequested(0, 0)))

    async def compactions(self) -> tuple[Compaction, ...]:
        """What was summed up so far, the oldest first."""
        state = await self._state()
        return await compactions_of(self._deps.store, self.agent_id, state.uid)

    async def revert(self, id: str) -> None:
        """Show the model again what it was shown before a compaction, or at a snapshot; while no run is in progress."""
        with self._noting_gone():
            await revert(self.agent_id, self.uid, id, self._deps, self.limits)

    async def snapshot(self, id: str | None = None, *, tags: Collection[str] = ()) -> str:
        """Name the present safe point, to fork from it later.

        Raises:
            UsageError: Calls are open (``not_safe``).
            LeaseLostError: Somebody drives the agent just now.
        """
        name = id or f"snap-{self._deps.ids.uid()}"
        with self._noting_gone():
            await apply_once(self.agent_id, self.uid, SnapshotTaken(name, tuple(tags)), self._deps, self.limits)
        return name
