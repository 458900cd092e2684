"""What ``isolation="bwrap"`` promises, tried from inside; and that it never runs anything without it."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.core.conftest import Lab
from tests.sandboxes.conftest import isolated_sandbox

from kode.core.errors import SandboxError, UsageError
from kode.core.jsontext import dump
from kode.core.sandbox.catalog import default_sandboxes
from kode.core.sandbox.local import LocalSandbox
from kode.core.testing.conformance.sandbox.case import refused
from kode.core.tools.builtin import bash_run


@pytest.fixture
async def sandbox(tmp_path: Path, isolated: None, anyio_backend: str) -> AsyncIterator[LocalSandbox]:
    one = isolated_sandbox(tmp_path / "root")
    await one.open()
    yield one
    await one.close()


@pytest.fixture
async def plain(tmp_path: Path, anyio_backend: str) -> AsyncIterator[LocalSandbox]:
    """The same without isolation: what is tried inside must succeed here, or the trial shows nothing."""
    one = LocalSandbox(tmp_path / "root")
    yield one
    await one.close()


async def says(sandbox: LocalSandbox, command: str) -> str:
    return (await sandbox.exec(command, merge_stderr=True)).output.strip()


# ---- files -------------------------------------------------------------------------------------------------


async def test_nothing_outside_can_be_written(sandbox: LocalSandbox, plain: LocalSandbox, tmp_path: Path) -> None:
    tried = f"""
        for place in / /usr /bin /etc /var /run /proc /sys .. {tmp_path}; do
            (: > $place/kode-was-here) 2>/dev/null && echo "wrote to $place"
            mkdir $place/kode-was-there 2>/dev/null && echo "made a folder in $place"
        done
        (: >> /etc/passwd) 2>/dev/null && echo appended
        chmod 777 /etc/passwd 2>/dev/null && echo changed
        ln /etc/passwd linked 2>/dev/null && echo linked
        echo mine > mine; cat mine
    """
    # The folder above the root is there, as a way to it; what is written there stays inside and is gone with it.
    inside = await says(sandbox, tried)
    assert set(inside.splitlines()) <= {
        "mine",
        *(f"{what} {place}" for what in ("wrote to", "made a folder in") for place in ("..", tmp_path)),
    }
    assert sorted(os.listdir(tmp_path)) == ["root"]
    assert "wrote to .." in await says(
        plain,
        tried.replace("/ /usr /bin /etc /var /run /proc /sys", "")
        .replace("chmod", ":")
        .replace("/etc/passwd", "nothing"),
    )
    assert sorted(os.listdir(tmp_path)) == ["kode-was-here", "kode-was-there", "root"]


async def test_kernel_parameters_cannot_be_set(sandbox: LocalSandbox) -> None:
    """An owner that is root could: user 0 needs no capability for them."""
    tried = """
        for name in kernel/core_pattern kernel/hostname vm/swappiness net/ipv4/ip_forward; do
            old=$(cat /proc/sys/$name) && (echo "$old" > /proc/sys/$name) 2>/dev/null && echo "set $name"
        done
        for name in sysrq-trigger irq/default_smp_affinity; do
            (: >> /proc/$name) 2>/dev/null && echo "opened $name"
        done
        echo done
    """
    assert await says(sandbox, tried) == "done"


async def test_homes_sockets_and_other_data_are_not_there(
    sandbox: LocalSandbox, plain: LocalSandbox, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("s3cret")
    (tmp_path / "root/link").symlink_to(tmp_path)
    (tmp_path / "root/file").symlink_to(tmp_path / "secret")
    tried = f"cat link/secret file {tmp_path}/secret 2>/dev/null"
    assert await says(sandbox, tried) == ""
    assert await says(plain, tried) == "s3cret" * 3
    assert (
        await says(sandbox, "ls -A /root /home /run /var /mnt /srv /sys 2>/dev/null | grep -v '^/' | sort -u") == "tmp"
    )
    assert await says(sandbox, "cat /etc/shadow /etc/gshadow 2>/dev/null; ls /etc/ssl/private 2>/dev/null") == ""


async def test_what_is_readable_is_not_writable(sandbox: LocalSandbox, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more/file").write_text("text")
    more = LocalSandbox(tmp_path / "root", isolation="bwrap", readable=[str(tmp_path / "more")])
    assert await says(more, f"cat {tmp_path}/more/file; (: > {tmp_path}/more/file) 2>/dev/null || echo no") == "textno"
    assert await says(sandbox, f"ls {tmp_path}") == "root"


async def test_what_is_readable_below_the_root_stays_as_it_is(tmp_path: Path, isolated: None) -> None:
    """And the root is writable within what is readable: whichever is named first."""
    root = tmp_path / "more/root"
    (root / "vendor").mkdir(parents=True)
    (tmp_path / "more/file").write_text("text")
    box = isolated_sandbox(root, readable=[str(root / "vendor"), str(tmp_path / "more"), str(root)])
    tried = "(: > vendor/x) 2>/dev/null && echo wrote; (: > ../x) 2>/dev/null && echo above; cat ../file; echo y > y"
    assert await says(box, tried) == "text"
    assert sorted(os.listdir(root)) == ["vendor", "y"]
    (root / "vendor").rename(root / "was")
    (root / "vendor").symlink_to("/")  # as a command could that runs without this option
    with pytest.raises(SandboxError, match="is a link by now"):
        await box.exec("ls vendor")


@pytest.mark.parametrize("path", ["/", "/proc", "/proc/sys/..", "/dev", "/proc/1"])
async def test_what_would_undo_the_isolation_cannot_be_readable(tmp_path: Path, path: str) -> None:
    with pytest.raises(UsageError, match="cannot be made readable"):
        LocalSandbox(tmp_path, isolation="bwrap", readable=[path])


async def test_a_readable_path_that_is_missing_is_named(tmp_path: Path, isolated: None) -> None:
    box = LocalSandbox(tmp_path, isolation="bwrap", readable=["/no/such/place"])
    with pytest.raises(SandboxError, match="/no/such/place") as caught:
        await box.open()
    assert caught.value.code == "isolation_unavailable"


async def test_tmp_is_each_commands_own(sandbox: LocalSandbox) -> None:
    assert await says(sandbox, "echo $HOME $TMPDIR; echo x > /tmp/kode-mine; cat /var/tmp/kode-mine") == "/tmp /tmp\nx"
    assert await says(sandbox, "ls -A /tmp | grep kode-mine") == ""
    assert not os.path.exists("/tmp/kode-mine")  # noqa: ASYNC240 - one look
    assert (await sandbox.exec("echo $HOME", env={"HOME": "/else"})).stdout == b"/else\n"


# ---- network, processes, rights ------------------------------------------------------------------------------


async def test_there_is_no_network(sandbox: LocalSandbox, plain: LocalSandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connect = ["bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{listener.getsockname()[1]} && echo connected"]
        assert b"connected" not in (await sandbox.exec(connect)).stdout
        assert b"connected" in (await plain.exec(connect)).stdout
    assert await says(sandbox, "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '") == "lo"


async def test_the_host_is_out_of_sight(
    sandbox: LocalSandbox, plain: LocalSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No process, and nobody's variables but its own. Plain commands can look into their owner."""
    monkeypatch.setenv("KODE_CANARY", "s3cret")
    owner = os.getpid()
    assert await says(sandbox, "cat /proc/[0-9]*/environ 2>/dev/null | grep -c s3cret") == "0"
    assert await says(sandbox, f"[ -e /proc/{owner} ] || echo none") == "none"
    assert int(await says(sandbox, "ls -d /proc/[0-9]* | wc -l")) < 8
    assert await says(plain, f"[ -e /proc/{owner} ] && echo there") == "there"
    assert await says(sandbox, "hostname 2>/dev/null || cat /proc/sys/kernel/hostname") == "sandbox"


