"""The program in docs/guides/models.md is what it says: it runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tests.servers.chat import ChatServer

GUIDE = Path(__file__).parents[3] / "docs/guides/models.md"


@pytest.mark.integration
async def test_the_program(chat_server: ChatServer, capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    space: dict[str, Any] = {"__name__": "guide"}
    exec(compile(program.replace("http://localhost:11434", chat_server.url), "guide", "exec"), space)
    chat_server.reply("Once upon a time.")
    assert await space["main"]() == "Once upon a time."
    assert capsys.readouterr().out == "Once upon a time."
