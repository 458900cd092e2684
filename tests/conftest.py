"""What holds for every test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, settings
from tests.servers.chat import ChatServer

# A machine under load is no fault of the code: nothing here is judged by the clock.
settings.register_profile("kode", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("kode")


@pytest.fixture
def chat_server() -> Iterator[ChatServer]:
    """A chat-completions server on loopback that follows a script; see tests/servers/chat.py for its use."""
    server = ChatServer()
    yield server
    server.stop()
    assert server.refused == []


@pytest.fixture(scope="session")
def missing() -> Callable[[str], NoReturn]:
    """Say that a real component is not here: the test is skipped, or fails where KODE_REQUIRE_ALL is set (CI)."""

    def say(why: str) -> NoReturn:
        if os.environ.get("KODE_REQUIRE_ALL"):
            pytest.fail(why)
        pytest.skip(why)

    return say


@pytest.fixture(scope="session")
def component(missing: Callable[[str], NoReturn]) -> Callable[[str, str], str]:
    """Give the path of a program that a test needs: ``component("rg", "apt-get install ripgrep")``."""

    def find(program: str, how: str) -> str:
        return shutil.which(program) or missing(f"{program} is not installed here; get it by: {how}")

    return find
