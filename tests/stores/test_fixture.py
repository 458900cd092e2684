"""A file of version 1 as it lies on people's disks: agents in all their states must be found in it for ever.

``scripts/make-fixtures-sqlite`` writes ``tests/fixtures/v1/agents.db`` with ``write``. Its values are those
of the records' own fixtures, so each kind of record is there and each field of it is set.
"""

from __future__ import annotations

import runpy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kode.core.kernel.message import Json, Message, TextBlock
from kode.core.kernel.state import Document, State
from kode.core.kernel.toolcall import Approval, CallStatus, Plan, Wait
from kode.core.kernel.window import Window
from kode.core.store import Bounds, Commit, DocumentBody, Loaded, MemoryStore, Record, SqliteStore, Store
from kode.core.store import records as rec
from kode.core.store.contract import Scan
from kode.core.testing.clock import VirtualClock

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
FILE = ROOT / "tests/fixtures/v1/agents.db"
VALUES: dict[str, Any] = runpy.run_path(str(ROOT / "tests/core/store/test_fixtures.py"))
AT: int = VALUES["AT"]
FULL: State = VALUES["STATE"]
BODIES = [
    DocumentBody("template", "coder", Json('"t"')),
    DocumentBody("todo", "main", Json('{"items":["é"]}')),
]
OLD = DocumentBody("todo", "main", Json('["old"]'))


async def write(store: Store) -> None:
    """Store the agents of the fixture."""
    await _full(store)
    await _paused(store)
    await _staged(store)
    await store.apply("half", (), [rec.orphan_record("u-half", "half", "fork", AT)], ())
    await store.apply("half", (), [rec.message_record("u-half", Message(0, "user", (TextBlock("half"),), AT))], ())


async def _full(store: Store) -> None:
    """An agent of which everything is set: in a run, driven, with items waiting and remembered."""
    old = Document("todo", "main", "old")
    begun = State(FULL.agent_id, FULL.uid, AT, AT, documents=(old,), tenant=FULL.tenant)
    await store.commit(Commit(begun, "c-1", None, None, AT, documents=[OLD]))
    item = VALUES["item"]
    for name in ("message", "reminder", "decision"):
        await store.enqueue(FULL.agent_id, item(name))
    loaded = await store.load(FULL.agent_id)
    assert loaded is not None
    await store.put_blob(FULL.agent_id, "Grüße".encode(), "text/plain")
    for holder in ("host-1:4711:boot", "host-1:4712:boot"):
        lease = await store.acquire(FULL.agent_id, holder, 10**6)
        clock: Any = store.clock
        await clock.advance(10**6 + 1)
    lease = await store.acquire(FULL.agent_id, "host-1:4713:boot", 10**6)
    snapshot = replace(VALUES["SNAPSHOT"], documents=(("todo", "main", "old"),))
    message = VALUES["MESSAGE"]
    others = [Message(n, "user", (TextBlock(f"message {n}"),), AT, 3, 5) for n in range(12) if n != message.seq]
    first = loaded.inbox[0]
    await store.commit(
        Commit(
            replace(FULL, next_cursor=144, parked=None),
            "c-77",
            1,
            lease.fence,
            AT + 9,
            Bounds(50, 65_536, 3_600.5),
            wake_at=AT + 5,
            messages=[message, *others],
            calls=[VALUES["CALL"]],
            events=VALUES["EVENTS"],
            runs=[VALUES["RUN"]],
            compactions=[VALUES["COMPACTION"]],
            snapshots=[snapshot],
            documents=BODIES,
            consumed={first.position: first},
            taken={first.id: 3},
            seen=2,
        )
    )
    for name in ("resolve", "interrupt"):
        await store.enqueue(FULL.agent_id, item(name))


async def _paused(store: Store) -> None:
    """An agent that waits for a person after a crash, and for its child."""
    ask = Plan("allow", "d", False, "ask", 60.0, "asked after a crash")
    question = Approval(1, "recovery", due_at=AT + 60, reason="It may have run.")
    call = replace(VALUES["CALL"], result=None, result_seq=None, seal_reason=None, finished_at=None, is_error=False)
    asked = replace(call, n=0, status=CallStatus.APPROVAL_REQUIRED, plan=ask, approvals=(question,), wait=None)
    child = replace(call, n=1, status=CallStatus.WAITING, approvals=(), wait=Wait(AT + 90, "paused/child", "u-child"))
    state = replace(FULL, agent_id="paused", uid="u-paused", effects=(), calls=(asked, child), parked=None)
    state = replace(state, next_seq=1, documents=(), window=Window())
    said = Message(0, "user", (TextBlock("do it"),), AT)
    await store.commit(Commit(state, "p-1", None, None, AT, wake_at=AT + 60, messages=[said], calls=[asked, child]))


