"""A folder of `JSONStore` stopped, robbed of power, damaged and refused at every step: nothing acknowledged is lost."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from kode.core.errors import RecordCorruptError, SchemaTooNewError, StoreError, StoreUnavailableError
from kode.core.store import Key, Record
from kode.core.store.contract import Scan
from kode.core.store.json import acts, folder, journal, lines
from kode.core.store.json.disk import Disk
from kode.core.store.json.folder import Folder
from kode.core.store.json.lock import Lock
from kode.core.store.records import COLUMNS, int_key
from kode.core.testing.conformance.store.records import head, row

A: Final = "agent"
Step = Callable[[Folder], Any]
Content = dict[Key, Record]


class Dead(Exception):  # noqa: N818 - the end of a process
    """The process ends here."""


class StoppingDisk(Disk):
    """Ends the process at one step, before it; what its own clean-up would do then does not happen either."""

    def __init__(self, at: int | None = None) -> None:
        super().__init__(power=False)  # the steps are what counts
        self.steps: list[str] = []
        self.at = at
        self.on = True

    def step(self, what: str, path: str) -> None:
        if not self.on:
            return
        if len(self.steps) == self.at:
            raise Dead
        self.steps.append(f"{what} {Path(path).name}")


class PowerDisk(StoppingDisk):
    """Knows what is on the disk for certain: contents that were synced, and names in folders that were."""

    def __init__(self, at: int | None = None) -> None:
        super().__init__(at)
        self._contents: dict[int, bytes] = {}
        self._names: dict[str, dict[str, int]] = {}

    def sync(self, fd: int, path: str) -> None:
        self.step("sync", path)
        self._contents[os.fstat(fd).st_ino] = Path(path).read_bytes()

    def sync_folder(self, path: str) -> None:
        self.step("sync_folder", path)
        self._names[path] = {entry.name: entry.inode() for entry in os.scandir(path)}

    def lose_power(self, root: str) -> None:
        """Leave on disk what is there for certain."""
        for entry in list(os.scandir(root)):
            if self._names.get(root, {}).get(entry.name) != entry.inode():
                os.rename(entry.path, f"{root}-lost-{entry.inode()}")
            elif entry.is_dir():
                self._restore(entry.path)

    def _restore(self, path: str) -> None:
        names = self._names.get(path, {})
        for entry in list(os.scandir(path)):
            os.unlink(entry.path)
        for name, inode in names.items():
            Path(path, name).write_bytes(self._contents.get(inode, b""))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Journals are closed soon, and bodies lie apart early."""
    monkeypatch.setattr(folder, "is_long", lambda index: index.end > index.begun + 900)
    monkeypatch.setattr(lines, "LARGE", 60)
    monkeypatch.setattr(journal, "PORTION", 500)
    monkeypatch.setattr(journal, "GONE", 3)


def at(root: Path, disk: Disk | None = None) -> Folder:
    """Open a folder as a process of its own would."""
    (root / "agents").mkdir(exist_ok=True)
    place, trash = root / "agents" / A, root / "trash"
    return Folder(str(place), str(trash), disk or Disk(power=False), busy_timeout_s=1.0)


def apply(*puts: Record, deletes: Sequence[Key] = ()) -> Step:
    return lambda place: place.write(lambda view: acts.apply(view, (), puts, deletes))


def message(n: int, size: int = 10, uid: str = "u") -> Record:
    return row("message", int_key(n), uid, b'1{"text":"%b"}' % (b"x" * size), seq=None, size=size)


def send(id: str) -> Step:
    item = row("inbox", "", "", b'1{"x":1}', id=id, kind="message", size=1, at=1, priority=0)
    return lambda place: place.write(lambda view: acts.append(view, A, item, 5, False))


