"""docs/guides/serverless.md quotes the examples as they are, and says of limits and routes what holds."""

from __future__ import annotations

import re
import tomllib
from importlib import import_module
from typing import Any

import pytest
from tests.examples.conftest import EXAMPLES

from kode.core import Limits

GUIDE = (EXAMPLES.parent / "guides/serverless.md").read_text()
FILES = ("event_stream.py", "lambda_handler.py", "queue_worker.py", "web_app.py")
SOURCES = {name: (EXAMPLES / name).read_text() for name in FILES}
PIECES = [
    piece.rstrip("\n")
    for block in re.findall(r"^```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    for piece in block.split("\n\n\n")
]
UNITS = {"s": 1.0, "days": 86_400.0, "MiB": 1_048_576.0, "": 1.0}


def test_each_piece_is_that_of_a_file() -> None:
    assert len(PIECES) > 12
    assert [piece for piece in PIECES if not any(f"\n{piece}\n" in source for source in SOURCES.values())] == []


@pytest.mark.parametrize("name", FILES)
def test_each_file_is_named_small_and_checked(name: str) -> None:
    assert f"(../examples/{name})" in GUIDE
    assert len(SOURCES[name].splitlines()) <= 120
    checked = tomllib.loads((EXAMPLES.parents[1] / "pyproject.toml").read_text())["tool"]["mypy"]["files"]
    assert f"docs/examples/{name}" in checked


def test_each_limit_is_as_said() -> None:
    named = re.findall(r"`Limits\.(\w+)`(?: \((\d+) ?(\w*)\))?", GUIDE)
    assert len(named) > 8
    for name, value, unit in named:
        default = getattr(Limits(), name)
        assert not value or default == float(value) * UNITS[unit], name


def test_each_request_of_the_table_has_a_route() -> None:
    web_app: Any = import_module("web_app")
    said = set(re.findall(r"^\| `(GET|POST) (/agents/ID/\w+)`", GUIDE, re.MULTILINE))
    routed = {
        (method, route.path.replace("{id:path}", "ID"))
        for route in web_app.routes
        for method in route.methods - {"HEAD"}
    }
    assert said == routed == set(re.findall(r"^(GET|POST) +(/agents/ID/\w+)", SOURCES["web_app.py"], re.MULTILINE))