async def test_it_has_no_rights_and_gets_none(sandbox: LocalSandbox) -> None:
    status = await says(sandbox, "grep -E '^(Cap|NoNewPrivs)' /proc/self/status")
    assert set(status.split()) == {
        *("CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:", "0000000000000000", "NoNewPrivs:", "1")
    }
    tried = """
        mount -o remount,rw /usr 2>/dev/null && echo remounted
        mount -t tmpfs tmpfs /usr 2>/dev/null && echo mounted
        umount /proc/sys 2>/dev/null && echo unmounted
        chroot / true 2>/dev/null && echo chroot
        mknod null c 1 3 2>/dev/null && echo mknod
        nsenter -t 1 -m true 2>/dev/null && echo entered
        ls /proc/1/root/root /proc/1/root/home 2>/dev/null
        ls /proc/self/fd
    """
    # A shell that lists its descriptors has three, and the folder it lists.
    assert (await says(sandbox, tried)).split() == ["0", "1", "2", "3"]


async def test_every_namespace_is_its_own(sandbox: LocalSandbox) -> None:
    names = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
    inside = (await says(sandbox, f"for n in {' '.join(names)}; do readlink /proc/self/ns/$n; done")).split()
    assert [
        name for name, there in zip(names, inside, strict=True) if there == os.readlink(f"/proc/self/ns/{name}")
    ] == []


