"""What others do to a `JSONStore`'s folder: processes that stop, are killed or fork, and files that are not its own."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import anyio
import pytest

from kode.core.errors import RecordCorruptError, StoreError, StoreUnavailableError
from kode.core.store import Key
from kode.core.store.contract import Scan
from kode.core.store.json import JSONStore, acts, folder, journal, lines, lock, names
from kode.core.store.json import store as module
from kode.core.store.json.disk import Disk
from kode.core.store.json.folder import Folder
from kode.core.store.json.lock import Lock
from kode.core.store.json.opening import prepare
from kode.core.store.json.view import OPEN
from kode.core.store.records import int_key
from kode.core.testing.conformance.store import Author
from kode.core.testing.conformance.store.author import AT
from kode.core.testing.conformance.store.records import head, row

pytestmark = pytest.mark.anyio
MARK = '{"store":"kode","version":1}\n'


class Watched(Disk):
    """Calls a function at each step."""

    def __init__(self, watch: Callable[[str, str], None]) -> None:
        super().__init__(power=False)
        self.step = watch  # type: ignore[method-assign]


def at(root: Path, disk: Disk | None = None) -> Folder:
    (root / "agents").mkdir(exist_ok=True)
    return Folder(str(root / "agents" / "agent"), str(root / "trash"), disk or Disk(power=False), busy_timeout_s=1.0)


def put(place: Folder, *records: object, deletes: tuple[Key, ...] = ()) -> None:
    place.write(lambda view: acts.apply(view, (), records, deletes))  # type: ignore[arg-type]


# ---- the first opening -------------------------------------------------------------------------------------


class Dead(Exception):  # noqa: N818 - the end of a process
    """The process ends here."""


@pytest.mark.parametrize("also", ["another opens it", "it is killed"])
def test_at_every_step_of_the_first_opening(tmp_path: Path, also: str) -> None:
    """Another process opens the folder, or this one is killed: afterwards it is a store all the same."""
    for n in range(99):
        root, steps = tmp_path / str(n), 0

        def step(what: str, path: str, n: int = n, root: Path = root) -> None:
            nonlocal steps
            steps += 1
            if steps == n + 1:
                if also == "it is killed":
                    raise Dead
                prepare(str(root), Disk(power=False))
                prepare(str(root), Disk(power=False))

        try:
            prepare(str(root), Watched(step))
        except Dead:
            prepare(str(root), Disk(power=False))
            prepare(str(root), Disk(power=False))
        assert (root / "kode.json").read_text() == MARK
        assert sorted(path.name for path in root.iterdir()) == ["agents", "kode.json"]
        if steps <= n:
            break
    assert n > 5


@pytest.mark.parametrize("text", ["", "\0" * 29, MARK])
async def test_a_mark_alone_is_a_store(tmp_path: Path, text: str) -> None:
    (tmp_path / "kode.json").write_text(text)
    for n in range(2):
        async with JSONStore(tmp_path, durability="process") as store:
            assert len(await store.list_agents()) == n
            await Author(store, f"agent-{n}", f"uid-{n}").create()
    assert (tmp_path / "kode.json").read_text() == MARK


# ---- what is not ours --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", [None, '{"store":"other"}', '{"store":"kode","version":9}', MARK])
async def test_nothing_is_removed_that_is_not_its_own(tmp_path: Path, mark: str | None) -> None:
    root, outside = tmp_path / "kode", tmp_path / "outside"
    (root / "trash/photos").mkdir(parents=True)
    (root / "trash/12.gone").mkdir()
    outside.mkdir()
    kept = [root / "trash/photos/journal", root / "trash/12.gone/notes.txt", outside / "journal", root / "trash/note"]
    for path in kept:
        path.write_text("dear")
    (root / "trash/12.gone/lock").touch()
    (root / "trash/99.gone").symlink_to(outside)
    if mark is not None:
        (root / "kode.json").write_text(mark)
    store = JSONStore(root, durability="process")
    if mark in (None, MARK):
        await store.open()
    else:
        with pytest.raises(StoreError):
            await store.open()
    await store.close()
    assert [path.read_text() for path in kept] == ["dear"] * 4
    assert (root / "trash/12.gone/lock").exists() == (mark != MARK)


@pytest.mark.parametrize("odd", ["loop", "link", "file", "folder", "fifo", "journal link", "lock fifo", "lock link"])
async def test_an_odd_entry_takes_no_list_away(tmp_path: Path, odd: str) -> None:
    async with JSONStore(tmp_path, durability="process") as store:
        await Author(store).create(wake_at=AT)
        await Author(store, "else", "uid-2").create()
    agents = tmp_path / "agents"
    strange = agents / "zz"
    if odd in ("loop", "link"):
        strange.symlink_to("zz" if odd == "loop" else "agent")
    elif odd == "file":
        strange.touch()
    else:
        strange.mkdir()
        if odd == "folder":
            (strange / "journal").mkdir()
        elif odd == "fifo":
            os.mkfifo(strange / "journal")
        elif odd == "journal link":
            (strange / "journal").symlink_to(agents / "else" / "journal")
        elif odd == "lock fifo":
            os.mkfifo(strange / "lock")
        else:
            (strange / "lock").symlink_to(tmp_path / "made")
    async with JSONStore(tmp_path, durability="process") as store:
        with anyio.fail_after(10):
            assert [info.agent_id for info in await store.list_agents()] == ["agent", "else"]
            assert [due.agent_id for due in await store.due(AT, 9)] == ["agent"]
            if odd in ("folder", "fifo", "journal link", "lock fifo", "lock link"):
                with pytest.raises(StoreError) as refused:
                    await store.load("zz")
                assert refused.value.code == "not_a_file"
    assert not (tmp_path / "made").exists()


async def test_no_file_outside_is_read_or_removed(tmp_path: Path) -> None:
    """A folder may come from elsewhere: the names in it are those that this store gives, or it is damaged."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"secret")
    place = at(tmp_path)
    put(place, head("agent"))
    path = tmp_path / "agents/agent/journal"
    begun = path.read_bytes()
    for name in ("../../victim", "1.2.3.body/../../../victim", "1.2.3.body\n"):
        raw = lines.raw_record(row("blob", "k", "u"), lines.body_file(name, b"secret"), name)
        path.write_bytes(begun + lines.encode([raw], [], file=1, at=len(begun))[0])
        with pytest.raises(RecordCorruptError, match="no name of a body"):
            put(at(tmp_path), row("blob", "k", "u"))
    for segments in ([["../../victim", 2, 9]], [[1, "/../../victim", 9]]):
        said = {"file": 2, "segments": segments, "put": [], "del": []}
        path.write_bytes(lines.seal(said)[0])
        with pytest.raises(RecordCorruptError, match="no number of a segment"):
            put(at(tmp_path), head("agent"))
    listed = {"records": {"blob": {"u": [["k", 0, 0, 9, 9, "../../victim"]]}}}
    (path.parent / "1.2.index").write_bytes(lines.seal(listed)[0])
    path.write_bytes(lines.seal({"file": 2, "segments": [[1, 2, 9]], "put": [], "del": []})[0])
    with pytest.raises(RecordCorruptError, match="names a body"):
        put(at(tmp_path), row("blob", "k", "u"))
    assert victim.read_bytes() == b"secret"