async def _staged(store: Store) -> None:
    """An agent whose process ended between a large commit and its settling."""
    state = State("staged", "u-staged", AT, AT)
    await store.commit(Commit(state, "s-1", None, None, AT))
    texts = [Message(n, "user", (TextBlock(f"text {n}"),), AT) for n in range(6)]
    store.max_batch = 3
    settle, store._settle_agent = store._settle_agent, _nothing  # type: ignore[method-assign]
    await store.commit(Commit(replace(state, next_seq=6), "s-2", 1, None, AT + 1, messages=texts))
    store._settle_agent = settle  # type: ignore[method-assign]
    store.max_batch = None


async def _nothing(agent_id: str) -> None:
    pass


# ---- reading it --------------------------------------------------------------------------------------------


async def everything(store: Store, agent_id: str) -> list[Any]:
    """Read all there is of an agent, decoded."""
    loaded = await store.load(agent_id)
    assert loaded is not None
    uid = loaded.state.uid
    compactions = await store.scan(agent_id, Scan("compaction", uid, limit=99))
    consumed = await store.scan(agent_id, Scan("consumed", uid, limit=99))
    return [
        replace(loaded, window=[rec.read_message(row) for row in loaded.window]),  # type: ignore[misc]
        (await store.read_messages(agent_id)).items,
        (await store.read_calls(agent_id)).items,
        (await store.read_events(agent_id)).items,
        (await store.read_runs(agent_id)).items,
        await store.list_snapshots(agent_id),
        await store.read_documents(agent_id),
        [rec.read_compaction(row) for row in compactions],
        [rec.read_consumed(row)[:4] for row in consumed],
        await store.read_run(agent_id, 3),
        await store.consumed_by(agent_id, "m-1"),
    ]


async def raw(store: Store) -> list[Record]:
    """Read every record there is, as it is."""
    found: list[Record] = []
    headers = await store.agents("", "", 99)
    for header in headers:
        uid = str(header.columns["uid"])
        found.append(header)
        for kind in rec.COLUMNS:
            if kind not in ("header", "lease"):
                found += await store.scan(header.key, Scan(kind, uid, limit=999))
        found += [row for row in await store.get(header.key, [replace_key(uid)]) if row is not None]
    # The digest of a consumed item is made otherwise today; how the old one is judged is tested with the items.
    found = [replace(row, body=b"") if row.kind == "consumed" else row for row in found]
    return found + await store.scan("", Scan("staged", "", limit=99))


def replace_key(uid: str) -> Any:
    return rec.lease_record(replace(VALUES["LEASE"], uid=uid)).address


def clock() -> VirtualClock:
    return VirtualClock(AT)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The fixture may not be touched, and opening a file touches it."""
    return Path(shutil.copy(FILE, tmp_path / "agents.db"))


async def test_all_agents_are_read_as_they_were_meant(copy: Path) -> None:
    meant = MemoryStore(clock())
    await write(meant)
    async with SqliteStore(copy, clock=VirtualClock(await meant.now())) as stored:
        ids = [info.agent_id for info in await stored.list_agents()]
        assert ids == ["agents/coder-1", "paused", "staged"]
        assert await stored.list_agents() == await meant.list_agents()
        assert await stored.due(AT + 10**15, 9) == await meant.due(AT + 10**15, 9)
        for id in ids:
            assert await everything(stored, id) == await everything(meant, id)
        blob = rec.blob_record("", "Grüße".encode(), "", 0).key
        assert await stored.get_blob("agents/coder-1", blob) == "Grüße".encode()
        assert await stored.sweep() == 1
        assert await stored.scan("half", Scan("message", "u-half", limit=9)) == []
        forked = await stored.fork("agents/coder-1", "fork", new_uid="u-fork", at="snap-1")
        assert [d.digest for d in forked.documents] == ["old"]
        assert await stored.read_document("fork", "todo", "main") == OLD


async def test_it_holds_every_kind_of_record(copy: Path) -> None:
    async with SqliteStore(copy) as stored:
        kinds = {record.kind for record in await raw(stored)}
    assert kinds == set(rec.COLUMNS)


async def test_records_are_copied_unchanged_to_any_store(copy: Path, tmp_path: Path) -> None:
    async with SqliteStore(copy) as stored, SqliteStore(tmp_path / "other.db") as other:
        records = await raw(stored)
        for target in (MemoryStore(), other):
            await target.apply("", (), records, ())
            assert await raw(target) == records


async def test_work_goes_on_where_it_stopped(copy: Path) -> None:
    async with SqliteStore(copy, clock=VirtualClock(AT + 10**15)) as stored:
        loaded = await stored.load("staged")
        assert isinstance(loaded, Loaded)
        assert [rec.read_message(row).seq for row in loaded.window] == list(range(6))
        lease = await stored.acquire("agents/coder-1", "next", 30)
        assert (lease.fence, lease.takes, lease.version) == (4, 3, 2)
        again = await stored.enqueue("agents/coder-1", VALUES["item"]("resolve"))
        assert again.duplicate
