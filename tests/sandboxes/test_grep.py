"""Searching with the help of ripgrep finds what searching without it finds, and leaves nothing."""

# ruff: noqa: ASYNC110 - waits for real processes and files, each for a moment

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sandboxes.conftest import alive, until

from kode.core.sandbox import grep as module
from kode.core.sandbox.base import IGNORED, Matches
from kode.core.sandbox.grep import grep
from kode.core.sandbox.jail import Jail
from kode.core.sandbox.literals import required
from kode.core.sandbox.local import LocalSandbox

# ---- what must be there --------------------------------------------------------------------------------------

ATOMS = st.one_of(
    st.text("abikşſK\u212a\u0131üß. -_\ufffd", min_size=1, max_size=6).map(re.escape),
    st.sampled_from([r"\w", r"\d", ".", "[a-c]", "[^x]", r"\b", "^", "$", r"\s", "(?=a)", "(?!b)", r"\.", "\\\\"]),
)


def grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.lists(inner, min_size=2, max_size=4).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda choices: f"(?:{'|'.join(choices)})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{0,2}", "{1,3}?", "+?"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        ),
        st.tuples(st.sampled_from(["(", "(?:", "(?i:", "(?P<name>"]), inner).map(lambda pair: f"{pair[0]}{pair[1]})"),
    )


EXPRESSIONS = st.recursive(ATOMS, grown, max_leaves=8)


