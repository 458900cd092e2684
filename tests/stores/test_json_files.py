"""What `JSONStore` keeps on disk, which folders it takes, and what it says when the disk does not do its part."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from kode.core.errors import (
    RecordCorruptError,
    SchemaTooNewError,
    StoreError,
    StoreUnavailableError,
    UsageError,
)
from kode.core.kernel.message import Message, TextBlock
from kode.core.store import Condition, Key
from kode.core.store.contract import Scan
from kode.core.store.json import JSONStore, lines
from kode.core.store.json import store as module
from kode.core.store.json.disk import Disk
from kode.core.store.json.names import LONGEST, folder_name
from kode.core.testing.conformance.store import Author
from kode.core.testing.conformance.store.author import AT, item
from kode.core.testing.conformance.store.records import row

pytestmark = pytest.mark.anyio


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[JSONStore]:
    async with JSONStore(tmp_path / "kode", durability="process") as store:
        yield store


def folder_of(store: JSONStore, agent_id: str = "agent") -> Path:
    return Path(store.path) / "agents" / folder_name(agent_id)


# ---- names and files ---------------------------------------------------------------------------------------


async def test_it_is_made_for_its_owner_only(tmp_path: Path) -> None:
    async with JSONStore(tmp_path / "deep" / "er") as store:
        author = Author(store)
        await author.create()
        await store.put_blob("agent", b"\xff" * 5_000)
        for path in [tmp_path / "deep" / "er", *(tmp_path / "deep" / "er").rglob("*")]:
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
        assert sorted(path.suffix for path in folder_of(store).iterdir()) == ["", "", ".body"]


async def test_a_person_can_read_it(store: JSONStore) -> None:
    """Every line is JSON, and what was said stands in it as it was said."""
    author = Author(store)
    await author.create()
    await author.say('Grüße, "Ann"\n', events=2)
    await store.enqueue("agent", item("a"))
    await store.apply(
        "agent", (), [row("document", "d", "uid-1", b"no JSON\n\x00"), row("blob", "b", "uid-1", b"\xff")], ()
    )
    text = (folder_of(store) / "journal").read_text()
    parsed = [json.loads(line) for line in text.splitlines()]
    assert [line[0] for line in parsed] == [1] * 4
    assert r"Grüße, \"Ann\"" in text
    assert parsed[-1][3:5] == [[{}, "no JSON\n\x00"], [{}, {"base64": "/w=="}]]


@pytest.mark.parametrize(
    "id", ["A", "a", "x/y", "x%2fy", "..foo", ".x", "a" * 200, "A" * 200, "A" * 199 + "B", "con:1@h", "~"]
)
def test_folder_names_are_safe(id: str) -> None:
    name = folder_name(id)
    assert name == name.lower()
    assert len(name) <= LONGEST
    assert "/" not in name
    assert not name.startswith(".")


async def test_ids_that_differ_little_are_agents_of_their_own(store: JSONStore) -> None:
    ids = ["A", "a", "x/y", "x", "x-y", "..foo", "foo", "A" * 200, "A" * 199 + "B", "a" * 200, "%41".replace("%", "-")]
    for n, id in enumerate(ids):
        await Author(store, id, f"uid-{n}").create()
    assert [info.agent_id for info in await store.list_agents()] == sorted(ids)
    assert len({folder_name(id) for id in ids}) == len(ids)
    assert all(path.parent == Path(store.path) / "agents" for path in (Path(store.path) / "agents").iterdir())
    await store.delete("x")
    assert await store.exists("x/y")
    with pytest.raises(UsageError):
        await store.load("../x")


async def test_deleting_leaves_forks_and_no_folder(store: JSONStore) -> None:
    author = Author(store, "a/b")
    await author.create()
    await author.say("hi")
    sha = await store.put_blob("a/b", b"\xff" * 5_000)
    await store.fork("a/b", "a/b/c", new_uid="uid-9")
    await store.delete("a/b")
    assert len((await store.read_messages("a/b/c")).items) == 1
    assert await store.get_blob("a/b/c", sha) == b"\xff" * 5_000
    assert [path.name for path in (Path(store.path) / "agents").iterdir()] == [folder_name("a/b/c")]
    assert list((Path(store.path) / "trash").iterdir()) == []


async def test_what_a_removal_left_behind_goes_when_the_store_is_opened(tmp_path: Path) -> None:
    async with JSONStore(tmp_path):
        pass
    left = tmp_path / "trash" / "123.gone"
    left.mkdir(parents=True)
    (left / "journal").write_text("secret")
    async with JSONStore(tmp_path):
        assert not left.exists()


# ---- which folders it takes --------------------------------------------------------------------------------


def listing(path: Path) -> list[Path]:
    return sorted(path.rglob("*"))


async def test_what_it_cannot_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "kode.json").write_text('{"name":"theirs"}')
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "kode.json").write_text("null")
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "kode.json").write_text('{"store":"kode","version":2,"new":[]}')
    for name, code in {
        "file": "not_a_folder",
        "file/below": "not_a_folder",
        "theirs": "foreign_folder",
        "damaged": "foreign_folder",
        "later": "schema_too_new",
    }.items():
        before = listing(tmp_path)
        store = JSONStore(tmp_path / name)
        for _ in range(2):
            with pytest.raises(StoreError) as refused:
                await store.open()
            assert refused.value.code == code
            assert str(tmp_path / name) in str(refused.value)
            assert code != "foreign_folder" or "the file is damaged" in str(refused.value)
        await store.close()
        assert listing(tmp_path) == before
    for bad in ({"path": ""}, {"path": "x", "durability": "none"}):
        with pytest.raises(UsageError):
            JSONStore(**bad)  # type: ignore[arg-type]


async def test_other_things_may_lie_beside_it(tmp_path: Path) -> None:
    (tmp_path / "agents").mkdir()
    (tmp_path / "settings.toml").write_text("x")
    async with JSONStore(tmp_path) as store:
        await Author(store).create()
        (tmp_path / "agents" / "stray").write_text("x")
        (tmp_path / "agents" / "empty").mkdir()
        assert [info.agent_id for info in await store.list_agents()] == ["agent"]
    assert (tmp_path / "settings.toml").exists()


async def test_an_id_is_needed_to_say_where(store: JSONStore) -> None:
    with pytest.raises(UsageError) as bad:
        await store.get("", [Key("message", "u", "1")])
    assert bad.value.code == "bad_agent_id"


async def test_text_that_is_none_is_refused_and_nothing_written(store: JSONStore) -> None:
    with pytest.raises(UsageError) as bad:
        await store.apply("agent", (), [row("message", "1", role="\ud800")], ())
    assert bad.value.code == "bad_value"
    await store.apply("agent", (), [row("message", "1", role="user")], ())
    assert len(await store.scan("agent", Scan("message", "u", limit=9))) == 1


# ---- damage ------------------------------------------------------------------------------------------------


async def test_a_damaged_agent_hides_no_other(store: JSONStore) -> None:
    for n, id in enumerate(("bad", "good")):
        author = Author(store, id, f"uid-{n}")
        await author.create(wake_at=AT)
        await author.say("hi", wake_at=AT)
    path = folder_of(store, "bad") / "journal"
    data = path.read_bytes().replace(b'"READY"', b'"READX"', 1)
    path.write_bytes(data)
    async with JSONStore(store.path) as fresh:
        for each in (store, fresh):
            assert [info.agent_id for info in await each.list_agents()] == ["good"]
            assert [due.agent_id for due in await each.due(AT + 1, 9)] == ["good"]
            for use in (each.load("bad"), each.enqueue("bad", item("x")), each.delete("bad", force=True)):
                with pytest.raises(RecordCorruptError) as found:
                    await use
                assert str(path) in str(found.value)
            (damage,) = (await each.check_health()).problems
            assert str(path) in damage
    assert path.read_bytes() == data


async def test_agents_of_which_none_can_be_read_are_not_said_to_be_none(store: JSONStore) -> None:
    assert await store.list_agents() == []
    await Author(store, "bad", "uid").create()
    (folder_of(store, "bad") / "journal").write_bytes(b"\xff" * 100)
    for listing in (store.list_agents(), store.list_agents("b")):
        with pytest.raises(RecordCorruptError):
            await listing
    health = await store.check_health()
    assert (health.healthy, health.agents) == (False, None)


async def test_an_agent_of_a_later_version_hides_no_other(store: JSONStore) -> None:
    for n, id in enumerate(("later", "good")):
        await Author(store, id, f"uid-{n}").create()
    with (folder_of(store, "later") / "journal").open("ab") as file:
        file.write(b'[2,{"all":"new"}]\n')
    with pytest.raises(SchemaTooNewError):
        await store.load("later")
    assert [info.agent_id for info in await store.list_agents()] == ["good"]


# ---- what the disk refuses ---------------------------------------------------------------------------------


class Refusing(Disk):
    """Refuses what it is told to."""

    def __init__(self) -> None:
        super().__init__(power=False)
        self.refused: dict[str, int] = {}

    def step(self, what: str, path: str) -> None:
        if what in self.refused:
            raise OSError(self.refused[what], os.strerror(self.refused[what]), path)

    def try_lock(self, fd: int, *, shared: bool) -> bool:
        self.step("lock", "")
        return super().try_lock(fd, shared=shared)


@pytest.mark.parametrize(
    ("what", "error", "kind", "code"),
    [
        ("write", errno.ENOSPC, StoreUnavailableError, "disk_full"),
        ("sync", errno.EIO, StoreUnavailableError, "io_error"),
        ("write", errno.EROFS, StoreUnavailableError, "read_only"),
        ("write", errno.EDQUOT, StoreUnavailableError, "disk_full"),
        ("lock", errno.ENOLCK, StoreError, "no_locks"),
        ("lock", errno.EOPNOTSUPP, StoreError, "no_locks"),
        ("lock", errno.EMFILE, StoreUnavailableError, "too_many_files"),
        ("write", errno.ENOENT, StoreUnavailableError, "file_gone"),
    ],
)
async def test_what_the_disk_refuses_is_said_and_can_be_repeated(
    store: JSONStore, what: str, error: int, kind: type[StoreError], code: str
) -> None:
    disk = store._disk = Refusing()
    author = Author(store)
    await author.create()
    disk.refused = {what: error}
    for _ in range(2):
        commit = author.make()
        with pytest.raises(kind) as refused:
            await store.commit(commit)
        assert (refused.value.code, refused.value.retryable) == (code, kind is StoreUnavailableError)
    disk.refused = {}
    assert (await store.commit(commit)).version == 2
    async with JSONStore(store.path) as other:
        assert (await other.read_state("agent")).agent_id == "agent"


async def test_a_folder_that_was_moved_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    async with JSONStore(tmp_path / "here") as store:
        author = Author(store)
        await author.create()
        (tmp_path / "here").rename(tmp_path / "there")
        for ask in (lambda: store.read_state("agent"), lambda: store.exists("other"), lambda: store.agents("", "", 9)):
            with pytest.raises(StoreUnavailableError) as refused:
                await ask()
            assert refused.value.code == "file_gone"
        assert not (await store.check_health()).reachable
        (tmp_path / "there").rename(tmp_path / "here")
        assert (await store.read_state("agent")).agent_id == "agent"
        assert not await store.exists("other")


@contextmanager
def nobody(*folders: Path) -> Iterator[None]:
    """Go on as a user to whom the rights of files apply, for `root` may do everything."""
    if os.geteuid():
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


async def test_no_right_to_read_or_write(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("rights")
    for path in (root, *list(root.parents)[:-2]):
        path.chmod(0o755)
    async with JSONStore(root / "kode") as store:
        await Author(store).create()
    for path in (root / "kode").rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    (root / "kode").chmod(0o555)
    async with JSONStore(root / "kode") as store:
        with nobody():
            # It can be read; it cannot be written to, and says so.
            assert (await store.read_state("agent")).agent_id == "agent"
            with pytest.raises(StoreError) as denied:
                await store.enqueue("agent", item("x"))
            assert denied.value.code == "permission_denied"
            with pytest.raises(StoreError) as denied:
                await Author(store, "other", "uid-2").create()
            assert denied.value.code == "permission_denied"
    folder_of(store).chmod(0o000)
    async with JSONStore(root / "kode") as store:
        with nobody():
            with pytest.raises(StoreError) as denied:
                await store.load("agent")
            assert denied.value.code == "permission_denied"
    for path in (root / "kode" / "agents", folder_of(store)):
        path.chmod(0o700)


FULL = """
import resource, sys
import anyio
from kode.core.errors import StoreUnavailableError
from kode.core.store.json import JSONStore
from kode.core.testing.conformance.store.author import Author, item

