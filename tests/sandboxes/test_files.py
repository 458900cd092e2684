"""The file methods of the local sandbox.

Nothing leads out of the root, odd names work, searches are bounded.
"""

# ruff: noqa: ASYNC240 - waits for real processes and files, each for a moment

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import anyio
import pytest

from kode.core.errors import SandboxError
from kode.core.sandbox import searcher
from kode.core.sandbox.base import shown
from kode.core.sandbox.local import LocalSandbox
from kode.core.sandbox.search import compiled


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
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


def code_of(caught: pytest.ExceptionInfo[SandboxError]) -> str:
    return caught.value.code


# ---- the jail ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "../outside/secret",
        "a/../../outside/secret",
        "/etc/passwd",
        "link/secret",
        "chain/secret",
        "file",
        "absolute",
        "loop/../../outside/secret",
        "inside/../../outside/secret",
        "//etc/passwd",
    ],
)
async def test_nothing_leads_out(sandbox: LocalSandbox, root: Path, outside: Path, path: str) -> None:
    (root / "a").mkdir()
    (root / "link").symlink_to("../outside")
    (root / "chain").symlink_to("a/next")
    (root / "a/next").symlink_to("../link")
    (root / "file").symlink_to(outside / "secret")
    (root / "absolute").symlink_to("/etc/passwd")
    (root / "loop").symlink_to("a")
    (root / "inside").symlink_to(root / "a")
    before = sorted(outside.iterdir())
    for attempt in (
        lambda: sandbox.read(path),
        lambda: sandbox.stat(path),
        lambda: sandbox.write(path, b"owned"),
        lambda: sandbox.write(path + "/new", b"owned"),
        lambda: sandbox.mkdir(path + "/new"),
        lambda: sandbox.list_dir(path + "/.."),
        lambda: sandbox.grep("secret", path=path),
        lambda: sandbox.glob("*", cwd=path),
        lambda: sandbox.remove(path + "/x", recursive=True),
    ):
        with pytest.raises(SandboxError) as caught:
            await attempt()
        assert code_of(caught) == "outside_root"
        assert str(outside) not in str(caught.value)
    assert sorted(outside.iterdir()) == before
    assert (outside / "secret").read_text() == "secret"


async def test_links_that_stay_inside_are_followed(sandbox: LocalSandbox, root: Path) -> None:
    await sandbox.write("a/b/file", b"1")
    (root / "relative").symlink_to("a/b")
    (root / "a/up").symlink_to("../relative/../b/./file")
    (root / "absolute").symlink_to(root / "a")
    (root / "dangling").symlink_to("a/new")
    assert await sandbox.read("relative/file") == b"1"
    assert await sandbox.read("a/up") == b"1"
    assert await sandbox.read("absolute/b/file") == b"1"
    assert await sandbox.read(f"{root}/a/b/file") == b"1"
    await sandbox.write("dangling", b"2")
    assert (root / "a/new").read_bytes() == b"2"
    assert (root / "dangling").is_symlink()
    await sandbox.write("a/up", b"3")
    assert (root / "a/b/file").read_bytes() == b"3"
    assert (await sandbox.stat("relative/file")).path == "a/b/file"


async def test_links_in_a_circle_end(sandbox: LocalSandbox, root: Path) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    with pytest.raises(SandboxError) as caught:
        await sandbox.read("a/x")
    assert code_of(caught) == "bad_path"


async def test_removing_a_link_leaves_its_target(sandbox: LocalSandbox, root: Path, outside: Path) -> None:
    (root / "link").symlink_to(outside)
    (root / "tree/deep").mkdir(parents=True)
    (root / "tree/deep/link").symlink_to(outside)
    await sandbox.remove("link", recursive=True)
    await sandbox.remove("tree", recursive=True)
    assert list(root.iterdir()) == []
    assert (outside / "secret").exists()
    for path in (".", "", ".."):
        with pytest.raises(SandboxError):
            await sandbox.remove(path, recursive=True)


