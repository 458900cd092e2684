"""The built-in tools over a real local sandbox: results as the model sees them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kode.core import jsontext
from kode.core.clock import RealClock
from kode.core.kernel.limits import Limits
from kode.core.kernel.message import TextBlock
from kode.core.sandbox.local import LocalSandbox
from kode.core.tools.base import Tool, ToolContext, ToolOutcome
from kode.core.tools.builtin import bash_run, fs_glob, fs_grep, fs_read, fs_write


class Bench:
    """Calls tools the way the shell does."""

    def __init__(self, root: Path) -> None:
        self.sandbox = LocalSandbox(root, grace_s=0.3)
        self.limits = Limits()
        self.progress: list[str] = []
        self.outcome = ToolOutcome(())

    async def __call__(self, one: Tool, /, **arguments: Any) -> dict[str, Any]:
        checked = one.check(jsontext.dump(arguments))
        assert isinstance(checked, dict), checked
        context = ToolContext(
            "agent",
            "uid",
            "1.1.1",
            fence=1,
            attempt="1.1",
            clock=RealClock(),
            limits=self.limits,
            sandbox=self.sandbox,
            on_progress=self.progress.append,
        )
        outcome = await one.call(context, checked)
        assert isinstance(outcome, ToolOutcome)
        (block,) = outcome.content
        assert isinstance(block, TextBlock)
        assert len(block.text.encode()) <= self.limits.max_tool_result_bytes
        self.outcome = outcome
        value: dict[str, Any] = jsontext.parse(block.text)
        assert ("error" in value) == outcome.is_error
        return value


@pytest.fixture
async def bench(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Bench]:
    one = Bench(tmp_path)
    yield one
    await one.sandbox.close()


def test_flags() -> None:
    assert [(one.name, one.readonly, one.recovery) for one in (fs_glob, fs_grep, fs_read, fs_write, bash_run)] == [
        ("fs_glob", True, "retry"),
        ("fs_grep", True, "retry"),
        ("fs_read", True, "retry"),
        ("fs_write", False, "retry"),
        ("bash_run", False, "seal"),
    ]


async def test_write_then_read(bench: Bench) -> None:
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


async def test_a_large_file_is_read_in_parts(bench: Bench) -> None:
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


async def test_one_huge_line_is_shown_in_part(bench: Bench) -> None:
    await bench.sandbox.write("line", b"\x01" * 3_000_000)
    part = await bench(fs_read, path="line")
    assert part["truncated"]
    assert set(part["content"]) == {"\x01"}
    assert bench.outcome.cut_bytes > 0


async def test_what_cannot_be_read(bench: Bench) -> None:
    await bench.sandbox.write("binary", b"a\0b")
    assert (await bench(fs_read, path="binary"))["code"] == "binary_file"
    assert (await bench(fs_read, path="none"))["code"] == "file_not_found"
    assert (await bench(fs_read, path="../x"))["code"] == "outside_root"
    assert (await bench(fs_write, path="/etc/x", content=""))["code"] == "outside_root"
    assert (await bench(fs_glob, pattern="../*"))["code"] == "bad_pattern"
    assert (await bench(fs_grep, pattern="(", regex=True))["code"] == "bad_pattern"


async def test_glob_and_grep(bench: Bench) -> None:
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
    }
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


async def test_bash(bench: Bench) -> None:
    assert await bench(bash_run, cmd="echo out; echo err >&2; echo 'ü'; exit 3") == {
        "code": 3,
        "output": "out\nerr\nü",
        "timed_out": False,
        "truncated": False,
    }
    assert "".join(bench.progress) == "out\nerr\nü\n"
    assert (await bench(bash_run, cmd="true"))["output"] == "(no output)"
    late = await bench(bash_run, cmd="echo before; sleep 60", timeout_ms=200)
    assert (late["output"], late["timed_out"], late["code"]) == ("before", True, 143)
    bench.limits = Limits(tool_timeout_s=0.3)
    assert (await bench(bash_run, cmd="sleep 60"))["timed_out"]


async def test_a_flood_keeps_head_and_tail_within_the_result(bench: Bench) -> None:
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
    ],
)
def test_bad_arguments(one: Tool, arguments: dict[str, Any]) -> None:
    assert isinstance(one.check(jsontext.dump(arguments)), str)
