"""The file methods of the local sandbox, beside the contract: what lies outside, races, and limits of the machine."""

# ruff: noqa: ASYNC240 - looks at real files, each for a moment

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kode.core.errors import SandboxError
from kode.core.sandbox import searcher
from kode.core.sandbox.base import IGNORED, MAX_READ, shown
from kode.core.sandbox.glob import compiled, glob
from kode.core.sandbox.grep import grep, lines_with
from kode.core.sandbox.jail import Jail
from kode.core.sandbox.launch import Launched
from kode.core.sandbox.local import LocalSandbox
from kode.core.testing.conformance.sandbox.case import refused


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """File methods run in worker threads: which loop waits for these makes no difference."""
    return "asyncio"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    (folder / "treasure").mkdir(parents=True)
    (folder / "treasure/gold").write_text("secret")
    (folder / "secret").write_text("secret")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
def sandbox(root: Path) -> LocalSandbox:
    return LocalSandbox(root)


def content(folder: Path) -> list[tuple[str, int, bytes]]:
    """All below a folder: names, times of change, bytes."""
    paths = sorted([folder, *folder.rglob("*")])
    return [(str(p), p.lstat().st_mtime_ns, p.read_bytes() if p.is_file() else b"") for p in paths]


@pytest.mark.parametrize("path", ["../outside/secret", "link/secret", "chain/secret", "file", "absolute/secret"])
async def test_nothing_outside_is_touched_or_named(sandbox: LocalSandbox, root: Path, outside: Path, path: str) -> None:
    (root / "a").mkdir()
    (root / "link").symlink_to("../outside")
    (root / "chain").symlink_to("a/next")
    (root / "a/next").symlink_to("../link")
    (root / "file").symlink_to(outside / "secret")
    (root / "absolute").symlink_to(outside)
    before = content(outside)
    for attempt in (
        lambda: sandbox.read(path),
        lambda: sandbox.write(path, b"owned"),
        lambda: sandbox.write(path + "/new", b"owned"),
        lambda: sandbox.mkdir(path + "/new"),
        lambda: sandbox.list_dir(path + "/.."),
        lambda: sandbox.grep("secret", path=path),
        lambda: sandbox.remove(path + "/x", recursive=True),
    ):
        with pytest.raises(SandboxError) as caught:
            await attempt()
        assert caught.value.code == "outside_root"
        assert str(outside) not in str(caught.value)
    assert content(outside) == before


# ---- races -------------------------------------------------------------------------------------------------


SWAP = """
import contextlib, os, shutil, sys
root, outside = sys.argv[1:]
real, evil, way = (os.path.join(root, name) for name in ("real", "evil", "way"))
while True:
    try:
        os.makedirs(os.path.join(real, "deep"), exist_ok=True)
        with open(os.path.join(real, "secret"), "w") as file:
            file.write("harmless")
        os.rename(real, way)
        os.rename(way, real)
        with contextlib.suppress(FileExistsError):
            os.symlink(outside, evil)
        os.rename(evil, way)
        os.rename(way, evil)
    except OSError:  # what is tried meanwhile removes things and makes others
        with contextlib.suppress(OSError):
            os.unlink(way)
        shutil.rmtree(way, ignore_errors=True)
"""


@pytest.fixture
def swapping(root: Path, outside: Path) -> Iterator[None]:
    """Something else swaps a folder for a link that leads out, as fast as it can."""
    with subprocess.Popen([sys.executable, "-I", "-c", SWAP, str(root), str(outside)]) as swapper:
        yield
        swapper.kill()