@pytest.fixture
def swapping(root: Path, outside: Path) -> Iterator[None]:
    """Something else swaps a folder for a link that leads out, as fast as it can."""
    (root / "real").mkdir()
    (root / "real/secret").write_text("harmless")
    (root / "evil").symlink_to(outside)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for source, target in (("real", "way"), ("way", "real"), ("evil", "way"), ("way", "evil")):
                try:
                    os.rename(root / source, root / target)
                except OSError:  # a write made the folder anew while it was away
                    shutil.rmtree(root / "way", ignore_errors=True)

    thread = threading.Thread(target=swap)
    thread.start()
    yield
    stop.set()
    thread.join()


async def test_a_race_does_not_lead_out(sandbox: LocalSandbox, outside: Path, swapping: None) -> None:
    done: Counter[str] = Counter()
    with anyio.fail_after(10):
        while min(done["read"], done["written"], done["outside_root"]) < 20:
            for name, attempt in (
                ("read", partial(sandbox.read, "way/secret")),
                ("written", partial(sandbox.write, "way/secret", b"harmless")),
            ):
                try:
                    assert await attempt() in (b"harmless", None)
                    done[name] += 1
                except SandboxError as error:
                    done[error.code] += 1
            assert (await sandbox.grep("secret")).matches == ()
    assert set(done) <= {"read", "written", "outside_root", "file_not_found", "not_a_directory", "bad_path"}
    assert (outside / "secret").read_text() == "secret"
    assert [path.name for path in outside.iterdir()] == ["secret"]


# ---- files -------------------------------------------------------------------------------------------------


async def test_odd_names(sandbox: LocalSandbox) -> None:
    names = ["a\nb", "..foo", "...", " ", "-rf", "\udcff\udc80", "é", "*", "x" * 255, "~", "$HOME"]
    if sys.platform == "darwin":
        names.remove("\udcff\udc80")  # its file system takes UTF-8 only
    for name in names:
        await sandbox.write(f"d/{name}", name.encode("utf-8", "surrogateescape"))
        assert await sandbox.read(f"d/{name}") == name.encode("utf-8", "surrogateescape")
    assert {info.path for info in await sandbox.list_dir("d")} == {f"d/{name}" for name in names}
    found = await sandbox.glob("**", dot=True)
    assert set(found.paths) == {f"d/{name}" for name in names}
    assert shown("\udcff\udc80x") == "\ufffd\ufffdx"
    for bad in ("", "a\0b", "x" * 256, "\ud800"):
        with pytest.raises(SandboxError) as caught:
            await sandbox.write(bad, b"")
        assert code_of(caught) == "bad_path"


async def test_a_write_is_whole_or_not_at_all(sandbox: LocalSandbox, root: Path) -> None:
    await sandbox.write("f", b"old")
    (root / "f").chmod(0o750)
    await sandbox.write("f", b"new")
    assert (root / "f").stat().st_mode & 0o777 == 0o750
    reader = os.open(root / "f", os.O_RDONLY)
    await sandbox.write("f", b"newer")
    assert os.read(reader, 100) == b"new"  # who had it open sees what was
    os.close(reader)
    assert [path.name for path in root.iterdir()] == ["f"]


async def test_what_is_no_regular_file_is_refused(sandbox: LocalSandbox, root: Path) -> None:
    os.mkfifo(root / "pipe")
    (root / "d").mkdir()
    for path in ("pipe", "d", "."):
        with pytest.raises(SandboxError) as caught:
            await sandbox.read(path)
        assert code_of(caught) == "not_a_file"
        with pytest.raises(SandboxError) as caught:
            await sandbox.write(path, b"")
        assert code_of(caught) == "not_a_file"
    assert (await sandbox.grep("x")).skipped == 1


