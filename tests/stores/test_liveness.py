"""Only who is certainly gone is dead."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kode.core.store import holder_name, is_dead

PARTS = holder_name("worker").split("#")


def changed(place: int, value: str) -> str:
    return "#".join([*PARTS[:place], value, *PARTS[place + 1 :]])


def test_this_process_lives() -> None:
    assert PARTS[0] == "worker"
    assert not is_dead("#".join(PARTS))
    assert holder_name("a#b").startswith("a_b#")


# Named by hand: two workers of one run are two processes, and must agree on what the tests are called.
@pytest.mark.parametrize(
    "holder",
    ["", "worker", "a#b#c", changed(4, "x"), changed(4, "")],
    ids=["nothing", "a-name", "too-few", "no-number", "empty"],
)
def test_names_of_another_make_live(holder: str) -> None:
    assert not is_dead(holder)


@pytest.mark.skipif(sys.platform != "linux", reason="what /proc tells")
def test_what_each_part_says() -> None:
    assert not is_dead(changed(2, "another-boot"))  # a twin made of the same image looks like this too
    assert is_dead(changed(5, "1"))  # the number was given to a new process
    assert is_dead(changed(4, "4194304"))
    assert not is_dead(changed(1, "another-machine"))
    assert not is_dead("#".join([PARTS[0], "another-machine", "another-boot", *PARTS[3:]]))
    assert not is_dead(changed(3, "pid:[1]"))
    for place in (1, 2):
        assert not is_dead(changed(place, "-"))


def test_a_process_that_ended_is_dead_also_before_it_is_waited_for() -> None:
    program = "from kode.core.store import holder_name; print(holder_name('w'), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        holder = child.stdout.readline().strip()
        assert not is_dead(holder)
        child.kill()
        child.wait()
    assert is_dead(holder)
