from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.servers.gemini import GeminiServer


@pytest.fixture
def gemini_server() -> Iterator[GeminiServer]:
    """A Gemini server on loopback that follows a script; see tests/servers/gemini.py for its use."""
    server = GeminiServer()
    yield server
    server.stop()
    assert server.refused == []