def as_python(expression: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\x\{([0-9a-f]+)\}", lambda code: re.escape(chr(int(code[1], 16))), expression))


@settings(max_examples=150)
@given(data=st.data(), head=st.sampled_from(["", "(?i)", "(?x)", "(?s)"]), body=EXPRESSIONS, sensitive=st.booleans())
def test_every_hit_holds_what_is_required(data: st.DataObject, head: str, body: str, sensitive: bool) -> None:
    try:
        pattern = re.compile(head + body, 0 if sensitive else re.IGNORECASE)
    except re.error:  # a name that is given twice, for one
        return
    wanted = required(head + body, regex=True, case_sensitive=sensitive)
    line = data.draw(st.from_regex(pattern)).partition("\n")[0]
    # As it is read: what is no character came out as U+FFFD, and was anything but that in the file.
    line = line.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    if wanted and pattern.search(line):
        assert any(as_python(one).search(line.replace("\ufffd", "\0")) for one in wanted), (wanted, line)


@pytest.mark.parametrize(
    ("pattern", "case_sensitive", "wanted"),
    [
        (r"def \w+\(self", True, ["\\x{28}self"]),
        (r"\bimport\b|\bexport\b", True, ["import", "export"]),
        (r"(?:foo|bar)+baz?", True, ["foo", "bar"]),
        (r"(spam){2}egg", True, ["spam"]),
        (r"(?i)skip", True, ["[sS\\x{17f}][kK\\x{212a}][iI\\x{130}\\x{131}][pP]"]),
        (r"a|word", True, []),
        (r"(?:word)*", True, []),
        (r"(?!word)\w{9}", True, []),
        (r"(?i:word)", True, []),
        (r"\d{4}-\d{2}", True, []),
        ("größe", False, ["[gG][rR]"]),
    ],
)
def test_what_is_required(pattern: str, case_sensitive: bool, wanted: list[str]) -> None:
    regex = pattern != "größe"
    assert required(pattern, regex=regex, case_sensitive=case_sensitive) == wanted


def test_no_case_of_a_letter_is_forgotten() -> None:
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    for letter in "abcdefghijklmnopqrstuvwxyz":
        (wanted,) = required(letter, regex=False, case_sensitive=False)
        assert set(re.findall(letter, every, re.IGNORECASE)) == set(as_python(wanted).findall(every))


# ---- the same with and without ---------------------------------------------------------------------------------

NAMES = st.one_of(
    st.sampled_from(["a", "b", ".git", ".env", "node_modules", "x.py", "a.b", "-", "--", "\n", "é", "[a]", "link"]),
    st.text("a\udcff\u20ac *?{!\\.", min_size=1, max_size=4).filter(lambda name: name not in (".", "..")),
)
PIECES = st.one_of(
    st.sampled_from(
        [b"needle", b"NEEDLE", b"n\xc3\xa9edle", b"\n", b"\r\n", b"\r", b"\0", b" ", b"\xff", b"\xef\xbb\xbf"]
    ),
    st.sampled_from(["skip", "\u017f\u212a\u0131p", "İ", "größe", "GRÖSSE", "\ufffd"]).map(str.encode),
    st.binary(max_size=6),
)
FILES = st.lists(
    st.tuples(st.lists(NAMES, min_size=1, max_size=4), st.lists(PIECES, max_size=8).map(b"".join)), max_size=12
)
SEARCHES = [
    ("needle", False, True),
    ("needle", False, False),
    ("skip", False, False),
    ("größe", False, False),
    ("\ufffd", False, True),
    ("e", False, True),
    (r"need\w+", True, True),
    (r"^skip$|needle\s*$", True, False),
]


def searched(root: str, path: str, pattern: str, regex: bool, sensitive: bool, limit: int) -> Matches:
    stop = module.Event()
    return grep(
        Jail(root), pattern, path, regex=regex, case_sensitive=sensitive, ignore=IGNORED, limit=limit, stop=stop
    )


@settings(max_examples=10)
@given(
    files=FILES,
    links=st.lists(st.tuples(NAMES, NAMES), max_size=3),
    path=st.sampled_from([".", ".", "a", "**/*", "a/**/*.py", "{a,b}/**", "**/node_modules/**"]),
    limit=st.sampled_from([1, 3, 1_000]),
    first=st.integers(1, 3),
    searches=st.lists(st.sampled_from(SEARCHES), min_size=2, max_size=4, unique=True),
)
def test_ripgrep_changes_nothing(
    component: Callable[[str, str], str],
    files: list[tuple[list[str], bytes]],
    links: list[tuple[str, str]],
    path: str,
    limit: int,
    first: int,
    searches: list[tuple[str, bool, bool]],
) -> None:
    component("rg", "apt-get install ripgrep")
    with tempfile.TemporaryDirectory(prefix="kode-") as root, pytest.MonkeyPatch.context() as patch:
        for names, content in files:
            where = Path(root, *names)
            try:
                where.parent.mkdir(parents=True, exist_ok=True)
                where.write_bytes(content)
            except OSError:  # a name stands for a file and a folder
                continue
        for name, target in links:
            if not os.path.lexists(os.path.join(root, name)):
                os.symlink(target, os.path.join(root, name))
        if path == "a" and not os.path.exists(os.path.join(root, path)):
            path = "."
        patch.setattr(module, "FIRST", first)
        for search in searches:
            with_it = searched(root, path, *search, limit)
            with pytest.MonkeyPatch.context() as without:
                without.setattr(module, "files_with", lambda *_, **__: None)
                assert searched(root, path, *search, limit) == with_it


def test_it_is_not_misled(tmp_path: Path, asked: list[Any]) -> None:
    """What ripgrep by itself passes by, decodes, or takes for something else."""
    hits = {
        "!first": b"needle",
        ".dot/.file": b"needle",
        ".gitignore": b"ignored\nneedle\n",
        ".rgignore": b"*\nneedle\n",
        "-e": b"needle",
        "a.b": b"needle",
        "a/z": b"needle",
        "a\nb": b"needle",
        "bom": b"\xff\xfeneedle",
        "crlf": b"x\r\nneedle\r\n",
        "ignored": b"needle",
        "late zero": bytes(0) + b"x" * 9_000 + b"\0needle",
        "node": b"needle",
        "utf8 bom": b"\xef\xbb\xbfneedle",
        "\udcff\udc80": b"\xffneedle\xff",
    }
    others = {
        ".git/config": b"needle",
        ".kode-tmp-1": b"needle",
        "binary": b"\0needle",
        "empty": b"",
        "node_modules/x": b"needle",
        "utf16": "needle".encode("utf-16"),
    }
    for name, content in {**hits, **others}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "link").symlink_to("ignored")
    (tmp_path / "folder").symlink_to("a")
    os.mkfifo(tmp_path / "pipe")
    found = {m.path for m in searched(str(tmp_path), ".", "needle", False, True, 99).matches}
    assert found == {name for name in hits if b"needle" in hits[name]}
    order = [m.path.split("/") for m in searched(str(tmp_path), ".", "needle", False, True, 99).matches]
    assert order == sorted(order)
    assert all(named is not None for _, _, named in asked)
    for path in ("**/x", "node_modules/**", "{node_modules,a}/**"):
        with_it = searched(str(tmp_path), path, "need", False, False, 99)
        with pytest.MonkeyPatch.context() as without:
            without.setattr(module, "files_with", lambda *_, **__: None)
            assert searched(str(tmp_path), path, "need", False, False, 99) == with_it


