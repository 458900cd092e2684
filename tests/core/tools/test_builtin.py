"""The built-in tools over a real local sandbox: results as the model sees them."""

from __future__ import annotations

import os
import stat
import threading
import time
from typing import Any

import pytest

from kode.core import jsontext
from kode.core.kernel.limits import Limits
from kode.core.tools import builtin
from kode.core.tools.base import Tool
from kode.core.tools.builtin import (
    bash_kill,
    bash_logs,
    bash_run,
    files,
    fs_edit,
    fs_glob,
    fs_grep,
    fs_multi_edit,
    fs_read,
    fs_write,
)
from kode.core.tools.catalog import default_tools


def test_flags() -> None:
    tools = [getattr(builtin, name) for name in builtin.__all__]
    assert [(one.name, one.readonly, one.recovery) for one in tools] == [
        ("bash_kill", False, "retry"),
        ("bash_logs", True, "retry"),
        ("bash_run", False, "seal"),
        ("fs_edit", False, "seal"),
        ("fs_glob", True, "retry"),
        ("fs_grep", True, "retry"),
        ("fs_multi_edit", False, "seal"),
        ("fs_read", True, "retry"),
        ("fs_write", False, "retry"),
        ("task_run", True, "retry"),
        ("todo_read", True, "retry"),
        ("todo_write", False, "retry"),
    ]


def test_what_is_built_in_is_found_by_name() -> None:
    for name in builtin.__all__:
        assert default_tools.get(name) is getattr(builtin, name)


async def test_write_then_read(bench: Any) -> None:
    assert await bench(fs_write, path="a/b.txt", content="eins\nzwei\ndreí") == {
        "ok": True,
        "path": "a/b.txt",
        "bytes": 15,
        "lines": 3,
    }
    assert await bench(fs_read, path="a/b.txt") == {
        "path": "a/b.txt",
        "offset": 1,
        "limit": 3,
        "truncated": False,
        "totalLines": 3,
        "content": "eins\nzwei\ndreí",
    }
    assert await bench(fs_read, path="a/b.txt", offset=2, limit=1) == {
        "path": "a/b.txt",
        "offset": 2,
        "limit": 1,
        "truncated": True,
        "totalLines": 3,
        "content": "zwei",
    }
    beyond = await bench(fs_read, path="a/b.txt", offset=9)
    assert (beyond["content"], beyond["truncated"], beyond["limit"]) == ("", False, 0)
    # What this tool wrote can be written again: the predecessor refused it (B14).
    assert (await bench(fs_write, path="a/b.txt", content="$& $$ \\1\n"))["lines"] == 1
    assert (await bench(fs_read, path="a/b.txt"))["content"] == "$& $$ \\1"
    assert (await bench(fs_write, path="a/b.txt", content=""))["lines"] == 0
    assert (await bench(fs_read, path="a/b.txt"))["totalLines"] == 0


async def test_a_large_file_is_read_in_parts(bench: Any) -> None:
    lines = [f"{n:06} {'x' * 93}" for n in range(30_000)]  # 3 MB, more than one piece
    await bench.sandbox.write("big", "\n".join(lines).encode())
    got: list[str] = []
    while True:
        part = await bench(fs_read, path="big", offset=len(got) + 1, limit=20_000)
        assert part["totalLines"] == 30_000
        got += part["content"].split("\n")
        if not part["truncated"]:
            break
    assert got == lines


async def test_one_huge_line_is_shown_in_part(bench: Any) -> None:
    await bench.sandbox.write("line", b"\x01" * 3_000_000)
    part = await bench(fs_read, path="line")
    assert part["truncated"]
    assert set(part["content"]) == {"\x01"}
    assert bench.outcome.cut_bytes == 3_000_000 - len(part["content"])


async def test_what_is_missing_of_a_huge_line_is_said_whatever_fits(bench: Any) -> None:
    """The head is shown, never head and tail with a hole between them."""
    bench.limits = Limits(max_tool_result_bytes=10_000_000)
    await bench.sandbox.write("line", b"a" * (1 << 20) + b"b" * 2_500_000 + b"\nend\n")
    part = await bench(fs_read, path="line")
    assert part["content"] == "a" * (1 << 20) + "\nend"
    assert (part["truncated"], part["totalLines"], bench.outcome.cut_bytes) == (True, 2, 2_500_000)
    part = await bench(fs_read, path="line", offset=2)
    assert (part["content"], part["truncated"]) == ("end", False)


