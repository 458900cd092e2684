"""Commands in the background: seen while they run, really ended, and nobody else's."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from kode.core.kernel.limits import Limits
from kode.core.sandbox import local
from kode.core.sandbox.local import LocalSandbox
from kode.core.tools.builtin import bash_kill, bash_logs, bash_run


async def start(bench: Any, cmd: str) -> str:
    answer = await bench(bash_run, cmd=cmd, background=True)
    assert answer["background"] is True
    assert answer["shell_id"] in answer["message"]
    return str(answer["shell_id"])


async def logs_until(bench: Any, shell: str, holds: Callable[[dict[str, Any]], bool], **more: Any) -> dict[str, Any]:
    """Look until an answer is as wanted; bounded, and no longer than that takes."""
    with anyio.fail_after(20):
        while True:
            answer: dict[str, Any] = await bench(bash_logs, shell_id=shell, **more)
            if holds(answer):
                return answer
            await anyio.sleep(0.005)


def shows(text: str) -> Callable[[dict[str, Any]], bool]:
    return lambda answer: text in answer["output"]


def ended(answer: dict[str, Any]) -> bool:
    return not answer["running"]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_output_is_seen_while_it_runs(bench: Any) -> None:
    os.mkfifo(f"{bench.sandbox.root}/gate")
    shell = await start(bench, "echo one; read x < gate; echo two; exit 3")
    first = await logs_until(bench, shell, shows("one"))
    assert first == {
        "ok": True,
        "shell_id": shell,
        "status": "running",
        "running": True,
        "code": None,
        "output": "one\n",
        "next": 4,
        "truncated": False,
    }
    await bench(bash_run, cmd="echo > gate")
    last = await logs_until(bench, shell, ended, after=first["next"])
    assert (last["status"], last["code"], last["output"]) == ("exited with 3", 3, "two\n")
    assert (await bench(bash_logs, shell_id=shell, after=last["next"]))["output"] == ""


async def test_a_character_that_is_half_written_comes_whole(bench: Any) -> None:
    os.mkfifo(f"{bench.sandbox.root}/gate")
    shell = await start(bench, r"printf 'a\303'; read x < gate; printf '\244b'; sleep 60")
    first = await logs_until(bench, shell, shows("a"))
    assert (first["output"], first["next"]) == ("a", 1)
    await bench(bash_run, cmd="echo > gate")
    await logs_until(bench, shell, shows("b"))
    assert (await bench(bash_logs, shell_id=shell, after=1))["output"] == "äb"


async def test_a_kill_ends_all_that_was_started(bench: Any) -> None:
    shell = await start(bench, "sleep 300 & echo $! > child; (setsid sleep 300 & echo $! > daemon); echo up; wait")
    await logs_until(bench, shell, shows("up"))
    pids = [int((await bench.sandbox.read(name)).decode()) for name in ("child", "daemon")]
    assert [alive(pid) for pid in pids] == [True, True]
    answer = await bench(bash_kill, shell_id=shell)
    assert answer == {"ok": True, "shell_id": shell, "code": 143, "message": "It is gone: killed by SIGTERM."}
    assert [alive(pid) for pid in pids] == [False, False]
    answer = await bench(bash_kill, shell_id=shell)
    assert (answer["ok"], answer["message"]) == (True, "It had ended before: killed by SIGTERM.")
    assert (await bench(bash_logs, shell_id=shell))["status"] == "killed by SIGTERM"


async def test_a_shell_that_will_not_end_is_forced(bench: Any) -> None:
    shell = await start(bench, "trap '' TERM; echo up; while :; do sleep 0.1; done")
    await logs_until(bench, shell, shows("up"))
    assert (await bench(bash_kill, shell_id=shell))["message"] == "It is gone: killed by SIGKILL."


async def test_a_flood_in_the_background_stays_small(bench: Any) -> None:
    bench.limits = Limits(tool_buffer_size=50_000, max_tool_result_bytes=20_000)
    shell = await start(bench, "echo first; yes 0123456789 | head -c 5000000; echo last")
    answer = await logs_until(bench, shell, ended)
    assert (answer["truncated"], answer["next"]) == (True, 5_000_011)
    assert answer["output"].endswith("last\n")
    assert bench.outcome.cut_bytes >= 5_000_000 - 50_000


async def test_shells_are_their_agents_own(bench: Any, tmp_path: Path) -> None:
    """Another agent's sandbox, or the same one's after a restart, counts its processes from 1 as well."""
    shell = await start(bench, "echo mine; sleep 60")
    own, bench.sandbox = bench.sandbox, LocalSandbox(tmp_path, grace_s=0.3)
    try:
        other = await start(bench, "echo yours; sleep 60")
        for one in (bash_logs, bash_kill):
            for id in (shell, "1", "", "x-1", shell.partition("-")[2]):
                if id:
                    answer = await bench(one, shell_id=id)
                    assert (answer["code"], other in answer["error"]) == ("no_shell", True)
        assert "ends with the process that runs the agent" in answer["error"]
        assert (await logs_until(bench, other, shows("yours")))["running"]
    finally:
        await bench.sandbox.close()
        bench.sandbox = own
    assert (await bench(bash_logs, shell_id=shell))["running"]


@pytest.mark.parametrize("one", [bash_logs, bash_kill])
async def test_there_may_be_no_shells(bench: Any, one: Any) -> None:
    answer = await bench(one, shell_id="abc-1")
    assert (answer["code"], "known: none" in answer["error"]) == ("no_shell", True)


async def test_their_number_is_bounded(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "MAX_RUNNING", 2)
    monkeypatch.setattr(local, "MAX_ENDED", 2)
    first, second = [await start(bench, "echo up; sleep 60") for _ in range(2)]
    refused = await bench(bash_run, cmd="echo 3", background=True)
    assert (refused["code"], "2 background processes run already" in refused["error"]) == ("not_started", True)
    assert (await bench(bash_run, cmd="echo fine"))["output"] == "fine"
    await bench(bash_kill, shell_id=first)
    ended_ones = [first]
    for _ in range(2):
        ended_ones.append(await start(bench, "echo done"))
        await logs_until(bench, ended_ones[-1], ended)
    await start(bench, "sleep 60")
    gone = await bench(bash_logs, shell_id=first)
    assert (gone["code"], "only the newest are kept" in gone["error"]) == ("no_shell", True)
    for shell in ended_ones[1:]:
        assert (await bench(bash_logs, shell_id=shell))["output"] == "done\n"
    assert (await bench(bash_logs, shell_id=second))["running"]


async def test_several_that_start_at_once_are_counted(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "MAX_RUNNING", 2)
    codes: list[str | None] = []

    async def one() -> None:
        answer = await bench(bash_run, cmd="sleep 60", background=True)
        codes.append(answer.get("code"))

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(one)
    assert sorted(codes, key=str) == [None, None, "not_started", "not_started"]
    assert len(bench.sandbox.processes()) == 2


async def test_a_sandbox_without_a_ref_has_ids_of_its_own(bench: Any, tmp_path: Path) -> None:
    class Nameless(LocalSandbox):
        """Counts from 1, like any other."""

        ref = None  # type: ignore[assignment]

        async def spawn(self, *args: Any, **more: Any) -> Any:
            process: Any = await super().spawn(*args, **more)
            process.id = "1"
            self._background = {"1": process}
            return process

    bench.sandbox = Nameless(tmp_path, grace_s=0.3)
    shell = await start(bench, "echo first")
    assert (await logs_until(bench, shell, ended))["output"] == "first\n"
    await bench.sandbox.close()
    bench.sandbox = Nameless(tmp_path, grace_s=0.3)
    other = await start(bench, "echo second")
    assert shell.partition("-")[2] == other.partition("-")[2]
    assert (await bench(bash_logs, shell_id=shell))["code"] == "no_shell"
