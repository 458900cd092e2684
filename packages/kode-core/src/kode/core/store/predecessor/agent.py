"""An agent of the predecessor as the records of one of ours."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from itertools import groupby
from typing import Any, Final

from kode.core import jsontext
from kode.core.errors import UsageError
from kode.core.jsontext import well_formed
from kode.core.kernel.events import Event
from kode.core.kernel.message import Json, Message, ToolResultBlock, Usage
from kode.core.kernel.state import Document, RunRecord, State
from kode.core.kernel.toolcall import Approval, Audit, Call, CallStatus, Plan, Verdict
from kode.core.kernel.window import Snapshot, Window
from kode.core.kernel.words import RESULT_STATUS, StopReason
from kode.core.store import records as rec
from kode.core.store.contract import Bounds, Commit, DocumentBody, Record
from kode.core.store.predecessor.blocks import as_json
from kode.core.store.predecessor.events import convert_events
from kode.core.store.predecessor.folder import Origin, mapping, number
from kode.core.store.predecessor.history import History, Use, convert
from kode.core.store.primitives import check_name

__all__ = ["Built", "Recipe", "build"]

EVENTS_AT_ONCE: Final = 200
"""Events of one record: what is read at once."""
SECRET: Final = re.compile(r"api.?key|secret|token$|password|passwd|credential|authorization|headers?$", re.IGNORECASE)
FINAL: Final = {status.value: status for status in CallStatus if status.final}


@dataclass(frozen=True, slots=True)
class Recipe:
    """The template an imported agent goes on with: its label and what `encode_template` gives."""

    label: str
    text: Json
    digest: str


@dataclass(slots=True)
class Built:
    """What is to be stored, the header last."""

    records: list[Record] = field(default_factory=list)
    taken: Counter[str] = field(default_factory=Counter)


def build(agent_id: str, origin: Origin, recipe: Recipe) -> Built:
    """Make the records of an agent. The same files make the same records."""
    built = Built()
    by_id = {str(one.get("id")): one for one in origin.calls}
    history = convert(origin.messages, by_id)
    origin.mended.update(history.mended)
    uses = {use.provider_id: use for use in history.uses}
    since = _moment(origin.meta.get("createdAt")) or _first(origin) or origin.modified_at
    events = convert_events(origin.events, uses, since, built.taken, origin.left)
    calls = [_call(use, by_id.get(use.provider_id) if uses[use.provider_id] is use else None) for use in history.uses]
    messages, calls, until = _dated(history, calls, since)
    until = max([until, *(event.at for event in events)])
    uid = (
        "imp" + sha256(f"{origin.agent_id}\0{origin.meta.get('createdAt')}".encode("utf-8", "replace")).hexdigest()[:29]
    )
    born = Event("agent_created", since, 1, data={"template": recipe.label, "imported": True})
    events = [born, *events]
    documents = [(DocumentBody("template", "", recipe.text), recipe.digest), *_documents(origin)]
    named = tuple(Document(body.kind, body.name, digest) for body, digest in documents)
    last = [use for use in history.uses if (use.run, use.step) == (history.run, history.step)]
    state = State(
        agent_id,
        uid,
        since,
        until,
        next_seq=len(messages),
        next_cursor=len(events) + 1,
        next_run=history.run + 1,
        step=history.step,
        next_n=len(last) + 1 if history.run else 0,
        steps_total=sum(message.role == "assistant" for message in messages),
        documents=named,
        template=recipe.label,
    )
    rows = built.records
    rows += (rec.message_record(uid, message) for message in messages)
    rows += (rec.call_record(uid, call) for call in calls)
    for start in range(0, len(events), EVENTS_AT_ONCE):
        rows.append(rec.events_record(uid, events[start : start + EVENTS_AT_ONCE], 1))
    rows += (rec.run_record(uid, run) for run in _runs(messages, until))
    rows += (rec.document_record(uid, body, digest, until) for body, digest in documents)
    snapshots = _snapshots(origin, history, state)
    rows += (rec.snapshot_record(uid, snapshot) for snapshot in snapshots)
    rows.append(rec.header_record(Commit(state, f"import:{uid}", None, None, until, Bounds()), version=1, wake_at=None))
    built.taken.update(messages=len(messages), calls=len(calls), snapshots=len(snapshots), documents=len(documents) - 1)
    origin.left["call records that the history does not name"] += len(by_id.keys() - uses.keys())
    return built


# ---- times -------------------------------------------------------------------------------------------------


def _moment(value: Any) -> int:
    """Read a moment: ISO text, or milliseconds since the epoch. 0: it is none."""
    if isinstance(value, str):
        try:
            return max(round(datetime.fromisoformat(value).timestamp() * 1_000_000), 0)
        except (ValueError, OverflowError):
            return 0
    return max(round(number(value) * 1_000), 0)


def _first(origin: Origin) -> int:
    """The earliest moment that anything tells of."""
    marks = [_moment(one.get("bookmark", {}).get("timestamp")) for one in origin.events if _marked(one)]
    return min(
        [moment for moment in [*marks, *(_moment(c.get("createdAt")) for c in origin.calls)] if moment], default=0
    )


def _marked(envelope: dict[str, Any]) -> bool:
    return isinstance(envelope.get("bookmark"), dict)


def _dated(history: History, calls: list[Call], since: int) -> tuple[list[Message], list[Call], int]:
    """Date messages, which bear no time of their own, by the calls they ask for or answer."""
    asked = {call.seq: call.asked_at for call in reversed(calls) if call.asked_at}
    answered: dict[int, int] = {}
    for call in calls:
        if call.result_seq is not None:
            answered[call.result_seq] = max(answered.get(call.result_seq, 0), call.finished_at or 0)
    at, messages = since, []
    for message in history.messages:
        at = max(at, asked.get(message.seq, 0), answered.get(message.seq, 0))
        messages.append(replace(message, at=at))
    return messages, [_closed(call, messages) for call in calls], at


def _closed(call: Call, messages: list[Message]) -> Call:
    """Say of a call when it was asked and ended, where its record does not."""
    ended = call.finished_at or messages[call.seq + 1].at
    audit = (*call.audit, Audit(ended, call.status, "imported"))
    return replace(call, asked_at=call.asked_at or messages[call.seq].at, finished_at=ended, audit=audit)


# ---- calls and runs ----------------------------------------------------------------------------------------


def _call(use: Use, record: dict[str, Any] | None) -> Call:
    """Make a call's record of what the history shows of it and what its old record adds."""
    said = record or {}
    status = CallStatus.SEALED if use.sealed else FINAL.get(str(said.get("state")))
    if status is None or (status is CallStatus.SEALED and not use.is_error):
        status = CallStatus.FAILED if use.is_error else CallStatus.COMPLETED
    started = _moment(said.get("startedAt")) or None
    finished = _moment(said.get("completedAt")) or _moment(said.get("updatedAt")) or None
    approvals = _approvals(mapping(said.get("approval")))
    verdict: Verdict = "ask" if approvals else "deny" if status is CallStatus.DENIED else "allow"
    return Call(
        use.run,
        use.step,
        use.n,
        well_formed(use.provider_id),
        use.tool,
        use.seq,
        use.block,
        status,
        Plan(verdict),
        asked_at=_moment(said.get("createdAt")),
        started_at=started,
        finished_at=finished,
        attempts=("0.1",) if started else (),
        approvals=approvals,
        result_seq=use.result_seq,
        is_error=use.is_error,
        seal_reason="imported" if status is CallStatus.SEALED else None,
        audit=tuple(_audit(said)),
    )