async def test_the_wanted_lines_are_found_wherever_the_pieces_end(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that are not wanted are only counted, so there are two ways past each place."""
    text = "one\n\nthree\nfour\n\n\nlast"
    lines = text.split("\n")
    for end in ("", "\n"):
        await bench.sandbox.write("f", (text + end).encode())
        for piece in (1, 3, 100):
            monkeypatch.setattr(files, "PIECE", piece)
            for offset in range(1, 9):
                for limit in (None, 1, 6):
                    part = await bench(fs_read, path="f", offset=offset, **({"limit": limit} if limit else {}))
                    wanted = lines[offset - 1 :][:limit]
                    assert (part["content"], part["totalLines"]) == ("\n".join(wanted), 7), (piece, offset, limit)
                    assert part["truncated"] == (offset - 1 + len(wanted) < 7)
                    assert bench.outcome.cut_bytes == 0
    bench.limits = Limits(max_tool_result_bytes=256)  # what of the wanted lines does not fit is counted as cut
    await bench.sandbox.write("f", b"x" * 99 + b"\n" + b"y" * 99 + b"\nzz\n\nlast\n")
    for piece in (1, 7, 1_000):
        monkeypatch.setattr(files, "PIECE", piece)
        assert (await bench(fs_read, path="f"))["content"] == "x" * 99
        assert bench.outcome.cut_bytes == 99 + 2 + 4
        assert (await bench(fs_read, path="f", limit=3))["totalLines"] == 5
        assert bench.outcome.cut_bytes == 99 + 2


async def test_the_lines_of_a_huge_file_are_not_all_counted(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for ten lines of a log does not wait until all of it was read."""
    monkeypatch.setattr(files, "PIECE", 1_000)
    monkeypatch.setattr(files, "MAX_BEYOND", 5_000)
    await bench.sandbox.write("log", b"a line..\n" * 10_000)
    part = await bench(fs_read, path="log", offset=2_000, limit=2)
    assert (part["content"], part["totalLines"], part["truncated"]) == ("a line..\na line..", None, True)
    assert (await bench(fs_write, path="log", content="x"))["code"] == "not_read"
    part = await bench(fs_read, path="log", offset=9_700, limit=2)
    assert (part["content"], part["totalLines"], part["truncated"]) == ("a line..\na line..", 10_000, True)


async def test_a_flood_of_lines_is_read_beside_the_event_loop(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: set[int] = set()

    class Noted(files.Window):
        def feed(self, piece: bytes) -> None:
            threads.add(threading.get_ident())
            super().feed(piece)

    monkeypatch.setattr(files, "Window", Noted)
    await bench.sandbox.write("f", b"\n" * 20_000_000)
    began = time.process_time()
    assert (await bench(fs_read, path="f", limit=1))["totalLines"] == 20_000_000
    assert time.process_time() - began < 2  # 10 s if each line is looked at
    assert threading.get_ident() not in threads


async def test_what_cannot_be_read(bench: Any) -> None:
    await bench.sandbox.write("binary", b"a\0b")
    await bench.sandbox.mkdir("folder")
    os.mkfifo(f"{bench.sandbox.root}/pipe")
    os.symlink("/dev/zero", f"{bench.sandbox.root}/device")
    os.symlink("loop", f"{bench.sandbox.root}/loop")
    for path, code in {
        "binary": "binary_file",
        "none": "file_not_found",
        "binary/none": "not_a_directory",
        "folder": "not_a_file",
        "pipe": "not_a_file",  # and nobody waits for its other end
        "device": "outside_root",
        "loop": "bad_path",
        "../x": "outside_root",
        "a\0b": "bad_path",
        "x" * 300: "bad_path",
    }.items():
        assert (await bench(fs_read, path=path))["code"] == code, path
    for path, code in {"/etc/x": "outside_root", "folder": "not_a_file", "pipe": "not_a_file"}.items():
        assert (await bench(fs_write, path=path, content=""))["code"] == code, path
        assert (await bench(fs_edit, path=path, old_string="a", new_string="b"))["code"] == code, path
    assert (await bench(fs_glob, pattern="../*"))["code"] == "bad_pattern"
    assert (await bench(fs_grep, pattern="(", regex=True))["code"] == "bad_pattern"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a device")
async def test_a_device_is_no_file(bench: Any) -> None:
    try:
        os.mknod(f"{bench.sandbox.root}/zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("not even this root")
    assert (await bench(fs_read, path="zero"))["code"] == "not_a_file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_a_file_without_permission(bench: Any) -> None:
    await bench.sandbox.write("secret", b"x")
    os.chmod(f"{bench.sandbox.root}/secret", 0)
    assert (await bench(fs_read, path="secret"))["code"] == "no_permission"


async def test_odd_names_and_texts_are_shown_well(bench: Any) -> None:
    await bench.sandbox.write("odd\nname ü", "a\u2028b\r\nc\x00".encode()[:-1] + b"\xff")
    part = await bench(fs_read, path="odd\nname ü")
    assert (part["path"], part["content"], part["totalLines"]) == ("odd\nname ü", "a\u2028b\r\nc\ufffd", 2)


async def test_glob_and_grep(bench: Any) -> None:
    for path in ("a.py", "b/c.py", "node_modules/x.py", "odd\nname.py", "\udcff.py"):
        await bench.sandbox.write(path, b"import os\n")
    found = await bench(fs_glob, pattern="**/*.py")
    assert found == {
        "ok": True,
        "pattern": "**/*.py",
        "cwd": ".",
        "truncated": False,
        "count": 4,
        "matches": ["a.py", "b/c.py", "odd\nname.py", "\ufffd.py"],
        "hints": found["hints"],
    }
    assert "bytes are lost" in found["hints"][0]
    assert "hints" not in await bench(fs_glob, pattern="**/*.py", limit=3)
    found = await bench(fs_grep, pattern="os", max_results=1)
    assert found == {
        "ok": True,
        "pattern": "os",
        "path": ".",
        "matches": [{"path": "a.py", "line": 1, "column": 8, "preview": "import os"}],
        "truncated": True,
    }
    bench.limits = Limits(max_tool_result_bytes=1_024)
    for n in range(100):
        await bench.sandbox.write(f"many/{n:03}{'x' * 30}", b"import os\n")
    assert (await bench(fs_glob, pattern="many/*"))["truncated"]
    found = await bench(fs_grep, pattern="os", path="many")
    assert found["truncated"]
    assert found["matches"]


async def test_bash(bench: Any) -> None:
    assert await bench(bash_run, cmd="echo out; echo err >&2; echo 'ü'; exit 3") == {
        "background": False,
        "code": 3,
        "output": "out\nerr\nü",
        "timed_out": False,
        "truncated": False,
    }
    assert not bench.outcome.is_error  # how a command ended is a result
    assert "".join(bench.progress) == "out\nerr\nü\n"
    assert (await bench(bash_run, cmd="true"))["output"] == "(no output)"
    late = await bench(bash_run, cmd="echo before; sleep 60", timeout_ms=600)
    assert (late["output"], late["timed_out"], late["code"]) == ("before", True, 143)
    assert bench.outcome.is_error
    assert late["error"].startswith("Stopped after 0.6 s. Give a larger timeout_ms (at most 600000)")
    assert (await bench(bash_run, cmd="no-such-program"))["code"] == 127
    killed = await bench(bash_run, cmd="kill -9 $$")
    assert (killed["code"], bench.outcome.is_error) == (137, False)
    bench.timeout_s = 0.4
    for wanted, said in ((120_000, "That is the most here"), (380, "That is the most here"), (300, "(at most 380)")):
        late = await bench(bash_run, cmd="sleep 60", timeout_ms=wanted)
        assert (late["timed_out"], said in late["error"]) == (True, True)


async def test_a_flood_keeps_head_and_tail_within_the_result(bench: Any) -> None:
    value = await bench(bash_run, cmd="echo first; head -c 3000000 /dev/zero; echo last")
    assert value["truncated"]
    assert value["output"].startswith("first\n")
    assert value["output"].endswith("last")
    kept = len(value["output"].encode())
    assert bench.outcome.cut_bytes > 3_000_000 - kept


@pytest.mark.parametrize(
    ("one", "arguments"),
    [
        (fs_read, {}),
        (fs_read, {"path": ""}),
        (fs_read, {"path": "a", "offset": 0}),
        (fs_glob, {"pattern": "*", "limit": 0}),
        (fs_grep, {"pattern": ""}),
        (bash_run, {"cmd": "true", "timeout_ms": 0}),
        (bash_run, {"command": "true"}),
        (fs_write, {"path": "a"}),
        (fs_edit, {"path": "a", "old_string": "", "new_string": "b"}),
        (fs_multi_edit, {"edits": []}),
        (fs_multi_edit, {"edits": [{"path": "a", "find": "", "replace": ""}]}),
        (fs_multi_edit, {"edits": [{"path": "a", "find": "b", "replace": "", "all": True}]}),
        (fs_multi_edit, {"edits": [{"path": "a", "find": "b", "replace": ""}] * 101}),
        (bash_logs, {"shell_id": "x", "after": -1}),
        (bash_kill, {}),
    ],
)
def test_bad_arguments(one: Tool, arguments: dict[str, Any]) -> None:
    assert isinstance(one.check(jsontext.dump(arguments)), str)
