"""What comes from models, files and tools cannot steer the terminal."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kode.cli.visible import block, brief, cut, exact, first_value, inline, prose


def harmless(text: str, kept: str) -> bool:
    return all(letter.isprintable() or letter in kept for letter in text)


@given(st.text())
def test_nothing_gets_through_that_moves_the_cursor(text: str) -> None:
    assert harmless(inline(text), "")
    assert harmless(exact(text), "\t")
    assert harmless(prose(text), "\u200d")
    assert harmless(block(text), "\n\t\u200d")
    assert harmless(brief(text), "\u200d")
    assert harmless(brief(json.dumps({"path": text, "other": [text]}, ensure_ascii=False)), "\u200d")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 漢字 👩", "plain é 漢字 👩"),
        ("👩\u200d💻", "👩\\u200d💻"),
        ("x = 1\U000e0149\U000e0067", "x = 1\\U000e0149\\U000e0067"),
        ("a,\u3164 \u2800y\u034f\ufe0f\uffa0\u115f\u180b", "a,\\u3164 \\u2800y\\u034f\\ufe0f\\uffa0\\u115f\\u180b"),
        ("my\u3000file\u2009", "my\\u3000file\\u2009"),
        ("\x1b[2J\x07", "\\e[2J\\x07"),
        ("a\nb\rc", "a\\nb\\rc"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("no\u00a0break", "no\\xa0break"),
        ("\x9b31m\u2028", "\\x9b31m\\u2028"),
        ("\ud800", "\\ud800"),
    ],
)
def test_codes_stand_for_what_is_not_shown(text: str, shown: str) -> None:
    assert inline(text) == exact(text) == shown


def test_prose_keeps_pictures_and_blanks() -> None:
    said = "👩\u200d💻 ⚠\ufe0f no\u00a0break"
    assert prose(said) == block(said) == said.replace("\u00a0", " ")
    assert prose("one\ntwo\U000e0149") == "one\\ntwo\\U000e0149"


def test_lines_of_code_are_shown_exactly() -> None:
    assert exact("\tif a:\r") == "\tif a:\\r"


def test_live_text_keeps_lines_and_loses_what_overwrites() -> None:
    assert block("one\r\ntwo\rthree\t\x1b[1A") == "one\ntwothree\t\\e[1A"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"path":"a.txt","offset":1}', "a.txt"),
        ('{"pattern":"**/*","cwd":".","dot":false}', "pattern=**/*"),
        ('{"content":"x\\ny","path":"a"}', "a content=x\\ny"),
        ('{"code":1,"output":"half of a li…', "code=1 output=half of a li…"),
        ('{"matches":["a","b', 'matches=["a","b'),
        ('{"output":"cut in an escape \\u00', "output=cut in an escape …"),
        ('{"a', ""),
        ('{"count":0,"truncated":false,"matches":[]}', "count=0"),
        ("{}", ""),
        ("no object\nat all", "no object\\nat all"),
    ],
)
def test_json_in_one_line_however_it_is_cut(text: str, said: str) -> None:
    assert brief(text) == said


@given(st.dictionaries(st.text(max_size=8), st.text() | st.integers() | st.lists(st.text(max_size=5))), st.integers(0))
def test_json_may_be_cut_anywhere(value: dict[str, object], at: int) -> None:
    text = json.dumps(value)
    assert "\n" not in brief(text[: at % (len(text) + 1)])


def test_a_result_does_not_repeat_the_arguments() -> None:
    assert brief('{"ok":true,"path":"a","bytes":3}', '{"path":"a","content":"abc"}') == "bytes=3"


def test_a_call_is_named_by_what_it_is_about() -> None:
    assert first_value('{"content":"long","path":"a.txt"}') == "a.txt"
    assert first_value('{"pattern":"x","regex":true}') == "x"
    assert first_value("") == ""


def test_cut_says_that_it_cut() -> None:
    assert cut("abcdef", 4) == "abc…"
    assert cut("abcd", 4) == "abcd"