async def test_it_makes_no_namespaces(
    sandbox: LocalSandbox, plain: LocalSandbox, component: Callable[[str, str], str]
) -> None:
    """In one of its own it would be root, with all of the kernel that root can reach."""
    unshare = component("unshare", "apt-get install util-linux")
    if "--disable-userns" not in await says(plain, "bwrap --help"):
        pytest.skip("bubblewrap is too old to forbid it")
    assert (await plain.exec([unshare, "--user", "true"])).code == 0
    assert (await sandbox.exec([unshare, "--user", "true"])).code != 0


# ---- never without it ----------------------------------------------------------------------------------------


async def test_without_bubblewrap_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    sandbox = LocalSandbox(tmp_path, isolation="bwrap")
    for attempt in (sandbox.open(), sandbox.exec("touch ran"), sandbox.spawn("touch ran")):
        with pytest.raises(SandboxError, match="apt-get install bubblewrap") as caught:
            await attempt
        assert caught.value.code == "isolation_unavailable"
    assert os.listdir(tmp_path) == []
    await sandbox.write("f", b"files need none")


@pytest.mark.parametrize(
    ("pretend", "why"),
    [
        ("echo 'bwrap: No permissions to create new namespace' >&2; exit 1", "No permissions to create new namespace"),
        ('while [ "$1" != -- ]; do shift; done; shift; exec "$@"', "processes of the host can be seen"),
        ("exit 0", "ended with code 0"),
        ("sleep 60", "did not end within 0.5 s"),
    ],
)
async def test_an_isolation_that_is_none_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pretend: str, why: str
) -> None:
    """Installed is not enough: what it promises is tried out."""
    if "sleep" in pretend:
        monkeypatch.setattr("kode.core.sandbox.local.PROBE_S", 0.5)
    program = tmp_path / "bwrap"
    program.write_text(f"#!/bin/sh\ncase $1 in --help) exit 0 ;; esac\n{pretend}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    sandbox = LocalSandbox(tmp_path / "root", isolation="bwrap")
    for attempt in (sandbox.open(), sandbox.exec("touch ran")):
        with pytest.raises(SandboxError, match=why) as caught:
            await attempt
        assert caught.value.code == "isolation_unavailable"
    assert os.listdir(tmp_path / "root") == []


async def test_it_is_chosen_by_options(tmp_path: Path, isolated: None) -> None:
    """As a template holds them."""
    sandbox = default_sandboxes.create("local", root=str(tmp_path), isolation="bwrap", readable=[])
    await sandbox.open()
    assert (await sandbox.exec("ls /proc | grep -c '^[0-9]'")).code == 0
    assert await refused(sandbox.exec("true", cwd="..")) == "outside_root"
    await sandbox.close()


async def test_what_cannot_be_isolated_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give 'none' or 'bwrap'"):
        LocalSandbox(tmp_path, isolation="docker")  # type: ignore[arg-type]
    with pytest.raises(SandboxError, match="below it"):
        LocalSandbox("/", isolation="bwrap")


async def test_an_agent_starts_nothing_without_it(
    tmp_path: Path, isolated: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One clear error before the model is asked; where it works, the same agent goes on."""
    lab = Lab()
    options = dump({"root": str(tmp_path / "root"), "isolation": "bwrap"})
    agent = await lab.agent([], deps=lab.deps(["done"], bash_run), sandbox_options=options, tools=("bash_run",))
    with monkeypatch.context() as without:
        without.setenv("PATH", str(tmp_path))
        with pytest.raises(SandboxError, match="bubblewrap") as caught:
            await agent.run("hello")
        assert caught.value.code == "isolation_unavailable"
        assert lab.provider.requests == []
    assert (await agent.complete()).text == "done"
    await agent.close()
