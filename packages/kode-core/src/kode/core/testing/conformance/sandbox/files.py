"""The contract of reading and writing files."""

from __future__ import annotations

import pytest

from kode.core.sandbox.base import MAX_READ, Sandbox
from kode.core.testing.conformance.sandbox.case import SandboxCase, first_output, refused

__all__ = ["FileContract", "JailContract"]


class FileContract(SandboxCase):
    """Files, folders, and what only looks like a file."""

    names = ("a\nb", "..foo", "...", " ", "-rf", "é", "*", "x" * 255, "~", "$HOME", "[a]", "\udcff\udc80")
    """Leave out the last where a file system takes UTF-8 only."""

    async def test_odd_names(self, sandbox: Sandbox) -> None:
        """Any name a file system takes can be written, read, listed, found and removed."""
        for name in self.names:
            await sandbox.write(f"d/{name}", name.encode("utf-8", "surrogateescape"))
            assert await sandbox.read(f"d/{name}") == name.encode("utf-8", "surrogateescape")
        paths = {f"d/{name}" for name in self.names}
        assert {info.path for info in await sandbox.list_dir("d")} == paths
        assert set((await sandbox.glob("**", dot=True)).paths) == paths
        assert {match.path for match in (await sandbox.grep("x")).matches} == {"d/" + "x" * 255}
        for name in self.names:
            await sandbox.remove(f"d/{name}")
        assert await sandbox.list_dir("d") == ()

    @pytest.mark.parametrize("path", ["", "a\0b", "x" * 256, "\ud800"], ids=ascii)
    async def test_a_name_that_cannot_be_one(self, sandbox: Sandbox, path: str) -> None:
        """`bad_path`."""
        assert await refused(sandbox.write(path, b"")) == "bad_path"

    async def test_a_write_is_whole_and_keeps_the_mode(self, sandbox: Sandbox) -> None:
        """Who had the file open sees what was; nothing is left beside it."""
        await sandbox.write("f", b"old")
        await sandbox.exec("chmod 750 f")
        process = await sandbox.spawn("exec 3< f; echo open; while ! [ -e go ]; do sleep 0.01; done; cat <&3")
        await first_output(process)
        await sandbox.write("f", b"new")
        await sandbox.write("go", b"")
        assert (await process.wait()).stdout == b"open\nold"
        assert (await sandbox.exec("cat f; ls -l f | cut -c 1-10")).stdout == b"new-rwxr-x---\n"
        assert [info.path for info in await sandbox.list_dir()] == ["f", "go"]

    async def test_reading_in_parts(self, sandbox: Sandbox) -> None:
        """`size` bytes from `offset` on; nothing behind the end."""
        await sandbox.write("f", b"12345")
        assert await sandbox.read("f", offset=1, size=3) == b"234"
        assert await sandbox.read("f", offset=3, size=9) == b"45"
        assert await sandbox.read("f", offset=9, size=3) == b""
        assert await sandbox.read("f", offset=4) == b"5"

    async def test_a_huge_file_is_read_in_parts_only(self, sandbox: Sandbox) -> None:
        """`too_large` instead of the owner's memory; searching passes it by."""
        made = await sandbox.exec(f"echo x > huge; dd if=/dev/null of=huge bs=1 seek={MAX_READ + 1}")
        assert made.code == 0
        assert await refused(sandbox.read("huge")) == "too_large"
        assert await sandbox.read("huge", offset=MAX_READ, size=10) == b"\0"
        assert (await sandbox.stat("huge")).size == MAX_READ + 1
        assert (await sandbox.grep("x")).matches == ()

    async def test_what_is_no_regular_file_is_refused(self, sandbox: Sandbox) -> None:
        """A folder and a pipe; nobody waits for the pipe's other end, and searching does not disturb it."""
        await sandbox.exec("mkfifo pipe; mkdir d")
        writer = await sandbox.spawn("echo up; echo x > pipe")
        await first_output(writer)
        for path in ("pipe", "d", "."):
            assert await refused(sandbox.read(path)) == "not_a_file"
            assert await refused(sandbox.write(path, b"")) == "not_a_file"
        assert (await sandbox.stat("pipe")).kind == "other"
        assert (await sandbox.grep("x")).matches == ()
        assert (await sandbox.grep("x", path="pipe")).matches == ()
        assert (await sandbox.grep("x", path="*")).matches == ()
        assert (await sandbox.exec("cat pipe", timeout_s=10)).stdout == b"x\n"
        assert (await writer.wait()).code == 0

    async def test_errors_have_codes(self, sandbox: Sandbox) -> None:
        """And folders are made as they are needed."""
        await sandbox.write("f", b"12345")
        await sandbox.mkdir("d/e")
        await sandbox.mkdir("d/e")
        await sandbox.exec("ln -s nowhere dangling")
        assert await refused(sandbox.read("none")) == "file_not_found"
        assert await refused(sandbox.stat("none/x")) == "file_not_found"
        assert await refused(sandbox.read("dangling")) == "file_not_found"
        assert await refused(sandbox.read("f/x")) == "not_a_directory"
        assert await refused(sandbox.write("f/x", b"")) == "not_a_directory"
        assert await refused(sandbox.list_dir("f")) == "not_a_directory"
        assert await refused(sandbox.list_dir("none")) == "file_not_found"
        assert await refused(sandbox.mkdir("f")) == "not_a_directory"
        assert await refused(sandbox.remove("d")) == "not_empty"
        assert await refused(sandbox.remove("none")) == "file_not_found"
        assert await refused(sandbox.glob("*", cwd="f")) == "not_a_directory"
        assert await refused(sandbox.grep("x", path="none")) == "file_not_found"
        assert ((await sandbox.stat("f")).size, (await sandbox.stat(".")).kind) == (5, "directory")
        await sandbox.remove("d", recursive=True)
        await sandbox.remove("f")
        assert [info.path for info in await sandbox.list_dir()] == ["dangling"]


