"""A URL's secrets are in no message, whoever speaks of it."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import pytest

from kode.core.errors import UsageError
from kode.core.store import MemoryStore, open_store, redact
from kode.core.store import open as opening


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("memory:", "memory:"),
        ("sqlite:////a:b/c@d.db?durability=process", "sqlite:////a:b/c@d.db?durability=process"),
        ("postgresql://user:s3cret@host:5432/db", "postgresql://user:***@host:5432/db"),
        ("postgresql://user:s3/cr@et@host/db", "postgresql://user:***@host/db"),
        ("postgresql:/user:s3cret@host/db", "postgresql:/user:***@host/db"),
        ("postgresql:user:s3cret@host/db", "postgresql:user:***@host/db"),
        ("user:s3cret@host/db", "user:***@host/db"),
        ("json:/srv/a:b@c", "json:/srv/a:b@c"),
        ("redis://:s3cret@host", "redis://:***@host"),
        ("x://s3cret@host/p", "x://***@host/p"),
        ("x://host/p?password=s3cret&ssl=1", "x://host/p?password=***&ssl=1"),
        ("x://h?api_key=s3cret;region=eu", "x://h?api_key=***;region=eu"),
        ("x://h?aws%5Fsecret=s3cret", "x://h?aws%5Fsecret=***"),
        ("x://h?authToken=s3cret#f", "x://h?authToken=***#f"),
        ("no url at all", "no url at all"),
    ],
)
def test_what_is_shown(url: str, shown: str) -> None:
    assert redact(url) == shown


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite://u:s3cret@h/x.db", "names no file"),
        ("sqlite:///x.db?password=s3cret", "no option 'password'; it knows durability, busy_timeout_s"),
        ("sqlite:///x.db?durabilty=power", "do you mean 'durability'"),
        ("memory://u:s3cret@h", "has no place"),
        ("memory:?token=s3cret", "no option 'token'; it knows (none)"),
        ("dynamodb://u:s3cret@table?token=s3cret", "No store is known for the scheme 'dynamodb'"),
        ("postgresql://u:s3cret@h/db?password=s3cret", "no option 'password'"),
        ("postgresql://postgresql@h/db?nope=s3cret", "A postgresql store has no option 'nope'"),
        ("what://u:s3cret@[::1", "cannot be read as a URL"),
        ("what://u:s3cret@h\u2100x", "cannot be read as a URL"),
    ],
)
def test_no_message_holds_a_secret(url: str, words: str) -> None:
    with pytest.raises(UsageError) as error:
        open_store(url)
    assert words in str(error.value)
    told = f"{error.value!r} {error.value} {error.value.fields} {error.value.__cause__}"
    assert "s3cret" not in told


class Talkative(MemoryStore):
    """A store of another wheel that says all it is told."""

    @classmethod
    def from_url(cls, url: Any, **_: Any) -> Any:
        if url.path == "/port":
            return url.port
        raise UsageError(f"{url.geturl()} and {url.password} are wrong", code="theirs", url=url.geturl(), n=1)


@pytest.mark.parametrize("secret", ["s3cret", "p%40ss", "a/b"])
def test_nor_does_what_another_wheel_says(monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    monkeypatch.setattr(opening, "_find", lambda _: EntryPoint("theirs", f"{__name__}:Talkative", "kode.store"))
    monkeypatch.setattr(EntryPoint, "load", lambda _: Talkative)
    with pytest.raises(UsageError) as error:
        open_store(f"theirs://u:{secret}@h/db?token={secret}")
    told = f"{error.value} {error.value.fields}"
    assert (error.value.code, error.value.fields["n"]) == ("theirs", 1)
    assert secret not in told
    assert "p@ss" not in told
    with pytest.raises(UsageError, match="cannot be read") as bad:
        open_store("theirs://h:s3cret/port")
    assert bad.value.code == "bad_url"