@pytest.fixture
def asked(component: Callable[[str, str], str], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What ripgrep was asked after the first file, and what it named."""
    component("rg", "apt-get install ripgrep")
    told: list[Any] = []
    ask = module.files_with

    def files_with(wanted: list[str], folder: str, **options: Any) -> Any:
        named = ask(wanted, folder, **options)
        told.append((wanted, folder, named))
        return named

    monkeypatch.setattr(module, "files_with", files_with)
    monkeypatch.setattr(module, "FIRST", 2)
    return told


def test_it_is_asked_and_believed(tmp_path: Path, asked: list[Any]) -> None:
    for n in range(9):
        (tmp_path / f"f{n}").write_text("needle" if n in (0, 5, 7) else "straw")
    found = searched(str(tmp_path), ".", "needle", False, True, 9)
    assert [match.path for match in found.matches] == ["f0", "f5", "f7"]
    assert asked == [(["needle"], str(tmp_path), [("f0",), ("f5",), ("f7",)])]


def test_it_is_asked_about_no_more_than_is_searched(tmp_path: Path, asked: list[Any]) -> None:
    for name in ("src/a.py", "src/b.py", "src/deep/c.py", "src/d.txt", "other/e.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("needle")
    searched(str(tmp_path), "src/*", "needle", False, True, 9)
    assert asked == []  # a pattern of one level is walked
    found = searched(str(tmp_path), "src/**/*.py", "needle", False, True, 9)
    assert [match.path for match in found.matches] == ["src/a.py", "src/b.py", "src/deep/c.py"]
    assert [folder for _, folder, _ in asked] == [str(tmp_path / "src")]


def test_a_search_that_hits_everywhere_needs_nobody(tmp_path: Path, asked: list[Any]) -> None:
    for n in range(9):
        (tmp_path / f"f{n}").write_text("needle\nneedle\n")
    assert len(searched(str(tmp_path), ".", "needle", False, True, 2).matches) == 2
    assert asked == []


# ---- not to be trusted -----------------------------------------------------------------------------------------


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put something else in ripgrep's place."""

    def write(script: str) -> None:
        program = tmp_path / "bin/rg"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    monkeypatch.setattr(module, "FIRST", 1)
    return write


@pytest.mark.parametrize(
    "script",
    [
        "exit 2",
        "printf 'a\\0'; exit 2",
        "printf 'no end'; kill -9 $$",
        "printf '../secret\\0/etc/passwd\\0./link\\0./none\\0\\0././f2\\0./f3\\0./f1\\0'",
    ],
)
def test_what_it_says_is_only_a_hint(tmp_path: Path, pretend: Callable[[str], None], script: str) -> None:
    """Nothing outside the root is read, and what goes wrong costs only time."""
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_text("needle")
    (root / "link").symlink_to("../secret")
    for n in range(4):
        (root / f"f{n}").write_text("needle")
    pretend(script)
    found = searched(str(root), ".", "needle", False, True, 99)
    assert {match.path for match in found.matches} - {"f2"} == {"f0", "f1", "f3"}


async def test_cancelling_ends_it(tmp_path: Path, pretend: Callable[[str], None]) -> None:
    pid = tmp_path / "pid"
    pretend(f"(trap '' TERM; sleep 69) & echo $! > {pid}; wait")
    sandbox = LocalSandbox(tmp_path / "root")
    for name in "ab":
        await sandbox.write(name, b"straw")
    async with anyio.create_task_group() as group:
        group.start_soon(sandbox.grep, "needle")
        with anyio.fail_after(10):
            while not pid.exists() or not pid.read_text():
                await anyio.sleep(0.01)
        assert alive(int(pid.read_text()))
        group.cancel_scope.cancel()
    assert until(lambda: not alive(int(pid.read_text())))


async def test_it_sees_nothing_of_the_hosts_variables(
    tmp_path: Path, pretend: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIPGREP_CONFIG_PATH", "/s3cret")
    pretend(f"env > {tmp_path}/env; exit 1")
    sandbox = LocalSandbox(tmp_path / "root")
    for name in "ab":
        await sandbox.write(name, b"straw")
    await sandbox.grep("needle")
    assert "PATH=" in (tmp_path / "env").read_text()
    assert "s3cret" not in (tmp_path / "env").read_text()
