"""Nobody's change is overwritten unseen, and nobody's own writes are in his way."""

from __future__ import annotations

import os
from typing import Any

import pytest

from kode.core import jsontext
from kode.core.errors import UsageError
from kode.core.kernel.history import MAX_DOCUMENTS
from kode.core.tools.builtin import bash_run, freshness, fs_edit, fs_multi_edit, fs_read, fs_write
from kode.core.tools.documents import MAX_BYTES, Documents

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
    if seen != "write":
        await bench.sandbox.write("f", b"a")
    await (WRITES[seen](bench, "f") if seen != "read" else bench(fs_read, path="f"))
    assert not bench.outcome.is_error
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


async def test_what_is_there_is_read_before_it_is_replaced(bench: Any) -> None:
    await bench.sandbox.write("f", b"a")
    answer = await bench(fs_write, path="f", content="b")
    assert (answer["code"], "fs_read it first" in answer["hints"][0]) == ("not_read", True)
    assert await bench.sandbox.read("f") == b"a"
    await bench(fs_read, path="f")
    assert (await bench(fs_write, path="f", content="b"))["ok"]
    # What is gone, or holds that already, loses nothing.
    await bench(bash_run, cmd="rm f; printf same > g")
    assert (await bench(fs_write, path="f", content="c"))["ok"]
    assert (await bench(fs_write, path="g", content="same"))["ok"]
    # An edit names what it replaces: that is proof enough.
    await bench.sandbox.write("h", b"a\nb\n")
    assert (await bench(fs_edit, path="h", old_string="a", new_string="c"))["ok"]
    assert (await bench(fs_write, path="h", content="x"))["code"] == "not_read"


async def test_a_part_that_was_read_can_be_edited_and_not_replaced(bench: Any) -> None:
    """Somebody's change in the part that was not shown is nothing that the model has seen."""
    lines = [f"line {n}\n" for n in range(1, 501)]
    await bench.sandbox.write("f", "".join(lines).encode())
    await bench(fs_read, path="f")
    lines[399] = "line 400, by hand\n"
    await bench.sandbox.write("f", "".join(lines).encode())
    await bench(fs_read, path="f", limit=3)
    answer = await bench(fs_write, path="f", content="x")
    assert (answer["code"], "497 of its lines" in answer["error"]) == ("not_read", True)
    assert (await bench(fs_edit, path="f", old_string="line 2\n", new_string="2\n"))["ok"]
    assert b"line 400, by hand" in await bench.sandbox.read("f")
    assert (await bench(fs_write, path="f", content="x"))["code"] == "not_read"


async def test_parts_without_a_gap_make_a_whole(bench: Any) -> None:
    await bench.sandbox.write("f", b"1\n2\n3\n4\n5")
    for offset, limit in ((1, 2), (4, 9), (3, 1)):  # the third closes the gap, but what came after it is not known
        await bench(fs_read, path="f", offset=offset, limit=limit)
        answer = await bench(fs_write, path="f", content="x")
        assert (answer["code"], f"{2 if offset == 3 else 3} of its" in answer["error"]) == ("not_read", True)
    await bench(fs_read, path="f", offset=3)
    await bench(fs_read, path="f", limit=1)  # a second look takes nothing away
    assert (await bench(fs_write, path="f", content="x"))["ok"]
    # A part of another content is no part of this one.
    await bench.sandbox.write("f", b"a\nb\n")
    await bench(fs_read, path="f", limit=1)
    await bench.sandbox.write("f", b"A\nb\n")
    await bench(fs_read, path="f", offset=2)
    assert (await bench(fs_write, path="f", content="x"))["code"] == "not_read"


async def test_what_was_not_shown_exactly_is_not_replaced(bench: Any) -> None:
    """What the model cannot have seen it cannot write back."""
    await bench.sandbox.write("latin", "caf\u00e9\nx\n".encode("latin-1"))
    part = await bench(fs_read, path="latin")
    assert (part["content"], part["encoding"]) == ("caf\ufffd\nx", "not UTF-8; U+FFFD stands for bytes that are none")
    assert (await bench(fs_write, path="latin", content=part["content"]))["code"] == "not_read"
    assert (await bench(fs_edit, path="latin", old_string="x", new_string="y"))["code"] == "not_utf8"
    await bench.sandbox.write("utf8", "caf\ufffd\n".encode())  # one that is meant
    assert "encoding" not in await bench(fs_read, path="utf8")
    assert (await bench(fs_write, path="utf8", content=""))["ok"]
    await bench.sandbox.write("long", b"x" * 200_000)
    await bench(fs_read, path="long")
    assert (await bench(fs_write, path="long", content="x"))["code"] == "not_read"