def test_a_race_does_not_lead_out(root: Path, outside: Path, swapping: None) -> None:
    jail, stop = Jail(str(root)), threading.Event()

    def search(path: str) -> bool:
        found = grep(jail, "secret", path, regex=False, case_sensitive=True, ignore=IGNORED, limit=9, stop=stop)
        return not found.matches

    def find(pattern: str, cwd: str) -> bool:
        found = glob(jail, pattern, cwd, dot=True, ignore=IGNORED, limit=None, stop=stop)
        return not any("treasure" in path for path in found.paths)

    attempts: dict[str, Callable[[], object]] = {
        "read": lambda: jail.read("way/secret") in (b"harmless", b""),
        "stat": lambda: jail.stat("way/secret").size != len("secret"),
        "list": lambda: all("treasure" not in info.path for info in jail.list_dir("way")),
        "folder": lambda: jail.folder("way/deep") == ("way", "deep"),
        "grep": lambda: search("way"),
        "grep all": lambda: search("."),
        "glob": lambda: find("**", "way"),
        "glob way": lambda: find("way/**/*", "."),
        "write": lambda: jail.write("way/secret", b"harmless") is None,
        "mkdir": lambda: jail.mkdir("way/made") is None,
        "remove": lambda: jail.remove("way/secret", False) is None,
        "remove all": lambda: jail.remove("way/treasure", True) is None,
        "remove it": lambda: jail.remove("way", True) is None,
    }
    before = content(outside)
    done: Counter[str] = Counter()
    said: dict[str, str] = {}
    # Both sides of the race are met, so it is one.
    while min(done["inside"], done["outside_root"]) < 50 or done.total() < 1_000:
        for name, attempt in attempts.items():
            try:
                assert attempt(), name
                done["inside"] += 1
            except SandboxError as error:
                done[error.code] += 1
                said[error.code] = f"{name}: {error} ({error.__cause__!r})"
    assert content(outside) == before
    expected = ("inside", "outside_root", "file_not_found", "not_a_directory", "not_empty", "bad_path", "not_a_file")
    assert {code: text for code, text in said.items() if code not in expected} == {}


def test_a_folder_that_becomes_a_link_as_it_is_removed(
    root: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "way").mkdir()
    before, rmtree = content(outside), shutil.rmtree

    def swap_first(name: str, *, dir_fd: int) -> None:
        (root / "way").rmdir()
        (root / "way").symlink_to(outside)
        rmtree(name, dir_fd=dir_fd)

    monkeypatch.setattr(shutil, "rmtree", swap_first)
    with pytest.raises(SandboxError, match="changed into a link meanwhile") as caught:
        Jail(str(root)).remove("way", True)
    assert caught.value.code == "bad_path"
    assert content(outside) == before


# ---- what is no file, what is not allowed, what does not fit -------------------------------------------------


def test_a_root_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(SandboxError):
            LocalSandbox(root)


async def test_a_root_that_went_away(sandbox: LocalSandbox, root: Path) -> None:
    root.rmdir()
    for attempt in (sandbox.read("f"), sandbox.write("f", b""), sandbox.glob("*"), sandbox.exec("true")):
        assert await refused(attempt) == "file_not_found"


async def test_sockets_and_devices_are_no_files(sandbox: LocalSandbox, root: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(root)  # the path of a socket has at most about a hundred characters
        listener.bind("socket")
        odd = ["socket"]
        with contextlib.suppress(PermissionError):  # only root may make one
            os.mknod("device", 0o600 | 0o020000, os.makedev(1, 5))  # reads as zeros without end
            odd.append("device")
        for path in odd:
            assert (await sandbox.stat(path)).kind == "other"
            assert await refused(sandbox.read(path)) == "not_a_file"
            assert await refused(sandbox.write(path, b"")) == "not_a_file"
            assert (await sandbox.grep("x", path=path)).matches == ()
        assert (await sandbox.grep("x")).matches == ()
        assert list((await sandbox.glob("*")).paths) == sorted(odd)
        await sandbox.remove("socket")


async def test_a_file_that_grows_while_it_is_read(sandbox: LocalSandbox, root: Path) -> None:
    """Its size says nothing; what counts is what comes."""
    os.symlink("/proc/self/pagemap", root / "link")  # says 0 bytes
    with (root / "sparse").open("wb") as file:
        file.truncate(MAX_READ)
    assert len(await sandbox.read("sparse")) == MAX_READ
    assert await refused(sandbox.read("link")) == "outside_root"


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder of a user to whom permissions apply; root is nobody meanwhile."""
    with tempfile.TemporaryDirectory(prefix="kode-") as name:
        folder, was = Path(name), os.geteuid()
        folder.chmod(0o777)
        if was == 0:
            os.seteuid(65_534)
        try:
            yield folder
        finally:
            os.seteuid(was)
            subprocess.run(["chmod", "-R", "u+rwx", name], check=True)


async def test_no_permission(unprivileged: Path) -> None:
    sandbox = LocalSandbox(unprivileged)
    for name in ("closed/f", "open/f", "open/g"):
        await sandbox.write(name, b"hit")
    (unprivileged / "open/f").chmod(0)
    (unprivileged / "closed").chmod(0)
    for attempt in (
        sandbox.read("closed/f"),
        sandbox.read("open/f"),
        sandbox.write("closed/new", b""),
        sandbox.list_dir("closed"),
        sandbox.mkdir("closed/d"),
        sandbox.remove("closed/f"),
        sandbox.remove("closed", recursive=True),
        sandbox.glob("*", cwd="closed"),
    ):
        assert await refused(attempt) == "no_permission"
    # What can be read is found all the same.
    assert (await sandbox.glob("**")).paths == ("open/f", "open/g")
    assert [match.path for match in (await sandbox.grep("hit")).matches] == ["open/g"]


@pytest.fixture
def small_disk(root: Path) -> Iterator[Path]:
    """A root on a disk of one megabyte; where none can be mounted, files of at most as much."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(root)], capture_output=True, check=False
    )
    if mounted.returncode == 0:
        yield root
        subprocess.run(["umount", "--lazy", str(root)], check=True)
        return
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    yield root
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, ignored)