async def test_errors_have_codes(sandbox: LocalSandbox) -> None:
    await sandbox.write("f", b"12345")
    await sandbox.mkdir("d/e")
    await sandbox.mkdir("d/e")
    for attempt, code in (
        (sandbox.read("none"), "file_not_found"),
        (sandbox.stat("none/x"), "file_not_found"),
        (sandbox.read("f/x"), "not_a_directory"),
        (sandbox.write("f/x", b""), "not_a_directory"),
        (sandbox.list_dir("f"), "not_a_directory"),
        (sandbox.mkdir("f"), "not_a_directory"),
        (sandbox.remove("d"), "not_empty"),
        (sandbox.remove("none"), "file_not_found"),
        (sandbox.glob("*", cwd="f"), "not_a_directory"),
    ):
        with pytest.raises(SandboxError) as caught:
            await attempt
        assert code_of(caught) == code
    assert await sandbox.read("f", offset=1, size=3) == b"234"
    assert await sandbox.read("f", offset=9, size=3) == b""
    assert (await sandbox.stat("f")).size == 5
    assert (await sandbox.stat(".")).kind == "directory"


def test_a_root_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(SandboxError):
            LocalSandbox(root)


# ---- glob --------------------------------------------------------------------------------------------------

TREE = [
    ".env",
    ".git/config",
    ".hidden/a.py",
    "README.md",
    "a.py",
    "node_modules/x/a.py",
    "src/[x].py",
    "src/a.py",
    "src/b.txt",
    "src/deep/er/a.py",
    "src/deep/test_a.py",
]


@pytest.fixture
def tree(root: Path) -> None:
    for path in TREE:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(f"in {path}\n")


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*", ["README.md", "a.py"]),
        ("*.py", ["a.py"]),
        ("**/*.py", ["a.py", "src/[x].py", "src/a.py", "src/deep/er/a.py", "src/deep/test_a.py"]),
        ("**/a.py", ["a.py", "src/a.py", "src/deep/er/a.py"]),
        ("src/**", ["src/[x].py", "src/a.py", "src/b.txt", "src/deep/er/a.py", "src/deep/test_a.py"]),
        ("src/**/er/*", ["src/deep/er/a.py"]),
        ("src/*.{py,txt}", ["src/[x].py", "src/a.py", "src/b.txt"]),
        ("{src/{a,b}.*,*.md}", ["README.md", "src/a.py", "src/b.txt"]),
        ("src/?.py", ["src/a.py"]),
        ("src/[!b].*", ["src/a.py"]),
        ("src/[[]x].py", ["src/[x].py"]),
        ("node_modules/**/*.py", ["node_modules/x/a.py"]),
        (".hidden/*", [".hidden/a.py"]),
        (".*", [".env"]),
        (".git/*", [".git/config"]),
        ("none/**", []),
        ("./src//a.py", ["src/a.py"]),
        ("{a}.py", []),
    ],
)
async def test_glob(sandbox: LocalSandbox, tree: None, pattern: str, found: list[str]) -> None:
    assert list((await sandbox.glob(pattern)).paths) == found


async def test_glob_options(sandbox: LocalSandbox, tree: None, root: Path) -> None:
    assert ".hidden/a.py" in (await sandbox.glob("**/a.py", dot=True)).paths
    assert ".git/config" not in (await sandbox.glob("**", dot=True)).paths
    assert set((await sandbox.glob("**", dot=True, ignore=frozenset())).paths) == set(TREE)
    assert (await sandbox.glob("*.py", cwd="src/deep/er")).paths == ("src/deep/er/a.py",)
    some = await sandbox.glob("**/*.py", limit=2)
    assert (some.paths, some.truncated) == (("a.py", "src/[x].py"), True)
    assert not (await sandbox.glob("**/*.py", limit=5)).truncated
    (root / "src/around").symlink_to("..")
    assert all("around/" not in path for path in (await sandbox.glob("**/*.py")).paths)
    for bad in ("../*", "/etc/*", "a/../../b", "{a,b}" * 10):
        with pytest.raises(SandboxError) as caught:
            await sandbox.glob(bad)
        assert code_of(caught) == "bad_pattern"


async def test_a_glob_of_many_stars_is_fast(sandbox: LocalSandbox, root: Path) -> None:
    (root / ("a" * 200)).write_text("")
    assert (await sandbox.glob("*a" * 50 + "*b")).paths == ()
    assert compiled("**/" * 50 + "x").start  # positions, not paths: no explosion


