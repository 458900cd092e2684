"""Tools and sandboxes are found by name: registered ones, and those that wheels bring."""

from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from kode.core import discovery
from kode.core.errors import NotBoundError, SandboxError, UsageError
from kode.core.sandbox.catalog import SandboxFactory
from kode.core.sandbox.local import LocalSandbox
from kode.core.tools.base import Tool
from kode.core.tools.builtin import bash_run, fs_read
from kode.core.tools.catalog import ToolRegistry
from kode.core.tools.define import tool


@pytest.fixture
def brought(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """What installed wheels bring."""
    points: list[EntryPoint] = []

    def find(**wanted: str) -> EntryPoints:
        return EntryPoints(points).select(**wanted)

    monkeypatch.setattr(discovery, "entry_points", find)
    return points


def made(times: int) -> Tool:
    @tool(name="made", description="Do.", timeout_s=times)
    def run() -> None: ...

    return run


def test_a_tool_is_found_by_its_name(brought: list[EntryPoint]) -> None:
    registry = ToolRegistry([fs_read])
    assert registry.get("fs_read") is fs_read
    assert registry.register(fs_read) is fs_read
    one = made(1)
    registry.register(made(1))
    assert registry.register(one) is one  # the same definition, made again
    with pytest.raises(UsageError, match="another definition"):
        registry.register(made(2))
    assert registry.names() == ("fs_read", "made")
    with pytest.raises(NotBoundError, match=r"Known are: fs_read, made\."):
        registry.get("none")
    with pytest.raises(UsageError, match="is no Tool"):
        registry.register(print)  # type: ignore[arg-type]


def test_a_wheel_brings_a_tool(brought: list[EntryPoint]) -> None:
    place = "kode.core.tools.builtin:bash_run"
    brought += [EntryPoint("bash_run", place, "kode.tool"), EntryPoint("bash_run", place, "kode.tool")]
    registry = ToolRegistry()
    assert registry.names() == ("bash_run",)
    assert registry.get("bash_run") is bash_run
    with pytest.raises(NotBoundError):
        ToolRegistry(installed=False).get("bash_run")


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (["kode.core.tools.builtin:none"], "cannot be loaded"),
        (["kode.none:x"], "cannot be loaded"),
        (["kode.core.tools.builtin:fs_read"], "no tool named"),
        (["os:getcwd"], "no tool named"),
        (["kode.core.tools.builtin:bash_run", "other:bash_run"], "Two wheels claim"),
    ],
)
def test_what_a_wheel_brings_may_be_wrong(brought: list[EntryPoint], values: list[str], why: str) -> None:
    brought += [EntryPoint("bash_run", value, "kode.tool") for value in values]
    with pytest.raises(UsageError, match=why):
        ToolRegistry().get("bash_run")


async def test_sandboxes_by_kind(brought: list[EntryPoint], tmp_path: Path) -> None:
    factory = SandboxFactory()
    with pytest.raises(NotBoundError, match="no sandbox of kind 'docker'"):
        factory.get("docker")
    brought.append(EntryPoint("local", "kode.core.sandbox.local:LocalSandbox", "kode.sandbox"))
    assert factory.kinds() == ("local",)
    sandbox = factory.create("local", root=tmp_path)
    assert isinstance(sandbox, LocalSandbox)
    assert sandbox.ref
    assert await factory.kill_ref(sandbox.ref) == 0
    with pytest.raises(SandboxError):
        await factory.kill_ref("local:?")
    with pytest.raises(UsageError, match=r"has no option 'colour'; it knows .*root"):
        factory.create("local", colour="red")
    factory.register("mine", LocalSandbox)
    with pytest.raises(UsageError, match="another class"):
        factory.register("mine", SandboxFactory)  # type: ignore[arg-type]
    brought.append(EntryPoint("bad", "kode.none:X", "kode.sandbox"))
    brought.extend(EntryPoint("two", f"{module}:X", "kode.sandbox") for module in "ab")
    for kind, code in (("bad", "not_loaded"), ("two", "claimed_twice")):
        with pytest.raises(UsageError) as caught:
            factory.get(kind)
        assert caught.value.code == code
