"""The script that asks real vendors: without keys it asks nobody, and against a server here it judges what came."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.servers.chat import ChatServer, call, fail

ROOT = Path(__file__).parents[2]
KEY = "sk-canary-4711"

pytestmark = pytest.mark.integration


def live(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.endswith(("_API_KEY", "_BASE_URL"))}
    command = [sys.executable, str(ROOT / "scripts/live_providers.py"), *arguments]
    return subprocess.run(command, env={**kept, **environ}, capture_output=True, text=True, timeout=60, check=False)


def test_without_keys_nobody_is_asked() -> None:
    done = live()
    assert (done.returncode, done.stderr) == (0, "")
    assert "nobody was asked" in done.stdout
    assert "ANTHROPIC_API_KEY" in done.stdout


def test_a_conversation_is_judged(chat_server: ChatServer) -> None:
    chat_server.key = KEY
    chat_server.reply(
        call("look_into", {"box": "red"}, usage=(100, 20)), "Quince.",
        "I do not need to look.",
        fail(400, f"No, not with {KEY}.", type="invalid_request_error"),
    )  # fmt: skip
    environ = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": chat_server.url}
    names = ["openai-chat:gpt-9", "openai-chat:lazy", "openai-chat:stern", "groq", "nobody"]
    done = live(*names, "--prices", "1", "2", **environ)
    head, fine, lazy, stern, keyless, unknown = done.stdout.splitlines()
    assert head.split("  ")[0].strip() == "vendor"
    first = fine.split()
    assert first[:3] == ["openai-chat", "gpt-9", "chat"]
    assert (first[4:6], first[7:]) == (["2", "110/25"], ["0.00016", "ok"])
    assert float(first[3]) >= 0
    assert lazy.endswith("FAILED: it did not call the tool")
    assert "FAILED bad_request" in stern
    assert "GROQ_API_KEY" in keyless
    assert "There is no provider 'nobody'" in unknown
    assert done.returncode == 1
    assert KEY not in done.stdout + done.stderr


def test_all_well_is_exit_0(chat_server: ChatServer) -> None:
    chat_server.reply(call("look_into", {"box": "red"}), "quince")
    done = live("vllm:m", VLLM_BASE_URL=chat_server.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert chat_server.connections == 1, "the second step goes over the connection of the first"