def story() -> list[Step]:
    """Writes of all kinds, through several journals, to the removal of everything."""
    steps: list[Step] = [apply(head(A, version=1))]
    for n in range(1, 13):
        steps.append(apply(head(A, version=n + 1), message(n), message(n + 100, 20, "old"), row("call", int_key(n))))
        if n % 3 == 0:
            steps.append(send(f"item-{n}"))
            steps.append(apply(row("blob", f"b{n}", "u", bytes(range(256)) * 5), message(200 + n, 300)))
        if n % 4 == 0:
            steps.append(apply(row("lease", "", holder="h", fence=n), deletes=[Key("message", "u", int_key(n - 1))]))
            steps.append(apply(row("call", int_key(n - 2), status="COMPLETED"), row("blob", "b3", "u", b"\xff" * 999)))
    steps.append(lambda place: place.purge("old"))
    steps.append(apply(row("staged", "u", "", at=1), deletes=[Key("header", "", A)]))
    steps.append(lambda place: place.purge("u"))
    steps.append(apply(deletes=[Key("staged", "", "u")]))
    return steps


def content(place: Folder) -> Content:
    """Read everything."""

    def work(view: Any) -> Content:
        found = {}
        for kind in COLUMNS:
            for uid in ("", "u", "old"):
                rows = view.scan(Scan(kind, uid, limit=10_000))
                lease = view.get([Key("lease", uid, "")]) if kind == "lease" else []
                found |= {r.address: r for r in [*rows, *lease] if r is not None}
        return found

    return place.read(work)


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> list[Content]:
    """What is there after none, one, two… of the story's writes; told by a folder that nothing happens to."""
    place = at(tmp_path_factory.mktemp("told"))
    found = [content(place)]
    for write in story():
        write(place)
        found.append(content(place))
    assert [len(found[0]), len(found[1]), len(found[-1])] == [0, 1, 0]
    assert len(found[-5]) > 30
    return found


def tell(place: Folder, disk: StoppingDisk) -> int:
    """Write the story until the process ends; says how many writes were acknowledged."""
    done = 0
    for write in story():
        try:
            write(place)
        except Dead:
            return done
        done += 1
    return done


def points(tmp_path: Path) -> list[str]:
    disk = StoppingDisk()
    tell(at(tmp_path, disk), disk)
    return disk.steps


def test_the_story_has_steps_of_all_kinds(tmp_path: Path) -> None:
    steps = points(tmp_path)
    assert {step.split()[0] for step in steps} >= {
        *("mkdir", "create", "write", "sync", "sync_folder", "rename", "link", "remove", "rmdir")
    }
    assert sum(step == "rename journal" for step in steps) > 6
    assert not list((tmp_path / "agents").iterdir())
    assert not list((tmp_path / "trash").iterdir())


@pytest.mark.parametrize("kind", [StoppingDisk, PowerDisk])
def test_stopped_at_every_step(tmp_path: Path, states: list[Content], kind: type[StoppingDisk]) -> None:
    """A process that ends anywhere, with the power or without it, leaves what it acknowledged and at most one more."""
    stride = 2 if kind is PowerDisk else 7  # who survives a loss of power survives the end of a process
    (tmp_path / "count").mkdir()
    for n in range(0, len(points(tmp_path / "count")), stride):
        root = tmp_path / str(n)
        root.mkdir()
        disk = kind(n)
        done = tell(at(root, disk), disk)
        if isinstance(disk, PowerDisk):
            disk.lose_power(str(root / "agents"))
        place = at(root)
        found = content(place)
        assert found in (states[done], states[done + 1]), f"stopped at {n}, before {done}: {disk.steps[-1:]}"
        for write in story()[done + (found != states[done]) :]:
            write(place)
        assert content(at(root)) == {}, n
        assert done == len(story()) - 1 or not list((root / "agents").iterdir()), n


def test_what_was_shown_lasts(tmp_path: Path) -> None:
    """A line whose writer was killed before its sync is made to last by who reads it, before it is shown."""
    disk = PowerDisk()
    apply(head(A))(at(tmp_path, disk))
    disk.at = len(disk.steps) + 3  # behind the write, before the sync
    with pytest.raises(Dead):
        apply(message(1))(at(tmp_path, disk))
    assert disk.steps[-1] == "write journal"
    disk.at = None
    reader = at(tmp_path, disk)
    assert len(reader.summary().headers) == 1
    assert disk.steps[-2:] == ["sync journal", "sync_folder agent"]
    shown = content(reader)
    assert len(shown) == 2
    count = len(disk.steps)
    assert content(reader) == shown
    assert len(disk.steps) == count, "once is enough"
    disk.lose_power(str(tmp_path / "agents"))
    assert content(at(tmp_path)) == shown