async def test_a_deep_tree_does_not_exhaust_descriptors(sandbox: LocalSandbox, root: Path) -> None:
    (root / "/".join("d" * 300)).mkdir(parents=True)
    assert (await sandbox.glob("**/x")).paths == ()
    await sandbox.remove("d", recursive=True)


# ---- grep --------------------------------------------------------------------------------------------------


async def test_grep_plain_takes_the_first_hit_of_a_line(sandbox: LocalSandbox) -> None:
    await sandbox.write("a.txt", "eins a.c a.c\r\nabc\n\nünd a.c".encode())
    found = await sandbox.grep("a.c")
    assert [(m.path, m.line, m.column, m.preview) for m in found.matches] == [
        ("a.txt", 1, 6, "eins a.c a.c"),
        ("a.txt", 4, 5, "ünd a.c"),
    ]
    assert (found.files, found.skipped, found.truncated) == (1, 0, False)
    assert (await sandbox.grep("A.C")).matches == ()
    assert len((await sandbox.grep("A.C", case_sensitive=False)).matches) == 2
    assert len((await sandbox.grep("ÜND", case_sensitive=False, path="a.txt")).matches) == 1


async def test_grep_regex_takes_every_hit_and_an_empty_one_once(sandbox: LocalSandbox) -> None:
    await sandbox.write("a.txt", b"abc abd\nxx\n")
    found = await sandbox.grep("ab.", regex=True)
    assert [(m.line, m.column) for m in found.matches] == [(1, 1), (1, 5)]
    assert [(m.line, m.column) for m in (await sandbox.grep("q*", regex=True)).matches] == [
        (1, 1),
        (2, 1),
        (3, 1),
    ]
    assert len((await sandbox.grep("AB", regex=True, case_sensitive=False)).matches) == 2


async def test_grep_paths_limits_and_what_is_skipped(sandbox: LocalSandbox, tree: None, root: Path) -> None:
    await sandbox.write("binary", b"in \0")
    assert {m.path for m in (await sandbox.grep("in ", path="src/**/*.py")).matches} == {
        "src/[x].py",
        "src/a.py",
        "src/deep/er/a.py",
        "src/deep/test_a.py",
    }
    assert [m.path for m in (await sandbox.grep("in ", path="src/[x].py")).matches] == ["src/[x].py"]
    assert {m.path for m in (await sandbox.grep("in ", path="src/deep")).matches} == {
        "src/deep/er/a.py",
        "src/deep/test_a.py",
    }
    every = await sandbox.grep("in ")
    assert ".hidden/a.py" in {m.path for m in every.matches}
    assert not any(m.path.startswith(("node_modules", ".git")) for m in every.matches)
    assert every.skipped == 1
    for regex in (False, True):
        some = await sandbox.grep("in ", limit=2, regex=regex)
        assert [m.path for m in some.matches] == [m.path for m in every.matches[:2]]
        assert some.truncated
        assert not (await sandbox.grep("in ", limit=len(every.matches), regex=regex)).truncated
    with pytest.raises(SandboxError) as caught:
        await sandbox.grep("x", path="none")
    assert code_of(caught) == "file_not_found"


async def test_a_preview_is_cut_around_the_hit(sandbox: LocalSandbox) -> None:
    await sandbox.write("long", b"a" * 10_000 + b"HIT" + b"b" * 10_000)
    for regex in (False, True):
        (match,) = (await sandbox.grep("HIT", regex=regex)).matches
        assert (match.line, match.column, len(match.preview)) == (1, 10_001, 200)
        assert "HIT" in match.preview


async def test_bad_and_endless_expressions(sandbox: LocalSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    await sandbox.write("a.txt", b"a" * 40 + b"\n")
    for bad in ("(", "[z-a]", "a{99999999999}", ""):
        with pytest.raises(SandboxError) as caught:
            await sandbox.grep(bad, regex=True)
        assert code_of(caught) == "bad_pattern"
    monkeypatch.setattr(searcher, "CPU_SECONDS", 1)
    with pytest.raises(SandboxError) as caught:
        await sandbox.grep("(a|a)*b", regex=True)
    assert code_of(caught) == "search_too_slow"