async def test_a_body_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    async with JSONStore(tmp_path, durability="process") as store:
        await Author(store).create()
        sha = await store.put_blob("agent", b"\xff" * 5_000)
        (body,) = (tmp_path / "agents/agent").glob("*.body")
        shutil.move(body, tmp_path / "elsewhere")
        body.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(StoreError) as refused:
            await store.get_blob("agent", sha)
        assert refused.value.code == "not_a_file"


@pytest.mark.parametrize(
    "body", [b"7{this is, no JSON}", b'7{"a":1}{"b":2}', b'1{"a":NaN}', b"1" + b"[" * 9_999 + b"]", b'1{"a":"\x01"}']
)
@pytest.mark.parametrize("kind", ["blob", "document"])
def test_every_line_is_json_whatever_a_body_is(tmp_path: Path, body: bytes, kind: str) -> None:
    place = at(tmp_path)
    put(place, row(kind, "k", "u", body))  # type: ignore[arg-type]
    text = (tmp_path / "agents/agent/journal").read_text()

    def refuse(name: str) -> None:
        raise AssertionError(name)

    assert json.loads(text, parse_constant=refuse)[3][1] == body.decode()
    (found,) = place.read(lambda view: view.get([Key(kind, "u", "k")]))  # type: ignore[arg-type]
    assert found is not None
    assert found.body == body


def test_a_blob_is_a_string_and_what_the_codec_makes_is_not() -> None:
    assert lines.body_text(row("blob", "k", "u", b'1{"a":1}')) == rb'"1{\"a\":1}"'
    assert lines.body_text(row("message", "k", "u", b'1{"a":1}')) == b'{"1":{"a":1}}'


# ---- a process that keeps the lock -------------------------------------------------------------------------


