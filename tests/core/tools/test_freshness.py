"""Nobody's change is overwritten unseen, and nobody's own writes are in his way."""

from __future__ import annotations

import os
from typing import Any

import pytest

from kode.core import jsontext
from kode.core.tools.builtin import bash_run, freshness, fs_edit, fs_multi_edit, fs_read, fs_write
from kode.core.tools.documents import MAX_BYTES

WRITES: dict[str, Any] = {
    "write": lambda bench, path: bench(fs_write, path=path, content="own"),
    "edit": lambda bench, path: bench(fs_edit, path=path, old_string="a", new_string="b"),
    "multi": lambda bench, path: bench(fs_multi_edit, edits=[{"path": path, "find": "a", "replace": "b"}]),
}


def refused(answer: dict[str, Any]) -> bool:
    if "results" in answer:
        (result,) = answer["results"]
        return result["status"] == "error" and "changed by someone else" in result["message"]
    return answer.get("code") == "file_changed" and "fs_read it again" in answer["hints"][0]


@pytest.mark.parametrize("how", WRITES)
@pytest.mark.parametrize("seen", ["read", "write", "edit", "multi"])
async def test_a_change_by_someone_else_is_not_overwritten(bench: Any, seen: str, how: str) -> None:
    await bench.sandbox.write("f", b"a")
    await (WRITES[seen](bench, "f") if seen != "read" else bench(fs_read, path="f"))
    await bench.sandbox.write("f", b"a!")  # by the sandbox itself, of which the tools know nothing
    assert refused(await WRITES[how](bench, "f"))
    assert await bench.sandbox.read("f") == b"a!"
    await bench(fs_read, path=f"{bench.sandbox.root}/./f")  # by another name
    assert not bench.outcome.is_error
    await WRITES[how](bench, "f")
    assert not bench.outcome.is_error
    assert await bench.sandbox.read("f") != b"a!"


async def test_a_change_of_the_same_size_and_time_is_noticed(bench: Any) -> None:
    file = os.path.join(bench.sandbox.root, "f")
    await bench.sandbox.write("f", b"aa")
    await bench(fs_read, path="f")
    before = os.stat(file)
    await bench.sandbox.write("f", b"ab")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert refused(await bench(fs_write, path="f", content="x"))


async def test_own_writes_never_make_a_file_stale(bench: Any) -> None:
    """The predecessor's refused the second write, and every second edit of a batch."""
    await bench(fs_write, path="f", content="a a")
    for content in ("1", "2", "a"):
        assert (await bench(fs_write, path="f", content=content))["ok"]
    assert (await bench(fs_edit, path="f", old_string="a", new_string="aa"))["ok"]
    assert (await bench(fs_edit, path="./f", old_string="aa", new_string="a"))["ok"]
    assert (await bench(fs_multi_edit, edits=[{"path": "f", "find": "a", "replace": "b"}]))["ok"]
    assert (await bench(fs_write, path="f", content="a"))["ok"]


async def test_what_was_never_seen_or_is_gone_may_be_written(bench: Any) -> None:
    await bench.sandbox.write("f", b"a")
    assert (await bench(fs_write, path="f", content="b"))["ok"]
    await bench(bash_run, cmd="rm f")
    assert (await bench(fs_write, path="f", content="c"))["ok"]
    await bench.sandbox.write("g", b"a")
    assert (await bench(fs_edit, path="g", old_string="a", new_string="b"))["ok"]


async def test_a_touch_or_a_repeat_is_no_change(bench: Any) -> None:
    """The second attempt at a write, after a crash between the write and its commit, finds its own content."""
    await bench.sandbox.write("f", b"a")
    await bench(fs_read, path="f")
    await bench(bash_run, cmd="touch -d 2001-01-01 f; cp f g; mv g f")
    assert (await bench(fs_write, path="f", content="b"))["ok"]
    await bench.sandbox.write("f", b"c")
    assert (await bench(fs_write, path="f", content="c"))["ok"]
    assert (await bench(fs_write, path="f", content="d"))["ok"]


async def test_a_part_of_a_file_counts_as_seen_and_large_files_are_compared_in_parts(bench: Any) -> None:
    await bench.sandbox.write("f", b"line\n" * 500_000)
    await bench(fs_read, path="f", limit=1)
    assert (await bench(fs_write, path="f", content="line\n" * 500_000))["ok"]
    assert (await bench(fs_write, path="f", content="line\n" * 499_999))["ok"]
    await bench.sandbox.write("f", b"line\n" * 499_998 + b"lime\n")
    assert refused(await bench(fs_write, path="f", content="x"))


async def test_a_read_beside_a_write_does_not_know_better(bench: Any) -> None:
    """A reader that began before a write and ends after it must not note what the writer has replaced."""
    await bench.sandbox.write("f", b"old")
    await bench(fs_read, path="f")
    inner = bench.sandbox

    class Meanwhile:
        def __getattr__(self, name: str) -> Any:
            return getattr(inner, name)

        async def read(self, path: str, **part: Any) -> bytes:
            data: bytes = await inner.read(path, **part)
            bench.sandbox = inner
            assert (await bench(fs_write, path="f", content="new"))["ok"]
            return data

    bench.sandbox = Meanwhile()
    assert (await bench(fs_read, path="f"))["content"] == "old"
    assert (await bench(fs_write, path="f", content="newer"))["ok"]


async def test_the_notes_are_bounded_and_written_only_when_they_change(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freshness, "MAX_FILES", 10)
    for n in range(13):
        await bench.sandbox.write(f"f{n}", b"a")
        await bench(fs_read, path=f"f{n}")
    text = await bench.documents.get("seen_files")
    assert [name for name, _ in jsontext.parse(text)] == [f"f{n}" for n in range(3, 13)]
    await bench(fs_read, path="f8")
    assert await bench.documents.get("seen_files") is text
    await bench(fs_read, path="f7")  # on its way to being forgotten, so it is worth a new note
    assert jsontext.parse(await bench.documents.get("seen_files"))[-1][0] == "f7"
    await bench.sandbox.write("f0", b"b")
    assert (await bench(fs_write, path="f0", content="x"))["ok"]  # forgotten: as if it was never seen


async def test_the_notes_of_deep_paths_fit_into_a_document(bench: Any) -> None:
    """A note that cannot be kept would fail a write that was made."""
    worst = [(chr(1) * freshness.MAX_KEY, "0" * 24)] * freshness.MAX_FILES
    assert len(jsontext.dump(worst)) < MAX_BYTES
    deep = "/".join(["x" * 200] * 10)
    for name in ("a", "b"):
        assert (await bench(fs_write, path=f"{deep}/{name}", content=name))["ok"]
    await bench.sandbox.write(f"{deep}/a", b"c")
    assert refused(await bench(fs_write, path=f"{deep}/a", content="x"))
    assert (await bench(fs_write, path=f"{deep}/b", content="x"))["ok"]
    notes = jsontext.parse(await bench.documents.get("seen_files"))
    assert all(len(name) <= freshness.MAX_KEY for name, _ in notes)
