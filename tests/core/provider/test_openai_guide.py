"""The program in docs/guides/models.md is what it says: it runs."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.servers.chat import ChatServer, fail

Program = Callable[[], Awaitable[str]]

GUIDE = Path(__file__).parents[3] / "docs/guides/models.md"


@pytest.fixture
def program(chat_server: ChatServer) -> Program:
    """Its ``main``; the server stands in for the one on the reader's machine."""
    text, *_ = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert text.count("http://localhost:11434") == 1
    space: dict[str, Any] = {"__name__": "guide"}
    exec(compile(text.replace("http://localhost:11434", chat_server.url), "guide", "exec"), space)
    main: Program = space["main"]
    return main


@pytest.mark.integration
async def test_the_program(chat_server: ChatServer, program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    chat_server.reply("Once upon a time.")
    assert await program() == "Once upon a time."
    assert capsys.readouterr().out == "Once upon a time."


@pytest.mark.integration
async def test_it_shows_what_failed(
    chat_server: ChatServer, program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    chat_server.reply(fail(404, "model 'qwen3:8b' not found, try pulling it first"))
    assert await program() == ""
    assert "model 'qwen3:8b' not found, try pulling it first." in capsys.readouterr().out