async def test_a_full_disk_loses_nothing(small_disk: Path) -> None:
    sandbox = LocalSandbox(small_disk)
    await sandbox.write("f", b"old")
    assert await refused(sandbox.write("f", bytes(2 << 20))) == "no_space"
    assert await sandbox.read("f") == b"old"
    assert [path.name for path in small_disk.iterdir()] == ["f"]
    result = await sandbox.exec("head -c 2000000 /dev/zero > big; echo $?")
    assert result.stdout != b"0\n"
    await sandbox.remove("big")
    await sandbox.write("f", b"new")
    assert (await sandbox.exec("cat f")).stdout == b"new"


async def test_a_deep_tree_does_not_exhaust_descriptors(sandbox: LocalSandbox, root: Path) -> None:
    (root / "/".join("d" * 300)).mkdir(parents=True)
    assert (await sandbox.glob("**/x")).paths == ()
    assert (await sandbox.grep("x")).matches == ()
    await sandbox.remove("d", recursive=True)


async def test_a_path_costs_few_descriptors(sandbox: LocalSandbox, root: Path) -> None:
    """What a model writes as a path must not take every descriptor of the process."""
    for path in ("d/" * 201 + "f", "d/" * 100_000 + "f"):
        assert await refused(sandbox.write(path, b"x")) == "bad_path"
    await sandbox.write("d/" * 200 + "f", b"x")
    assert await sandbox.read("d/" * 200 + "f", offset=1 << 70) == b""
    with pytest.raises(SandboxError) as caught:
        await sandbox.read("d" * 100_000)
    assert len(caught.value.message) < 200


async def test_folders_within_folders_without_end(sandbox: LocalSandbox, root: Path) -> None:
    deep = "for _ in range(1_200):\n os.mkdir('d')\n os.chdir('d')"
    await sandbox.exec([sys.executable, "-c", f"import os\n{deep}"])
    try:
        assert await refused(sandbox.remove("d", recursive=True)) == "sandbox"
    finally:  # left behind, it would break the clean-up of a later test run
        await sandbox.exec("rm -r d")


