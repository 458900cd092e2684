"""fs_edit and fs_multi_edit: what is replaced, what is left alone, and what the model is told when it cannot be."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kode.core import jsontext
from kode.core.tools.base import ToolError
from kode.core.tools.builtin import edit as editing
from kode.core.tools.builtin import fs_edit, fs_multi_edit
from kode.core.tools.builtin.text import MAX_FILE, MAX_LOOK, NEAR_LINES, replace_text
from kode.core.tools.documents import Documents


async def edit(bench: Any, before: bytes, old: str, new: str, **more: Any) -> tuple[dict[str, Any], bytes]:
    """Edit a file of that content; the answer, and the file afterwards."""
    await bench.sandbox.write("f", before)
    bench.documents = Documents()  # of an agent that has seen nothing
    answer = await bench(fs_edit, path="f", old_string=old, new_string=new, **more)
    return answer, await bench.sandbox.read("f")


async def test_an_edit_replaces_one_place(bench: Any) -> None:
    answer, after = await edit(bench, b"one\ntwo\nthree\n", "two\n", "2\nzwei\n")
    assert answer == {"ok": True, "path": "f", "replacements": 1, "lines": 4}
    assert after == b"one\n2\nzwei\nthree\n"


@pytest.mark.parametrize("new", ["$&", "$$", "$1 \\1 \\g<0>", "\\n", "%s {0}", ""])
async def test_a_replacement_has_no_special_meaning(bench: Any, new: str) -> None:
    assert (await edit(bench, b"a b c", "b", new))[1] == f"a {new} c".encode()
    assert (await edit(bench, b"b.*b", "b", new, replace_all=True))[1] == f"{new}.*{new}".encode()


async def test_more_than_one_hit_needs_to_be_meant(bench: Any) -> None:
    answer, after = await edit(bench, b"x\na x\nb\nx\n", "x", "y")
    assert after == b"x\na x\nb\nx\n"
    assert (answer["code"], answer["count"], answer["lines"]) == ("not_unique", 3, "1, 2, 4")
    assert "3 times, in lines 1, 2, 4" in answer["error"]
    answer, after = await edit(bench, b"x\na x\nb\nx\n", "x", "y", replace_all=True)
    assert (answer["replacements"], after) == (3, b"y\na y\nb\ny\n")
    assert (await edit(bench, b"x\n" * 50, "x", "y"))[0]["lines"] == "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, …"
    # Two places that overlap are two: which one was meant is not known.
    answer, after = await edit(bench, b"aXaXa", "aXa", "b")
    assert (answer["code"], answer["count"], after) == ("not_unique", 2, b"aXaXa")


@pytest.mark.parametrize(
    ("before", "old", "hint"),
    [
        ("def f(x):\n    return x\n", "def f(x):\n  return x", "Only blanks differ from the text in line 1, which is"),
        ("a\n\tb\n", "    b", "line 2, which is '\\tb'"),
        ("a\n\tb  c \n d", "b c d", "line 2, which is '\\tb  c \\n d'"),
        ("one two\nx  y\nz", "x y", "line 2, which is 'x  y'"),
        ("one\r\ntwo\nthree\n", "one\ntwo", "line 1 differs only in its line ends: of those in the file, 1 are CRLF"),
        ("one\ntwo\n", "one\r\ntwo", "line 1 differs only in its line ends"),
        ("alpha\nimport os, sys\nomega\n", "import os,sys", "The nearest is line 2: 'import os, sys'"),
        ("alpha\nomega\n", "something else", "Read the file again"),
        ("", "x", "Read the file again"),
        ("x", "\n \n", "Read the file again"),
    ],
)
async def test_what_is_not_found_is_explained(bench: Any, before: str, old: str, hint: str) -> None:
    answer, after = await edit(bench, before.encode(), old, "y")
    assert (answer["code"], after) == ("not_found", before.encode())
    assert hint in answer["hints"][0]


def test_the_search_for_the_nearest_text_is_bounded() -> None:
    """A model's mistake in a huge file must not stop everybody on this event loop."""

    def hint(text: str, old: str) -> str:
        with pytest.raises(ToolError) as caught:
            replace_text(text, old, "y", everywhere=False)
        (hint,) = caught.value.hints
        return hint

    far = "\n" * NEAR_LINES + "import os, sys"
    assert "Read the file again" in hint(far, "import os,sys")
    assert "nearest is line 3000" in hint(far[1:], "import os,sys")
    assert "Only blanks differ" in hint("a  b" + "x" * (MAX_LOOK - 4), "a b")
    assert "Read the file again" in hint("x" * (MAX_LOOK - 3) + "a  b", "a b")
    assert "Read the file again" in hint(" " * (MAX_LOOK - 10) + "a", "a b")