LINKS = """
mkdir a real
ln -s .. up
ln -s a/next chain; ln -s ../up a/next
ln -s /etc/passwd absolute
ln -s a loop
printf inside > real/file
ln -s real/../real/./file to-file; ln -s real folder; ln -s "$PWD/real" whole; ln -s real/new dangling
ln -s circle2 circle1; ln -s circle1 circle2
"""
OUTSIDE = [
    "..",
    "../x",
    "a/../../x",
    "/etc/passwd",
    "//etc/passwd",
    "up/x",
    "chain/x",
    "absolute",
    "loop/../../x",
    "folder/../../x",
]


class JailContract(SandboxCase):
    """No path leads out of the root."""

    async def test_nothing_leads_out(self, sandbox: Sandbox) -> None:
        """By `..`, absolute or by links: `outside_root` from every method."""
        await sandbox.exec(LINKS)
        for path in OUTSIDE:
            for attempt in (
                sandbox.read(path),
                sandbox.stat(path),
                sandbox.write(path, b"owned"),
                sandbox.write(path + "/new", b"owned"),
                sandbox.mkdir(path + "/new"),
                sandbox.list_dir(path + "/.."),
                sandbox.grep("x", path=path),
                sandbox.glob("*", cwd=path),
                sandbox.remove(path + "/x", recursive=True),
            ):
                assert await refused(attempt) == "outside_root", path

    async def test_links_that_stay_inside_are_followed(self, sandbox: Sandbox) -> None:
        """Relative and absolute ones, on the way and at its end; a file's link stays a link when it is written."""
        await sandbox.exec(LINKS)
        for path in ("to-file", "folder/file", "whole/file", f"{sandbox.root}/real/file"):
            assert await sandbox.read(path) == b"inside"
        assert (await sandbox.stat("whole/file")).path == "real/file"
        await sandbox.write("dangling", b"new")
        await sandbox.write("to-file", b"changed")
        assert await sandbox.read("real/new") == b"new"
        assert await sandbox.read("real/file") == b"changed"
        kinds = {info.path: info.kind for info in await sandbox.list_dir()}
        assert (kinds["dangling"], kinds["to-file"], kinds["real"]) == ("symlink", "symlink", "directory")
        assert await refused(sandbox.read("circle1/x")) == "bad_path"

    async def test_removing_a_link_leaves_its_target(self, sandbox: Sandbox) -> None:
        """Also within a folder that is removed; the root itself cannot be."""
        await sandbox.exec("mkdir real tree; touch real/file; ln -s real link; ln -s ../real tree/link")
        await sandbox.remove("link", recursive=True)
        await sandbox.remove("tree", recursive=True)
        assert (await sandbox.glob("**")).paths == ("real/file",)
        for path in (".", "", "..", "real/.."):
            assert await refused(sandbox.remove(path, recursive=True)) in ("bad_path", "outside_root")
        assert (await sandbox.glob("**")).paths == ("real/file",)