@pytest.fixture
def few_descriptors() -> Iterator[Callable[[int], None]]:
    """Take away all descriptors but so many."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []

    def take(left: int) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, limits[0]), limits[1]))
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(left):
            os.close(taken.pop())

    yield take
    for descriptor in taken:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def test_without_descriptors_nothing_looks_empty(
    sandbox: LocalSandbox, root: Path, few_descriptors: Callable[[int], None]
) -> None:
    """ "There is nothing" and "it could not be looked" are two answers; the second is a `SandboxError`."""
    (root / "/".join("d" * 9)).mkdir(parents=True)
    (root / "/".join("d" * 9) / "f").write_text("needle")
    assert len((await sandbox.glob("**")).paths) == len((await sandbox.grep("needle")).matches) == 1
    for left in (0, 4, 8):
        few_descriptors(left)
        assert await refused(sandbox.glob("**")) == "sandbox"
        assert await refused(sandbox.grep("needle")) == "sandbox"
        assert await refused(sandbox.grep("[n]eedle", regex=True)) in ("sandbox", "not_started")
        assert left or await refused(sandbox.exec("true")) == "sandbox"
    few_descriptors(1)
    with pytest.raises(SandboxError, match="Too many open files") as caught:
        Launched(["true"], cwd="/", env={}, merge=True, feed=False)
    assert caught.value.code == "not_started"


def test_a_file_that_goes_wrong_is_not_passed_by(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "f").write_text("needle")

    def broken(_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    def broken_folder(name: str, flags: int, *mode: int, dir_fd: int | None = None) -> int:
        return broken(name) if name == "folder" else opened(name, flags, *mode, dir_fd=dir_fd)

    opened = os.open
    with monkeypatch.context() as patch:
        (root / "folder").mkdir()
        patch.setattr(os, "open", broken_folder)
        with pytest.raises(SandboxError, match="Input/output error"):
            glob(Jail(str(root)), "**", ".", dot=True, ignore=IGNORED, limit=None, stop=threading.Event())
    monkeypatch.setattr("kode.core.sandbox.grep.open_file", broken)
    with pytest.raises(SandboxError, match="Input/output error"):
        grep(
            *(Jail(str(root)), "needle", "."),
            **{"regex": False, "case_sensitive": True, "ignore": IGNORED, "limit": 9, "stop": threading.Event()},
        )


def test_a_name_that_is_taken_is_not_written_to(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed writer left stays as it is, and hinders nobody."""
    names = iter(["taken", "taken", "free"])
    monkeypatch.setattr("kode.core.sandbox.jail.secrets.token_hex", lambda _: next(names))
    (root / ".kode-tmp-taken").write_text("left over")
    Jail(str(root)).write("f", b"text")
    assert {p.name: p.read_text() for p in root.iterdir()} == {".kode-tmp-taken": "left over", "f": "text"}


def test_a_write_is_on_disk_before_it_is_seen(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, rename = os.fsync, os.rename

    def noted_sync(descriptor: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else f"{os.fstat(descriptor).st_size} bytes")
        sync(descriptor)

    def noted_rename(*names: str, **folders: int) -> None:
        done.append("rename")
        rename(*names, **folders)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "rename", noted_rename)
    Jail(str(root)).write("f", b"text")
    assert done == ["4 bytes", "rename", "folder"]


def test_many_lines_take_little_memory() -> None:
    """A list of them all takes twenty times the file."""
    content = b"ab\n" * 1_000_000 + b"needle"
    tracemalloc.start()
    try:
        (last,) = [number for number, line in searcher.lines(content) if line == "needle"]
        hits = list(lines_with(b"needle", content))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (last, hits) == (1_000_001, [(1_000_001, "needle")])
    assert peak < 30_000_000


@pytest.mark.parametrize("content", [b"", b"\n", b"a", b"a\n", b"a\r\nb", b"\n\n", b"x" * 9 + b"\n\ny\xff\nz"])
@pytest.mark.parametrize("block", [1, 2, 5, 99])
def test_lines_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch, content: bytes, block: int) -> None:
    monkeypatch.setattr(searcher, "BLOCK", block)
    whole = [line.rstrip("\r") for line in content.decode("utf-8", "replace").split("\n")]
    assert list(searcher.lines(content)) == list(enumerate(whole, 1))
    for wanted in (b"a", b"y", b"\n", b"\nb"):
        holding = [(n, raw) for n, raw in enumerate(content.split(b"\n"), 1) if wanted in raw]
        assert [n for n, line in lines_with(wanted, content) if wanted.decode() in line] == [n for n, _ in holding]


async def test_a_search_has_a_limit_of_memory(sandbox: LocalSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    await sandbox.write("a.txt", b"a" * 20_000_000)
    assert len((await sandbox.grep("^a", regex=True)).matches) == 1
    monkeypatch.setattr(searcher, "MEMORY", 40 << 20)
    assert await refused(sandbox.grep("^a", regex=True)) == "search_too_slow"


def test_names_are_shown_as_text() -> None:
    assert shown("\udcff\udc80x") == "\ufffd\ufffdx"


def test_a_pattern_is_positions_not_paths() -> None:
    assert compiled("**/" * 50 + "x").start  # no explosion


async def test_an_endless_expression_is_stopped(sandbox: LocalSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    await sandbox.write("a.txt", b"a" * 40 + b"\n")
    monkeypatch.setattr(searcher, "CPU_SECONDS", 1)
    assert await refused(sandbox.grep("(a|a)*b", regex=True)) == "search_too_slow"