def test_a_list_syncs_only_what_may_not_be_on_the_disk_yet(tmp_path: Path) -> None:
    apply(head(A))(at(tmp_path))
    disk = StoppingDisk()
    reader = at(tmp_path, disk)
    os.utime(journal_of(tmp_path), (1, 1))
    assert len(reader.summary().headers) == 1
    assert disk.steps == []
    apply(message(1))(at(tmp_path))
    for _ in range(2):
        assert len(reader.summary().headers) == 1
        assert disk.steps == ["sync journal", "sync_folder agent"]
    os.utime(journal_of(tmp_path), (2, 2))
    content(reader)
    assert len(disk.steps) == 4, "who reads an agent is never shown what may not last"


class RefusingDisk(StoppingDisk):
    """Fails at one step, once."""

    def __init__(self, at: int, error: int) -> None:
        super().__init__(at)
        self.error = error
        self.refused = False

    def step(self, what: str, path: str) -> None:
        if len(self.steps) == self.at and not self.refused:
            self.refused = True
            raise OSError(self.error, os.strerror(self.error), path)
        self.steps.append(f"{what} {Path(path).name}")


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_refused_at_every_step(tmp_path: Path, states: list[Content], error: int) -> None:
    """Where a step fails the write says so and may be repeated, or it stands; nothing acknowledged is lost."""
    told = 0
    (tmp_path / "count").mkdir()
    for n in range(error % 5, len(points(tmp_path / "count")), 5):
        root = tmp_path / str(n)
        root.mkdir()
        place = at(root, RefusingDisk(n, error))
        for done, write in enumerate(story()):
            refused = raised(write, place)
            if refused is not None:
                told += 1
                assert isinstance(refused, StoreUnavailableError)
                assert refused.code == ("disk_full" if error == errno.ENOSPC else "io_error")
                found = content(place)
                assert found in (states[done], states[done + 1]), f"failed at {n}: {place._disk.steps[-1:]}"  # type: ignore[attr-defined]
                assert content(at(root)) == found
                if found == states[done]:
                    write(place)
            assert content(place) == states[done + 1], n
        assert content(at(root)) == {}
    assert told > 12


def raised(use: Callable[[Folder], Any], place: Folder) -> StoreError | None:
    try:
        use(place)
    except StoreError as error:
        return error
    return None


def test_after_a_failed_sync_the_line_is_gone_for_all(tmp_path: Path) -> None:
    """What may not last is taken off again, so that no other process builds on it."""

    class Unsynced(StoppingDisk):
        def sync(self, fd: int, path: str) -> None:
            if self.on and len(self.steps) > 3:
                self.on = False
                raise OSError(errno.EIO, "lost")

    apply(head(A))(at(tmp_path))
    disk = Unsynced()
    disk.steps = ["x"] * 9
    disk.on = False
    place = at(tmp_path, disk)
    content(place)
    disk.on = True
    with pytest.raises(StoreUnavailableError) as lost:
        apply(message(1))(place)
    assert lost.value.code == "io_error"
    assert len(content(at(tmp_path))) == len(content(place)) == 1
    apply(message(2))(place)
    assert len(content(at(tmp_path))) == 2


# ---- the journal's end -------------------------------------------------------------------------------------


def journal_of(root: Path) -> Path:
    return root / "agents" / A / "journal"


@pytest.fixture
def said(tmp_path: Path) -> tuple[Path, bytes, int, list[Content]]:
    """A journal of three lines; where the last one begins; what is there without it and with it."""
    place = at(tmp_path)
    apply(head(A))(place)
    apply(message(1))(place)
    before = content(place)
    begins = journal_of(tmp_path).stat().st_size
    apply(message(2, 15), head(A, version=2))(place)
    return tmp_path, journal_of(tmp_path).read_bytes(), begins, [before, content(place)]