async def main(path):
    async with JSONStore(path) as store:
        await Author(store).create()
        unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, unlimited[1]))
        sent = 0
        try:
            while True:
                await store.enqueue("agent", item(f"{sent}"))
                sent += 1
        except StoreUnavailableError as error:
            print(error.code)
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        loaded = await store.load("agent")
        await store.enqueue("agent", item("after"))
        print(sent, len(loaded.inbox))

anyio.run(main, sys.argv[1])
"""


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_full_disk_takes_no_half_line(tmp_path: Path) -> None:
    """A write that the system ends in the middle leaves nothing, and works again once there is room."""
    done = await anyio.run_process([sys.executable, "-c", FULL, str(tmp_path / "kode")])
    code, counts = done.stdout.decode().splitlines()
    sent, found = map(int, counts.split())
    assert code == "disk_full"
    assert sent == found > 5
    async with JSONStore(tmp_path / "kode") as store:
        loaded = await store.load("agent")
        assert loaded is not None
        assert len(loaded.inbox) == sent + 1


HOLD = """
import fcntl, sys
lock = open(sys.argv[1])
fcntl.flock(lock, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


async def test_another_s_lock_is_waited_for_no_longer_than_said(store: JSONStore) -> None:
    await Author(store).create()
    await Author(store, "other", "uid-2").create()
    async with JSONStore(store.path, busy_timeout_s=0.05) as hasty:
        assert len(await hasty.list_agents()) == 2
        with subprocess.Popen(  # noqa: ASYNC220 - it is only waited for when it has been killed
            [sys.executable, "-c", HOLD, str(folder_of(store) / "lock")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as other:
            assert other.stdout is not None
            other.stdout.readline()
            with pytest.raises(StoreUnavailableError) as locked:
                await hasty.enqueue("agent", item("x"))
            assert locked.value.code == "store_locked"
            # Reads of what is known go on, and so do other agents and lists of all.
            assert await hasty.exists("agent")
            with (folder_of(store) / "journal").open("ab") as file:
                file.write(b"[1,")  # it has begun to write
            with pytest.raises(StoreUnavailableError):
                await hasty.load("agent")
            assert len(await hasty.list_agents()) == 2
            await hasty.enqueue("other", item("x"))
            other.kill()
        assert (await hasty.enqueue("agent", item("x"))).position == 1


class Waiting(Disk):
    """Takes as long to sync as the test wants."""

    def __init__(self) -> None:
        super().__init__(power=False)
        self.begun, self.go = threading.Event(), threading.Event()
        self.slow = False

    def sync(self, fd: int, path: str) -> None:
        if self.slow:
            self.begun.set()
            self.go.wait(30)


async def test_a_reader_waits_for_no_sync_and_sees_nothing_that_may_not_last(store: JSONStore) -> None:
    disk = store._disk = Waiting()
    author = Author(store)
    await author.create()
    disk.slow = True
    async with anyio.create_task_group() as tasks, JSONStore(store.path, busy_timeout_s=0.05) as other:
        tasks.start_soon(author.say, "hi")
        await anyio.to_thread.run_sync(disk.begun.wait)
        assert (await store.read_messages("agent")).items == ()
        assert await store.exists("agent")
        with pytest.raises(StoreUnavailableError):  # the line is there, and nobody may show it yet
            await other.read_messages("agent")
        disk.go.set()
    assert len((await store.read_messages("agent")).items) == 1


async def test_a_cancelled_writer_s_line_is_finished(store: JSONStore) -> None:
    disk = store._disk = Waiting()
    author = Author(store)
    await author.create()
    disk.slow = True
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(author.say, "hi")
            await anyio.to_thread.run_sync(disk.begun.wait)
            scope.cancel()
    disk.go.set()
    assert len(await store.scan("agent", Scan("message", "uid-1", limit=9))) <= 1
    assert (await store.enqueue("agent", item("x"))).position == 1  # behind it
    assert (await store.read_state("agent")).next_seq == 1


# ---- size --------------------------------------------------------------------------------------------------


async def test_large_bodies_lie_apart_and_are_held_once(store: JSONStore) -> None:
    """A message of 10 MB and a blob of 100 MB take no more memory than one copy of them while they are read."""
    author = Author(store)
    await author.create()
    text = "ü" * 5_000_000
    await author.commit(state={"next_seq": 1}, messages=[Message(0, "user", (TextBlock(text),), AT)])
    data = b"\xfe" * 100_000_000
    tracemalloc.start()
    sha = await store.put_blob("agent", data)
    _, peak = tracemalloc.get_traced_memory()
    assert peak < 20_000_000
    tracemalloc.reset_peak()
    assert await store.get_blob("agent", sha) == data
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 120_000_000
    assert (folder_of(store) / "journal").stat().st_size < 10_000
    async with JSONStore(store.path) as other:
        (found,) = (await other.read_messages("agent")).items
        assert getattr(found.blocks[0], "text", "") == text
    await store.erase("agent")
    assert not folder_of(store).exists()


async def test_bytes_per_step_do_not_grow_and_messages_are_not_in_memory(store: JSONStore) -> None:
    author = Author(store)
    await author.create()
    sizes = []
    for _ in range(3):
        before = written(store)
        await author.say(*["x" * 1_000] * 10)
        sizes.append(written(store) - before)
        for _ in range(12):
            await author.say(*["x" * 1_000] * 200)
    assert max(sizes) - min(sizes) < 200
    assert len(list(folder_of(store).glob("*.segment"))) >= 4
    folder = store._folders["agent"]
    assert folder._index is not None
    assert folder.size > 7_000
    assert sum(len(record.body) for record in folder._index.held.values()) < 5_000
    async with JSONStore(store.path) as other:
        assert len((await other.read_messages("agent", limit=10_000, max_bytes=10**9)).items) == author.state.next_seq


def written(store: JSONStore) -> int:
    return sum(path.stat().st_size for path in folder_of(store).iterdir())


async def test_memory_is_given_back(store: JSONStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known of folders is bounded; what was given back is read again."""
    monkeypatch.setattr(module, "REMEMBERED", 60)
    for n in range(12):
        author = Author(store, f"agent-{n}", f"uid-{n}")
        await author.create(wake_at=AT)
        await author.say(*["x"] * 8, wake_at=AT)
        assert store._total == sum(folder.size for folder in store._folders.values()) <= 60
    assert len(await store.list_agents()) == len(await store.due(AT + 99, 99)) == 12
    assert sum(folder._index is None for folder in store._folders.values()) > 3
    for n in range(12):
        assert len((await store.read_messages(f"agent-{n}")).items) == 8
        assert (
            await store.apply(
                f"agent-{n}", [Condition("absent", Key("run", f"uid-{n}", "1"))], [row("run", "1", f"uid-{n}")], ()
            )
            is None
        )


def test_a_version_of_its_own() -> None:
    assert lines.VERSION == 1
