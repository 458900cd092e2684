"""`open_store` finds stores by their URL's scheme."""

from __future__ import annotations

import os
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kode.core.errors import UsageError
from kode.core.store import JSONStore, MemoryStore, SqliteStore, open_store
from kode.core.store import open as opening
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store import Author


@pytest.mark.anyio
async def test_urls_of_what_is_built_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    memory, relative = (
        open_store("memory:"),
        open_store("sqlite:///sub/a%20b.db?durability=process&busy_timeout_s=0.5"),
    )
    assert isinstance(memory, MemoryStore)
    assert isinstance(relative, SqliteStore)
    assert (relative.path, relative.durability, relative._busy_timeout_s) == ("sub/a b.db", "process", 0.5)
    clock = VirtualClock(5)
    async with open_store(f"sqlite:///{tmp_path}/abs.db", clock=clock) as store:
        await Author(store).create()
        assert await store.now() == 5
    assert (tmp_path / "abs.db").exists()
    assert open_store("sqlite:///x.db").durability == "power"


@pytest.mark.anyio
async def test_urls_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    relative = open_store("json:./.kode/a%20b?durability=process&busy_timeout_s=0.5")
    assert isinstance(relative, JSONStore)
    assert (relative.path, relative.durability, relative._busy_timeout_s) == (".kode/a b", "process", 0.5)
    for url in (f"json:{tmp_path}/abs", f"json://{tmp_path}/abs"):
        async with open_store(url, clock=VirtualClock(5)) as store:
            assert await store.now() == 5
            assert (store.durability, getattr(store, "path", "")) == ("power", f"{tmp_path}/abs")
    assert os.listdir(tmp_path) == ["abs"]


@pytest.mark.parametrize(
    ("url", "code", "words"),
    [
        ("dynamodb://u:secret@table", "unknown_store", "No store is known for the scheme 'dynamodb'. Known are"),
        ("postgresql://u:secret@h/db?pool=1", "bad_url", "pool_max"),
        ("agents.db", "unknown_store", "a file is written sqlite:///NAME.db"),
        ("what://u:secret@h", "unknown_store", "json, memory, postgres"),
        ("", "unknown_store", ""),
        ("sqlite:x.db", "bad_url", "sqlite:///relative.db"),
        ("sqlite://host/x.db", "bad_url", ""),
        ("sqlite:///", "bad_url", ""),
        ("sqlite:///x.db?sync=1", "bad_url", "durability, busy_timeout_s"),
        ("sqlite:///x.db?durability=none", "bad_url", "'power' or 'process'"),
        ("sqlite:///x.db?durability=power&durability=power", "bad_url", "once"),
        ("sqlite:///x.db?busy_timeout_s=soon", "bad_url", "seconds"),
        ("json:", "bad_url", "json:./relative"),
        ("json://host/x", "bad_url", "json:/absolute"),
        ("json:x?sync=1", "bad_url", "durability, busy_timeout_s"),
        ("json:x?durability=none", "bad_url", "'power' or 'process'"),
        ("json:x?busy_timeout_s=soon", "bad_url", "seconds"),
        ("memory:x", "bad_url", "memory:"),
        ("memory:?x=1", "bad_url", ""),
    ],
)
def test_what_is_wrong_is_said_without_secrets(url: str, code: str, words: str) -> None:
    with pytest.raises(UsageError) as error:
        open_store(url)
    assert error.value.code == code
    assert words in str(error.value)
    assert "secret" not in str(error.value)


class Theirs(MemoryStore):
    """A store of another wheel."""


def _claims(*wheels: str) -> Any:
    def entry_points(group: str, name: str) -> list[EntryPoint]:
        assert (group, name) == ("kode.store", "theirs")
        found = []
        for wheel in wheels:
            entry = EntryPoint(name, f"{__name__}:Theirs", group)
            vars(entry).update(dist=SimpleNamespace(name=wheel))
            found.append(entry)
        return found

    return entry_points


def test_two_wheels_that_claim_a_scheme_are_both_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "entry_points", _claims("wheel-b", "wheel-a"))
    with pytest.raises(UsageError) as error:
        open_store("theirs:")
    assert (error.value.code, error.value.fields["wheels"]) == ("ambiguous_store", ["wheel-a", "wheel-b"])


def test_a_wheel_s_store_is_made_by_its_own_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "entry_points", _claims("wheel-a", "wheel-a"))
    monkeypatch.setattr(EntryPoint, "load", lambda self: Theirs)
    assert isinstance(open_store("theirs:"), Theirs)