def test_cut_at_every_byte_of_the_last_line(said: Any) -> None:
    """A torn last line was never acknowledged: it does not count, and the next write takes its place."""
    root, data, begins, (before, after) = said
    for size in range(begins, len(data) + 1):
        journal_of(root).write_bytes(data[:size])
        place = at(root)
        assert content(place) == (after if size == len(data) else before)
        if size % 7 == 0:
            assert journal_of(root).read_bytes() == data[:size], "who only reads changes nothing"
            send(f"{size}")(place)
            assert len(content(at(root))) == len(before) + 1


def test_a_hole_at_the_end_was_never_written(said: Any) -> None:
    """After a loss of power a file may be longer than what was written: NULs are a torn line too."""
    root, data, begins, (before, _) = said
    for torn in (
        b"\0" * 4_096,
        b"[1,\0" + b"x" * 4_096 + b"\n",
        data[begins : begins + 40] + b"\0" * 20 + b"\n",
        data[begins:-2] + b"\0\n",
    ):
        journal_of(root).write_bytes(data[:begins] + torn)
        assert content(at(root)) == before
        apply(message(9))(at(root))
        assert len(content(at(root))) == len(before) + 1


def test_a_flipped_bit_anywhere_is_found_and_nothing_is_changed(said: Any) -> None:
    """Damage to what was acknowledged is named, to who reads and to who writes, and the file stays as it is."""
    root, data, _, _ = said
    for n in range(len(data) - 1):
        bad = data[:n] + bytes([data[n] ^ 4]) + data[n + 1 :]
        journal_of(root).write_bytes(bad)
        for use in (content, send("x")):
            with pytest.raises((RecordCorruptError, SchemaTooNewError)) as found:
                use(at(root))
        assert "journal" in str(found.value)
        assert journal_of(root).read_bytes() == bad


def test_a_line_of_a_later_version_is_left_alone(said: Any) -> None:
    root, data, begins, _ = said
    for later in (b'[2,17,{"new":true}]\n', b'[2,17,{"ne'):
        journal_of(root).write_bytes(data[:begins] + later)
        for use in (content, send("x")):
            with pytest.raises(SchemaTooNewError) as found:
                use(at(root))
        assert found.value.fields["found"] == 2
        assert journal_of(root).read_bytes() == data[:begins] + later


# ---- the other files ---------------------------------------------------------------------------------------


@pytest.fixture
def grown(tmp_path: Path) -> tuple[Path, Content]:
    """A folder with segments, lists and bodies apart."""
    place = at(tmp_path)
    for write in story()[:-4]:
        write(place)
    names = {path.suffix for path in (tmp_path / "agents" / A).iterdir()}
    assert names == {"", ".segment", ".index", ".body"}
    return tmp_path, content(place)


