"""The contract of `glob` and `grep`."""

from __future__ import annotations

import pytest

from kode.core.sandbox.base import Sandbox
from kode.core.testing.conformance.sandbox.case import SandboxCase, refused

__all__ = ["GlobContract", "GrepContract"]

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
PATTERNS: dict[str, list[str]] = {
    "*": ["README.md", "a.py"],
    "*.py": ["a.py"],
    "**/*.py": ["a.py", "src/[x].py", "src/a.py", "src/deep/er/a.py", "src/deep/test_a.py"],
    "**/a.py": ["a.py", "src/a.py", "src/deep/er/a.py"],
    "src/**": ["src/[x].py", "src/a.py", "src/b.txt", "src/deep/er/a.py", "src/deep/test_a.py"],
    "src/**/er/*": ["src/deep/er/a.py"],
    "src/*.{py,txt}": ["src/[x].py", "src/a.py", "src/b.txt"],
    "{src/{a,b}.*,*.md}": ["README.md", "src/a.py", "src/b.txt"],
    "src/?.py": ["src/a.py"],
    "src/[!b].*": ["src/a.py"],
    "src/[[]x].py": ["src/[x].py"],
    "node_modules/**/*.py": ["node_modules/x/a.py"],
    ".hidden/*": [".hidden/a.py"],
    ".*": [".env"],
    ".git/*": [".git/config"],
    "none/**": [],
    "./src//a.py": ["src/a.py"],
    "{a}.py": [],
}


async def plant(sandbox: Sandbox) -> None:
    """Write the tree; each file says where it is."""
    for path in TREE:
        await sandbox.write(path, f"in {path}\n".encode())


class GlobContract(SandboxCase):
    """Files by pattern."""

    async def test_patterns(self, sandbox: Sandbox) -> None:
        """Wildcards, braces and `**`; dots and ignored names only if they are spelled out; in order."""
        await plant(sandbox)
        assert {pattern: list((await sandbox.glob(pattern)).paths) for pattern in PATTERNS} == PATTERNS

    async def test_options(self, sandbox: Sandbox) -> None:
        """Folder, dots, what is ignored, and a limit that says whether there are more."""
        await plant(sandbox)
        assert ".hidden/a.py" in (await sandbox.glob("**/a.py", dot=True)).paths
        assert ".git/config" not in (await sandbox.glob("**", dot=True)).paths
        assert set((await sandbox.glob("**", dot=True, ignore=frozenset())).paths) == set(TREE)
        assert (await sandbox.glob("*.py", cwd="src/deep/er")).paths == ("src/deep/er/a.py",)
        some = await sandbox.glob("**/*.py", limit=2)
        assert (some.paths, some.truncated) == (("a.py", "src/[x].py"), True)
        assert not (await sandbox.glob("**/*.py", limit=5)).truncated

    async def test_links_to_folders_are_not_followed(self, sandbox: Sandbox) -> None:
        """So that a walk ends."""
        await sandbox.exec("mkdir d; touch d/f; ln -s .. d/around; ln -s f d/g")
        assert (await sandbox.glob("**")).paths == ("d/around", "d/f", "d/g")

    @pytest.mark.parametrize("pattern", ["../*", "/etc/*", "a/../../b", "{a,b}" * 10, ""], ids=ascii)
    async def test_a_bad_pattern_is_refused(self, sandbox: Sandbox, pattern: str) -> None:
        """`bad_pattern`."""
        assert await refused(sandbox.glob(pattern)) == "bad_pattern"

    async def test_many_stars_are_fast(self, sandbox: Sandbox) -> None:
        """No pattern costs more than its length per name."""
        await sandbox.write("a" * 200, b"")
        assert (await sandbox.glob("*a" * 50 + "*b")).paths == ()
        assert (await sandbox.glob("**/" * 50 + "x")).paths == ()


class GrepContract(SandboxCase):
    """Lines by text."""

    async def test_plain_text_takes_the_first_hit_of_a_line(self, sandbox: Sandbox) -> None:
        """Line and column count from 1, columns in characters; a carriage return is no part of a line."""
        await sandbox.write("a.txt", "eins a.c a.c\r\nabc\n\nünd a.c".encode())
        found = await sandbox.grep("a.c")
        assert [(m.path, m.line, m.column, m.preview) for m in found.matches] == [
            ("a.txt", 1, 6, "eins a.c a.c"),
            ("a.txt", 4, 5, "ünd a.c"),
        ]
        assert not found.truncated
        assert (await sandbox.grep("A.C")).matches == ()
        assert len((await sandbox.grep("A.C", case_sensitive=False)).matches) == 2
        assert len((await sandbox.grep("ÜND", case_sensitive=False, path="a.txt")).matches) == 1

    async def test_an_expression_takes_every_hit_and_an_empty_one_once(self, sandbox: Sandbox) -> None:
        """Of each line."""
        await sandbox.write("a.txt", b"abc abd\nxx\r\n")
        found = await sandbox.grep("ab.", regex=True)
        assert [(m.line, m.column) for m in found.matches] == [(1, 1), (1, 5)]
        empty = await sandbox.grep("q*", regex=True)
        assert [(m.line, m.column) for m in empty.matches] == [(1, 1), (2, 1), (3, 1)]
        assert len((await sandbox.grep("x$", regex=True)).matches) == 1
        assert len((await sandbox.grep("AB", regex=True, case_sensitive=False)).matches) == 2

    async def test_paths(self, sandbox: Sandbox) -> None:
        """A file, a folder, a glob, and a file whose name looks like one; dot files are searched too."""
        await plant(sandbox)
        await sandbox.write("binary", b"in \0")
        for path, found in {
            "src/**/*.py": ["src/[x].py", "src/a.py", "src/deep/er/a.py", "src/deep/test_a.py"],
            "src/[x].py": ["src/[x].py"],
            "src/deep": ["src/deep/er/a.py", "src/deep/test_a.py"],
            "node_modules/**": ["node_modules/x/a.py"],
            ".": [path for path in TREE if not path.startswith((".git", "node_modules"))],
        }.items():
            assert [m.path for m in (await sandbox.grep("in ", path=path)).matches] == found

    @pytest.mark.parametrize("regex", [False, True])
    async def test_the_limit(self, sandbox: Sandbox, regex: bool) -> None:
        """The first so many, and whether there are more."""
        await plant(sandbox)
        every = await sandbox.grep("in ", regex=regex)
        some = await sandbox.grep("in ", limit=2, regex=regex)
        assert (some.matches, some.truncated) == (every.matches[:2], True)
        assert not (await sandbox.grep("in ", limit=len(every.matches), regex=regex)).truncated

    @pytest.mark.parametrize("regex", [False, True])
    async def test_a_preview_is_cut_around_the_hit(self, sandbox: Sandbox, regex: bool) -> None:
        """To 200 characters."""
        await sandbox.write("long", b"a" * 10_000 + b"HIT" + b"b" * 10_000)
        (match,) = (await sandbox.grep("HIT", regex=regex)).matches
        assert (match.line, match.column, len(match.preview)) == (1, 10_001, 200)
        assert "HIT" in match.preview

    @pytest.mark.parametrize("pattern", ["(", "[z-a]", "a{99999999999}", ""], ids=ascii)
    async def test_a_bad_expression_is_refused(self, sandbox: Sandbox, pattern: str) -> None:
        """`bad_pattern`."""
        assert await refused(sandbox.grep(pattern, regex=True)) == "bad_pattern"