@contextmanager
def held(root: Path, agent: str) -> Iterator[None]:
    """Lock an agent's folder as a process does that is stopped while it writes."""
    with (root / "agents" / agent / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


async def test_a_stopped_process_stops_nobody_but_who_needs_that_agent(tmp_path: Path) -> None:
    async with JSONStore(tmp_path, durability="process") as store:
        for n in range(4):
            await Author(store, f"a{n}", f"u{n}").create(wake_at=AT)
    async with JSONStore(tmp_path, durability="process", busy_timeout_s=60) as fresh:
        read: list[str] = []

        async def wait() -> None:
            read.append((await fresh.read_state("a0")).agent_id)

        async with anyio.create_task_group() as tasks:
            with held(tmp_path, "a0"):
                with anyio.fail_after(20):
                    assert len(await fresh.list_agents()) == 4
                    assert len(await fresh.due(AT, 9)) == 4
                    for _ in range(20):
                        tasks.start_soon(wait)
                    await anyio.wait_all_tasks_blocked()
                    for n in (1, 2, 3):
                        assert (await fresh.read_state(f"a{n}")).agent_id == f"a{n}"
                    assert len(await fresh.list_agents()) == 4
                assert read == []
        assert read == ["a0"] * 20
    async with JSONStore(tmp_path, durability="process", busy_timeout_s=0.1) as hasty:
        with held(tmp_path, "a0"):
            with pytest.raises(StoreUnavailableError) as locked:
                await hasty.read_state("a0")
            assert locked.value.code == "store_locked"


def test_a_forked_process_does_not_keep_the_lock(tmp_path: Path) -> None:
    mine = Lock(str(tmp_path), Disk(power=False), 1.0)
    with mine.exclusive():
        fd = next(int(fd) for fd in os.listdir("/dev/fd") if _is(int(fd), tmp_path / "lock"))
        child = os.dup(fd)  # what a child of `fork` has: the same open file
    try:
        other = mine.take(shared=False)
        assert other is not None
        mine.give_back(other)
    finally:
        os.close(child)


def _is(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except OSError:
        return False


def test_the_lock_is_waited_for_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a pause takes: the machine may be busy."""

    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

        def wait(self, seconds: float) -> None:
            self.now += 0.1

    clock = Clock()
    monkeypatch.setattr(lock, "_CLOCK", clock)
    monkeypatch.setattr(lock, "_NEVER", clock)
    theirs, mine = (Lock(str(tmp_path), Disk(power=False), 1.0) for _ in range(2))
    with theirs.exclusive(), pytest.raises(StoreUnavailableError), mine.exclusive():
        pass
    assert 0.95 < clock.now < 1.25


# ---- growth ------------------------------------------------------------------------------------------------


def test_what_waits_is_not_copied_at_every_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that begins with several lines is closed when it has grown by as much again, also after a reload."""
    monkeypatch.setattr(journal, "ROLLED", 1_000)
    monkeypatch.setattr(journal, "PORTION", 500)
    place = at(tmp_path)
    for n in range(100):
        put(place, row("inbox", int_key(n), "u", b"1{}", id="x" * 200))
    path = tmp_path / "agents/agent/journal"
    assert sum(b'"file":' in line[:30] for line in path.read_bytes().splitlines()) > 5
    index = place.read(lambda view: view.index)
    assert index.begun > 10_000
    again = at(tmp_path).read(lambda view: view.index)
    assert (again.begun, again.mark, again.end) == (index.begun, index.mark, index.end)
    begun = path.stat().st_ino
    for n in range(5):
        put(at(tmp_path), row("message", int_key(n), "u"))
        put(place, row("message", int_key(n + 10), "u"))
    assert path.stat().st_ino == begun


def test_a_journal_that_cannot_be_closed_is_not_tried_at_every_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    def refuse(what: str, path: str) -> None:
        nonlocal tries
        if (what, Path(path).name) == ("rename", names.JOURNAL):
            tries += 1
            raise OSError(errno.ENOSPC, "full", path)

    monkeypatch.setattr(journal, "ROLLED", 2_000)
    monkeypatch.setattr(folder, "ROLLED", 2_000)
    disk = Disk(power=False)
    place = at(tmp_path, disk)
    put(place, head("agent"))
    disk.step = refuse  # type: ignore[method-assign]
    for n in range(60):
        put(place, row("message", int_key(n), "u", b"x" * 200))
    size = (tmp_path / "agents/agent/journal").stat().st_size
    assert 1 < tries <= size // 2_000
    disk.step = lambda what, path: None  # type: ignore[method-assign]
    for n in range(60, 90):
        put(place, row("message", int_key(n), "u", b"x" * 200))
    assert (tmp_path / "agents/agent/1.segment").exists()


def test_few_files_are_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "is_long", lambda index: index.end > index.begun + 200)
    monkeypatch.setattr(journal, "LIVE", 1_000)
    place = at(tmp_path)
    for n in range(60):
        put(place, head("agent"), row("message", int_key(n), "u", b"x" * 100))
    assert len(list((tmp_path / "agents/agent").glob("*.segment"))) > 2 * OPEN

    def read(view: folder.FolderView) -> tuple[int, int]:
        return len(view.scan(Scan("message", "u", limit=99))), len(view._files)

    count, opened = place.read(read)
    assert count == 60
    assert opened <= OPEN


async def test_the_folder_in_use_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 20)
    async with JSONStore(tmp_path, durability="process") as store:
        small, large = Author(store, "small", "u1"), Author(store, "large", "u2")
        await small.create()
        await large.create()
        await large.say(*["x"] * 50)
        index = store._folders["large"]._index
        assert index is not None
        for _ in range(3):
            await large.say("x")
            await store.read_state("large")
            assert store._folders["large"]._index is index
        assert "small" not in store._folders
        assert store._total == sum(store._remembered.values()) == index.count


async def test_agents_that_never_were_take_no_memory(tmp_path: Path) -> None:
    async with JSONStore(tmp_path, durability="process") as store:
        author = Author(store)
        await author.create()
        await store.list_agents()
        async with anyio.create_task_group() as tasks:
            for n in range(50):
                tasks.start_soon(partial(store.exists, f"no/{n}"))
        await store.delete("agent")
        assert not store._folders
        assert not store._remembered
        assert store._total == 0