async def test_a_file_has_one_note_whatever_its_names(bench: Any) -> None:
    """Links included, and `..` behind a link, which is not where the text of the path points."""
    root = bench.sandbox.root
    await bench.sandbox.write("d/e/f", b"a b")
    await bench.sandbox.write("d/z", b"in d")
    await bench.sandbox.write("z", b"in root")
    os.symlink("d/e/f", f"{root}/link")
    os.symlink("d/e", f"{root}/s")
    await bench(fs_read, path="link")
    assert (await bench(fs_edit, path="d/e/f", old_string="a", new_string="A"))["ok"]
    assert (await bench(fs_edit, path="link", old_string="b", new_string="B"))["ok"]
    assert (await bench(fs_write, path="s/f", content="c"))["ok"]
    assert (await bench(fs_read, path="s/../z"))["content"] == "in d"
    assert (await bench(fs_write, path="z", content="x"))["code"] == "not_read"
    assert (await bench(fs_write, path="d/z", content="x"))["ok"]
    assert (await bench(fs_write, path="s/new", content="x"))["ok"]
    assert (await bench(fs_write, path="d/e/new", content="y"))["ok"]
    assert [row[0] for row in jsontext.parse(await bench.documents.get("seen_files"))] == ["d/e/f", "d/z", "d/e/new"]


async def test_a_touch_or_a_repeat_is_no_change(bench: Any) -> None:
    """The second attempt at a write, after a crash between the write and its commit, finds its own content."""
    await bench.sandbox.write("f", b"a")
    await bench(fs_read, path="f")
    await bench(bash_run, cmd="touch -d 2001-01-01 f; cp f g; mv g f")
    assert (await bench(fs_write, path="f", content="b"))["ok"]
    await bench.sandbox.write("f", b"c")
    assert (await bench(fs_write, path="f", content="c"))["ok"]
    assert (await bench(fs_write, path="f", content="d"))["ok"]


async def test_large_files_are_compared_in_parts(bench: Any) -> None:
    whole = "line\n" * 500_000
    assert (await bench(fs_write, path="f", content=whole))["ok"]
    assert (await bench(fs_write, path="f", content=whole))["ok"]
    assert (await bench(fs_write, path="f", content=whole[5:]))["ok"]
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
    assert [name for name, *_ in jsontext.parse(text)] == [f"f{n}" for n in range(3, 13)]
    await bench(fs_read, path="f8")
    assert await bench.documents.get("seen_files") is text
    await bench(fs_read, path="f7")  # on its way to being forgotten, so it is worth a new note
    assert jsontext.parse(await bench.documents.get("seen_files"))[-1][0] == "f7"
    await bench.sandbox.write("f0", b"b")
    assert (await bench(fs_write, path="f0", content="x"))["code"] == "not_read"  # forgotten: as if never seen


async def test_the_notes_of_deep_paths_fit_into_a_document(bench: Any) -> None:
    """A note that cannot be kept would fail a write that was made."""
    worst = [[chr(1) * freshness.MAX_KEY, 1 << 63, "0" * 24, 1 << 63]] * freshness.MAX_FILES
    assert len(jsontext.dump(worst)) < MAX_BYTES
    deep = "/".join(["x" * 200] * 10)
    for name in ("a", "b"):
        assert (await bench(fs_write, path=f"{deep}/{name}", content=name))["ok"]
    await bench.sandbox.write(f"{deep}/a", b"c")
    assert refused(await bench(fs_write, path=f"{deep}/a", content="x"))
    assert (await bench(fs_write, path=f"{deep}/b", content="x"))["ok"]
    notes = jsontext.parse(await bench.documents.get("seen_files"))
    assert all(len(name) <= freshness.MAX_KEY for name, *_ in notes)


async def test_the_notes_have_a_slot_of_their_own(bench: Any) -> None:
    """A file that was written is never called a failure for want of a note."""
    for n in range(MAX_DOCUMENTS - 3):  # todos and media have theirs too
        await bench.documents.put("mine", str(n), "1")
    with pytest.raises(UsageError, match="would be one more"):
        await bench.documents.put("mine", "more", "1")
    assert (await bench(fs_write, path="f", content="a"))["ok"]
    assert (await bench(fs_write, path="f", content="b"))["ok"]
    for write in (bench.documents.put, bench.documents.remove):
        with pytest.raises(UsageError, match="take another kind"):
            await write(*("seen_files", "", "{}")[: 3 if write == bench.documents.put else 2])


async def test_a_note_that_cannot_be_kept_is_no_failure(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(self: Documents, text: str) -> None:
        raise UsageError("no room")

    monkeypatch.setattr(Documents, "keep", full)
    assert (await bench(fs_write, path="f", content="a b c"))["ok"]
    assert (await bench(fs_edit, path="f", old_string="a", new_string="1"))["ok"]
    assert (await bench(fs_multi_edit, edits=[{"path": "f", "find": "b", "replace": "2"}]))["ok"]
    assert (await bench(fs_read, path="f"))["content"] == "1 2 c"
    assert (await bench(fs_write, path="f", content="x"))["code"] == "not_read"


@pytest.mark.parametrize("text", ['{"x":1}', "[1,2]", '[["f","0"]]', '"text"', "1", "null", "[[[],1,2,{}]]"])
async def test_notes_that_cannot_be_read_count_as_none(bench: Any, text: str) -> None:
    await bench.documents.keep(text)
    await bench.sandbox.write("f", b"a b")
    assert (await bench(fs_write, path="f", content="x"))["code"] == "not_read"
    assert (await bench(fs_edit, path="f", old_string="a", new_string="c"))["ok"]
    await bench.documents.keep(text)
    assert (await bench(fs_read, path="f"))["content"] == "c b"
    assert (await bench(fs_write, path="f", content="x"))["ok"]