HOSTILE = {
    "words": ("a " * 499_000, "a  " * 498 + "b"),
    "halves": (("b" * 150 + "a" * 150 + "\n") * 3_000, "ab" * 150),
    "digits": ("\n".join(str(7**n)[-300:] for n in range(400, 3_400)), str(3**700)[-300:]),
    "large": ("a line of some log\r\n" * 480_000, "a line of no log\nat all"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_no_text_makes_an_explanation_dear(what: str) -> None:
    """Ordinary files once took 10 to 20 s here; now each is well below a second, most of them a tenth."""
    began = time.thread_time()
    with pytest.raises(ToolError) as caught:
        replace_text(*HOSTILE[what], "y", everywhere=False)
    assert caught.value.code == "not_found"
    assert time.thread_time() - began < 1.5


async def test_large_texts_are_worked_on_beside_the_event_loop(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []

    def noted(*args: Any, **more: Any) -> Any:
        threads.append(threading.get_ident())
        return replace_text(*args, **more)

    monkeypatch.setattr(editing, "replace_text", noted)
    await edit(bench, b"a", "a", "b")
    await edit(bench, b"a", "c", "b")
    await bench(fs_multi_edit, edits=[one("f", "a", "b")])
    assert len(threads) == 3
    assert threading.get_ident() not in threads


async def test_a_file_cannot_grow_beyond_what_can_be_edited(bench: Any) -> None:
    """Ten million letters, each to become a hundred: judged before the memory is taken."""
    before = b"a" * 1_000_000
    answer, after = await edit(bench, before, "a", "b" * 100_000, replace_all=True)
    assert (answer["code"], after) == ("file_too_large", before)
    assert "100,000,000,000 bytes" in answer["error"]
    answer, after = await edit(bench, b"xy", "x", "z" * (MAX_FILE - 1))
    assert (answer["ok"], len(after)) == (True, MAX_FILE)
    answer, after = await edit(bench, b"xy", "x", "\u00fc" * (MAX_FILE // 2))
    assert (answer["code"], after) == ("file_too_large", b"xy")


async def test_line_ends_stay_as_they_are(bench: Any) -> None:
    """In a file of CRLF lines the model's bare LF stands for CRLF, on both sides."""
    answer, after = await edit(bench, b"one\r\ntwo\r\nthree", "one\ntwo", "1\n2\n2b")
    assert (answer["ok"], after) == (True, b"1\r\n2\r\n2b\r\nthree")
    assert (await edit(bench, b"one\r\ntwo\r\n", "two", "2\n3"))[1] == b"one\r\n2\r\n3\r\n"
    assert (await edit(bench, b"one\r\ntwo\r\n", "one\r\n", "1\r\n"))[1] == b"1\r\ntwo\r\n"
    # Where both kinds are, nothing is guessed.
    assert (await edit(bench, b"one\r\ntwo\nthree\n", "two", "2\n2b"))[1] == b"one\r\n2\n2b\nthree\n"
    assert (await edit(bench, b"no end", "no", "still no"))[1] == b"still no end"
    assert (await edit(bench, b"\xef\xbb\xbfmark", "mark", "m"))[1] == b"\xef\xbb\xbfm"


async def test_files_that_are_no_text_are_left_alone(bench: Any) -> None:
    for before, code in {b"a\0b": "binary_file", b"a\xff\xfeb": "not_utf8", b"\xe4b": "not_utf8"}.items():
        answer, after = await edit(bench, before, "b", "c")
        assert (answer["code"], after) == (code, before)
    answer, after = await edit(bench, b"b" + b" " * 10_485_760, "b", "c")
    assert (answer["code"], after[:1]) == ("file_too_large", b"b")
    assert (await bench(fs_edit, path="none", old_string="a", new_string="b"))["code"] == "file_not_found"
    assert (await edit(bench, b"ab", "b", "b"))[0]["code"] == "no_change"


async def test_the_mode_of_a_file_is_kept(bench: Any) -> None:
    await bench.sandbox.write("f", b"#!/bin/sh\necho a\n")
    file = os.path.join(bench.sandbox.root, "f")
    os.chmod(file, 0o751)
    await bench(fs_edit, path="f", old_string="a\n", new_string="b\n")
    assert os.stat(file).st_mode & 0o777 == 0o751
    assert [name for name in os.listdir(bench.sandbox.root) if name != "f"] == []


@given(
    text=st.text("ab\r\n$\\é", max_size=30),
    old=st.text("ab\r\n$\\é", min_size=1, max_size=4),
    new=st.text("ab\r\n$\\1é", max_size=4),
)
def test_replacing_touches_nothing_else(text: str, old: str, new: str) -> None:
    """What is replaced once can be split around; what surrounds it is there unchanged."""
    try:
        after, count = replace_text(text, old, new, everywhere=False)
    except ToolError as error:
        if error.code not in {"no_change", "not_found", "not_unique"}:
            raise
        return
    assert count == 1
    whole = "\r\n" in text and text.count("\r\n") == text.count("\n")
    if whole:  # all line ends are CRLF, so a bare LF means CRLF
        old, new = old.replace("\r\n", "\n").replace("\n", "\r\n"), new.replace("\r\n", "\n").replace("\n", "\r\n")
    at = text.index(old)
    assert after == text[:at] + new + text[at + len(old) :]


# ---- many at once ------------------------------------------------------------------------------------------


def one(path: str, find: str, replace: str, **more: Any) -> dict[str, Any]:
    return {"path": path, "find": find, "replace": replace, **more}


async def test_edits_of_one_file_see_each_other(bench: Any) -> None:
    await bench.sandbox.write("f", b"a b a\n")
    answer = await bench(
        fs_multi_edit, edits=[one("f", "b", "c"), one("./f", "c", "d"), one("f", "a", "e", replace_all=True)]
    )
    assert answer == {
        "ok": True,
        "results": [
            {"path": "f", "replacements": 1, "status": "ok"},
            {"path": "./f", "replacements": 1, "status": "ok"},
            {"path": "f", "replacements": 2, "status": "ok"},
        ],
    }
    assert await bench.sandbox.read("f") == b"e d e\n"
    assert (await bench(fs_multi_edit, edits=[one("f", "d", "$&")]))["ok"]
    assert await bench.sandbox.read("f") == b"e $& e\n"


async def test_a_file_gets_all_its_edits_or_none(bench: Any) -> None:
    await bench.sandbox.write("f", b"a b\n")
    await bench.sandbox.write("g", b"a b\n")
    answer = await bench(
        fs_multi_edit, edits=[one("f", "a", "x"), one("g", "a", "x"), one("f", "c", "x"), one("f", "b", "x"),
                              one("none", "a", "b"), one("../f", "a", "b")],
    )  # fmt: skip
    assert not answer["ok"]
    assert answer["error"] == "5 of 6 edits were not made; see results."
    results = [(r["path"], r["replacements"], r["status"]) for r in answer["results"]]
    assert results == [
        ("f", 0, "skipped"), ("g", 1, "ok"), ("f", 0, "error"), ("f", 0, "skipped"),
        ("none", 0, "error"), ("../f", 0, "error"),
    ]  # fmt: skip
    assert answer["results"][0]["message"] == "Not made, because edit 3, of the same file, failed."
    assert "not in the file" in answer["results"][2]["message"]
    assert "nothing at this path" in answer["results"][4]["message"]
    assert (await bench.sandbox.read("f"), await bench.sandbox.read("g")) == (b"a b\n", b"x b\n")


async def test_one_file_by_several_names_is_one_file(bench: Any) -> None:
    """Through links as well: all of its edits or none."""
    await bench.sandbox.write("d/f", b"a b\n")
    os.symlink("d/f", f"{bench.sandbox.root}/link")
    os.symlink("d", f"{bench.sandbox.root}/folder")
    edits = [one("d/f", "a", "x"), one("link", "b", "y"), one("folder/f", "none", "z")]
    answer = await bench(fs_multi_edit, edits=edits)
    assert [result["status"] for result in answer["results"]] == ["skipped", "skipped", "error"]
    assert await bench.sandbox.read("d/f") == b"a b\n"
    assert (await bench(fs_multi_edit, edits=edits[:2]))["ok"]
    assert await bench.sandbox.read("d/f") == b"x y\n"
    assert os.readlink(f"{bench.sandbox.root}/link") == "d/f"


async def test_a_hundred_failures_still_fit_into_the_answer(bench: Any) -> None:
    await bench.sandbox.write("f", b"word " * 500)
    edits = [one("f", "x" * 5_000, "y")] * 100
    answer = await bench(fs_multi_edit, edits=edits)
    assert len(answer["results"]) == 100


def test_a_model_is_told_what_an_edit_is() -> None:
    """The predecessor's schema lost what is inside a list."""
    schema = jsontext.parse(fs_multi_edit.input_schema)
    (kind,) = schema["$defs"].values()
    assert schema["properties"]["edits"]["items"] == {"$ref": "#/$defs/Edit"}
    assert kind["required"] == ["path", "find", "replace"]
    assert all(one["description"] for one in kind["properties"].values())