def test_damage_and_loss_of_any_file_is_found(grown: tuple[Path, Content]) -> None:
    """Whatever file is damaged or missing: what is read is right, or an error says which file it is."""
    root, whole = grown
    for path in sorted((root / "agents" / A).iterdir()):
        data = path.read_bytes()
        if path.name == "lock":
            continue
        for bad in (None, b"", data[: len(data) // 2], *(flipped(data, n) for n in range(0, len(data), 97))):
            path.unlink(missing_ok=True)
            if bad is not None:
                path.write_bytes(bad)
            error = raised(content, at(root))
            if error is None:
                assert content(at(root)) == whole, (path.name, bad)
                assert bad is not None
                assert len(bad) == len(data), "a bit that no record needs any more"
            else:
                assert isinstance(error, RecordCorruptError | SchemaTooNewError), error
                assert path.name in str(error) or path.name == "journal", error
            assert (path.read_bytes() if path.exists() else None) == bad
        path.write_bytes(data)
    assert content(at(root)) == whole


def flipped(data: bytes, n: int) -> bytes:
    return data[:n] + bytes([data[n] ^ 1]) + data[n + 1 :]


def test_what_nothing_names_goes_with_the_next_journal_and_what_is_not_ours_stays(grown: tuple[Path, Content]) -> None:
    root, whole = grown
    place = root / "agents" / A
    for name in ("99.segment", "99.100.index", "1.2.3.body", "journal.new", "notes.txt"):
        (place / name).write_text("left")
    for n in range(300, 330):
        apply(message(n))(at(root))
    assert [path.name for path in place.iterdir() if path.read_bytes() == b"left"] == ["notes.txt"]
    assert len(content(at(root))) == len(whole) + 30


def test_a_reader_survives_every_roll_of_another(tmp_path: Path) -> None:
    """Who read long ago and has an old picture finds all records where they are now."""
    writer, reader = at(tmp_path), at(tmp_path)
    for n, write in enumerate(story()[:-4]):
        write(writer)
        if n % 5 == 0:
            assert content(reader) == content(writer)
    old = at(tmp_path)
    expected = content(old)
    # Nothing tells it of these: it is asked in the middle, with the picture it has.
    with old._mutex, old._view(old._fresh()) as view:
        writer.purge("old")
        rows = view.scan(Scan("message", "u", limit=999))
    assert [r.key for r in rows] == [key.key for key in expected if key.kind == "message" and key.uid == "u"]


def test_a_reader_with_an_old_picture_finds_the_journal_renamed(tmp_path: Path) -> None:
    writer, reader = at(tmp_path), at(tmp_path)
    apply(head(A), message(1), message(2))(writer)
    with reader._mutex, reader._view(reader._fresh()) as view:
        begun = journal_of(tmp_path).stat().st_ino
        for n in range(3, 30):
            apply(message(n))(writer)
        assert journal_of(tmp_path).stat().st_ino != begun
        assert len(view.scan(Scan("message", "u", limit=2))) == 2


@pytest.mark.parametrize("removed", [2, 6])
def test_what_is_gone_stays_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removed: int) -> None:
    """Lists of segments name records that were removed later: a journal says which, or the lists are written anew."""
    monkeypatch.setattr(journal, "LIVE", 1_000)
    place = at(tmp_path)
    for n in range(1, 60):
        apply(head(A), message(n, 30))(place)
        if n in range(20, 20 + removed):
            apply(deletes=[Key("message", "u", int_key(n - 18))])(place)
    kept = [key.key for key in content(place) if key.kind == "message"]
    assert kept == [int_key(n) for n in range(1, 60) if n not in range(2, 2 + removed)]
    assert [key.key for key in content(at(tmp_path)) if key.kind == "message"] == kept
    folder = tmp_path / "agents" / A
    assert (folder / "1.segment").exists()
    assert (folder / "1.2.index").exists() == (removed <= journal.GONE), "the list is the first one, or another"
    assert len(list(folder.glob("1.*.index"))) == 1


def test_the_lock_of_a_folder_that_was_removed_is_worth_nothing(tmp_path: Path) -> None:
    """Who waited for it must not write beside those who lock the folder that is there now."""

    class Late(Disk):
        def try_lock(self, fd: int, *, shared: bool) -> bool:
            if not (tmp_path / "away").exists():
                (tmp_path / "agents" / A).rename(tmp_path / "away")
                (tmp_path / "agents" / A).mkdir()
                (tmp_path / "agents" / A / "lock").touch()
            return super().try_lock(fd, shared=shared)

    (tmp_path / "agents" / A).mkdir(parents=True)
    lock = Lock(str(tmp_path / "agents" / A), Late(power=False), 1.0)
    assert lock.take(shared=False) is None
    fd = lock.take(shared=False)
    assert fd is not None
    assert os.fstat(fd).st_ino == (tmp_path / "agents" / A / "lock").stat().st_ino
    os.close(fd)


def test_what_was_purged_is_in_no_file(tmp_path: Path) -> None:
    """`purge` leaves no byte of a uid, not of records that were replaced before either."""
    place = at(tmp_path)
    for n in range(40):
        apply(head(A), message(n % 4, 30 + n), message(n % 4, 100, "old"), row("run", f"secret-{n}", "old"))(place)
    assert any(b"secret-" in path.read_bytes() for path in (tmp_path / "agents" / A).iterdir())
    kept = {key: record for key, record in content(place).items() if key.uid != "old"}
    place.purge("old")
    assert content(place) == content(at(tmp_path)) == kept
    assert not any(b"secret-" in path.read_bytes() for path in (tmp_path / "agents" / A).iterdir())
