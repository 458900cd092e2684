"""The reader in docs/internals/json-store.md, which knows nothing but the page, reads what the store wrote."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kode.core.store import Key, Record
from kode.core.store.json import folder, journal, lines
from kode.core.testing.conformance.store.records import head, row

CRASH: dict[str, Any] = runpy.run_path(str(Path(__file__).with_name("test_json_crash.py")))
PAGE = Path(__file__).parents[2] / "docs/internals/json-store.md"
Reader = Callable[[str], Any]


@pytest.fixture(scope="module")
def reader() -> Reader:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(code.splitlines()) <= 60
    named: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), named)
    records: Reader = named["records"]
    return records


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "is_long", lambda index: index.end > index.begun + 900)
    monkeypatch.setattr(lines, "LARGE", 60)
    monkeypatch.setattr(journal, "PORTION", 500)
    monkeypatch.setattr(journal, "GONE", 3)


def told(records: list[Record]) -> dict[Key, Any]:
    return {r.address: ({k: v for k, v in r.columns.items() if v is not None}, r.body) for r in records}


def test_it_reads_all_that_the_store_reads(tmp_path: Path, reader: Reader) -> None:
    """After each write, through closed journals, deletions, an erasure, and bodies of all four forms."""
    place = CRASH["at"](tmp_path)
    seen: set[str] = set()
    odd = [b"7{this is, no JSON}", b'7{"a":1}{"b":2}', b"1{}\n", "ü\0".encode(), b"1[NaN]", b"", b'12[1,{"a":"}"}]']
    story = [
        CRASH["apply"](
            *(row("document", f"d{n}", "u", body) for n, body in enumerate(odd)), row("blob", "x", "u", b"\xff")
        ),
        *CRASH["story"]()[:-3],
        CRASH["apply"](row("inbox", "1", "u", b"1[]", id="a"), deletes=[Key("inbox", "u", "1"), Key("call", "u", "3")]),
    ]
    for write in story:
        write(place)
        (path,) = (tmp_path / "agents").iterdir()
        found = {Key(kind, uid, key): (columns, body) for kind, uid, key, columns, body in reader(str(path))}
        assert found == told(CRASH["content"](place).values())
        text = (path / "journal").read_bytes()
        first, second, *_ = [*text.split(b"\n"), b"", b""]
        seen |= {"segments"} if b'"segments":[[' in first else set()
        seen |= {"several"} if second.startswith(b"[1,") and b'"file":' in second[:20] else set()
        seen |= {"gone"} if b'"segments"' in first and b'"del":[[' in first else set()
        seen |= {form for form in ("base64", "file") if b'{"%b":"' % form.encode() in text}
    assert seen == {"segments", "several", "gone", "base64", "file"}


@pytest.mark.parametrize("removed", [2, 6])
def test_it_knows_what_lists_name_in_vain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: Reader, removed: int
) -> None:
    monkeypatch.setattr(journal, "LIVE", 1_000)
    place = CRASH["at"](tmp_path)
    for n in range(1, 40):
        CRASH["apply"](head("agent"), CRASH["message"](n, 30))(place)
        if n in range(20, 20 + removed):
            CRASH["apply"](deletes=[Key("message", "u", CRASH["int_key"](n - 18))])(place)
    found = {Key(kind, uid, key) for kind, uid, key, *_ in reader(str(tmp_path / "agents" / "agent"))}
    assert found == set(CRASH["content"](place))
