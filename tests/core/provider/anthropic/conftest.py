from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.servers.anthropic import MessagesServer


@pytest.fixture
def messages_server() -> Iterator[MessagesServer]:
    """A Messages server on loopback that follows a script; see tests/servers/anthropic.py for its use."""
    server = MessagesServer()
    yield server
    server.stop()
    assert server.refused == []
