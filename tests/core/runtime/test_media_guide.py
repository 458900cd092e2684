"""The guide on media: its program prints what it says, its table is that of the code; and what a large image costs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.servers.gemini import GeminiServer, content, frames, said

from kode.core.config import Dependencies
from kode.core.provider.anthropic.media import media_rules as anthropic_rules
from kode.core.provider.gemini.media import MEDIA
from kode.core.provider.media import MAX_TEXT
from kode.core.provider.openai.media import media_rules
from kode.core.provider.wire.sse import MAX_EVENT_BYTES
from kode.core.runtime.media.door import APART
from kode.core.runtime.media.supply import MAX_MADE
from kode.core.store.memory import MemoryStore

GUIDE = (Path(__file__).resolve().parents[3] / "docs" / "guides" / "media.md").read_text()
MB = 1024 * 1024
APIS = {
    "Anthropic": anthropic_rules(official=True),
    "OpenAI, responses": media_rules("openai", "gpt-5", api="responses", official=True),
    "OpenAI, chat": media_rules("openai", "gpt-5", official=True),
    "Gemini": MEDIA,
}


@pytest.mark.integration
def test_the_program_prints_what_the_guide_says(tmp_path: Path) -> None:
    ((program, printed),) = re.findall(r"^```python\n(.*?)^```\n\nprints\n\n```text\n(.*?)^```$", GUIDE, re.M | re.S)
    command = [sys.executable, "-W", "error", "-c", program]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert (ran.stderr, ran.returncode, ran.stdout) == ("", 0, printed)


@pytest.mark.parametrize("name", list(APIS))
def test_the_table_is_that_of_the_code(name: str) -> None:
    (row,) = (line for line in GUIDE.splitlines() if line.startswith(f"| {name} |"))
    images, _, sound, video, *_ = (cell.strip() for cell in row.split("|")[2:-1])
    rules = APIS[name]
    size = rules["image"].max_bytes / MB
    assert images.endswith(f"{size:g} MB")
    named = {each.split("/")[1].upper() for each in rules["image"].types}
    assert named >= {each.upper() for each in images.split(", ")[:-1]}
    assert ("audio" in rules, "video" in rules) == (sound != "no", video != "no")


def test_the_numbers_are_those_of_the_code() -> None:
    over = Dependencies(MemoryStore()).upload_over
    for told in (
        f"{APART // 1024} KB of base64",
        "(4 MB)" if over == 4 * MB else "?",
        f"up to {MAX_TEXT // 1024} KB",
        f"{MAX_MADE // MB} MB of base64, each event of a stream {MAX_EVENT_BYTES // MB} MB",
    ):
        assert told in " ".join(GUIDE.split())


PROGRAM = """
import base64, resource, sys
import anyio
from kode.core import Agent, AgentConfig, AgentTemplate, Dependencies, MediaBlock, open_store
from kode.core.provider.gemini import GeminiProvider

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

async def main():
    provider = GeminiProvider(base_url=sys.argv[1], api_key="k", environ={}, model="gemini-2.5-pro")
    async with open_store("sqlite:///a.db") as store:
        deps = Dependencies(store=store, providers={"m": provider}, upload_over=None)
        agent = await Agent.create(AgentConfig(AgentTemplate("t", model="m"), agent_id="a"), deps)
        await agent.run("warm up")
        before = peak()
        data = base64.b64encode(b"\\x89PNG\\r\\n\\x1a\\n" + bytes(20 * 1024 * 1024)).decode()
        await agent.send([MediaBlock("image", data=data)])
        del data
        sent = peak()
        assert (await agent.complete()).text == "seen"
        asked = peak()
        for _ in range(4):
            await agent.run("again")
        print(sent - before, asked - before, peak() - before)
        await agent.close()
    await provider.close()

anyio.run(main)
"""


@pytest.mark.integration
def test_a_large_image_costs_a_few_copies_of_itself(tmp_path: Path) -> None:
    """20 MB, 27 as base64: stored, read, written into a body and sent; later requests add nothing for good."""
    server = GeminiServer()
    server.reply(*(content(frames(said(text))) for text in ("warm", "seen", *"abcd")))
    command = [sys.executable, "-W", "error", "-c", PROGRAM, server.url]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    server.stop()
    assert (ran.stderr, ran.returncode) == ("", 0)
    sent, asked, again = map(int, ran.stdout.split())
    assert sent <= 180
    assert asked <= 240
    assert again <= 480
    assert len(server.requests[-1].raw) > 27_000_000