def _approvals(approval: dict[str, Any]) -> tuple[Approval, ...]:
    decision = approval.get("decision")
    if decision not in ("allow", "deny"):
        return ()
    by, note = (well_formed(v) if isinstance(v := approval.get(name), str) else None for name in ("decidedBy", "note"))
    at = _moment(approval.get("decidedAt")) or None
    return (Approval(1, state="approved" if decision == "allow" else "refused", by=by, at=at, note=note),)


def _audit(said: dict[str, Any]) -> list[Audit]:
    trail = said.get("auditTrail")
    lines = []
    for line in trail if isinstance(trail, list) else []:
        if isinstance(line, dict) and str(line.get("state")) in CallStatus.__members__:
            note = line.get("note")
            lines.append(
                Audit(
                    _moment(line.get("timestamp")),
                    CallStatus(str(line["state"])),
                    well_formed(note) if isinstance(note, str) else None,
                )
            )
    return lines


def _runs(messages: list[Message], until: int) -> list[RunRecord]:
    runs = []
    for run, group in groupby(messages, lambda message: message.run):
        said = list(group)
        ended = said[-1].role == "assistant" and not any(block.type == "tool_use" for block in said[-1].blocks)
        why = StopReason.END_TURN if ended else StopReason.INTERRUPTED
        runs.append(
            RunRecord(
                run,
                RESULT_STATUS[why],
                why,
                started_at=said[0].at,
                ended_at=said[-1].at,
                item=None,
                taken=sum(message.origin == "import" for message in said),
                first_seq=said[0].seq,
                last_seq=said[-1].seq,
                first_cursor=1,
                last_cursor=1,
                steps=sum(message.role == "assistant" for message in said),
                calls=sum(isinstance(block, ToolResultBlock) for message in said for block in message.blocks),
                usage=Usage(),
                used_us=0,
                answer_seq=said[-1].seq if ended else None,
            )
        )
    return runs


# ---- documents and snapshots -------------------------------------------------------------------------------


def _documents(origin: Origin) -> list[tuple[DocumentBody, str]]:
    bodies = []
    if origin.meta:
        secrets: list[str] = []
        bodies.append(DocumentBody("imported", "meta", as_json(_public(origin.meta, secrets))))
        origin.left["secrets in its settings"] += len(secrets)
    if origin.todos is not None:
        bodies.append(DocumentBody("todos", "", as_json(origin.todos)))
    return [(body, jsontext.digest(body.data)) for body in bodies]


def _public(value: Any, secrets: list[str]) -> Any:
    """Copy a value without what looks like a secret: the predecessor stored keys in clear text."""
    if isinstance(value, list):
        return [_public(one, secrets) for one in value]
    if not isinstance(value, dict):
        return value
    secrets += [name for name, held in value.items() if held and SECRET.search(name)]
    return {name: _public(held, secrets) for name, held in value.items() if not SECRET.search(name)}


def _snapshots(origin: Origin, history: History, state: State) -> list[Snapshot]:
    """Keep the snapshots that name a part of the history from its beginning, up to a safe point."""
    found: dict[str, Snapshot] = {}
    named = tuple((document.kind, document.name, document.digest) for document in state.documents)
    for raw in origin.snapshots:
        id, count = raw["id"], raw["messages"]
        seq = None if count is None else history.starts[count]
        try:
            check_name("snapshot id", id)
        except UsageError:
            seq = None
        if seq is None or id is None:
            origin.left["snapshots of what is not the beginning of the history"] += 1
            continue
        at = _moment(raw.get("createdAt")) or state.created_at
        found[id] = Snapshot(id, seq, at, Window(), named, ("imported",), template=state.template)
    return list(found.values())
