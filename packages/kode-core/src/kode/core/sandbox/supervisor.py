"""Runs one command for an owner in another process, and ends it when the owner is gone.

This file is a program of its own: ``python -I -S supervisor.py FD OWNER KEEPER COMMAND…`` with a socket as FD
whose other end only the owner holds. It imports only a few modules of the standard library, because it
starts with every command. KEEPER is ``1`` if the command only keeps another one: SIGTERM then goes to the groups
of its children, because a keeper would die of it and take them along before they could tidy up.

    owner → here    the command's environment, once (its size in eight bytes, then ``NAME=value`` with zero bytes
                    between); then ``T``: SIGTERM to its group; ``K``, or end of file, the owner's death:
                    SIGKILL
    here → owner    the command's exit status in decimal, once it and all it started are gone

Why a process between: the kernel closes the owner's end of the socket however the owner dies, ``kill -9``
included, so that reading the end of file here is certain. A parent-death signal from the owner would not do:
Linux ties it to the *thread* that started the child, and worker threads end early. It is used one level down,
where there is only one thread. A second look at the parent's id once a second covers an owner's end that
leaked into some other child.

On Linux this process also adopts orphans (child subreaper), so daemons that left the group and the session
are found too and killed when the command ends. Elsewhere only the command's group is.
"""

from __future__ import annotations

import errno
import os
import select
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable

    Prctl = Callable[[int, int, int, int, int], object]
else:
    # The public module spends 6 ms on enums, a quarter of what it costs to start a command.
    try:
        import _signal as signal
    except ImportError:
        import signal

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)
OWNER_CHECK_S = 1.0
REAP_ROUNDS = 200
"""Times 10 ms: how long killed orphans are waited for; one in uninterruptible sleep may take longer."""


def load_prctl() -> Prctl | None:
    """Find Linux's ``prctl``; None elsewhere."""
    if sys.platform != "linux":
        return None
    try:
        # What ctypes does, without the 4 ms that importing the rest of it takes.
        import _ctypes

        this = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]  # None is this process; typeshed does not know
        address = _ctypes.dlsym(this, "prctl")
        return lambda *numbers: _ctypes.call_function(address, numbers)
    except (ImportError, OSError, AttributeError, TypeError):
        pass
    try:
        import ctypes

        prctl: Prctl = ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        return None
    return prctl


def read_exactly(control: int, size: int) -> bytes:
    """Read so many bytes. Without an owner to send them there is nothing to do."""
    told = b""
    while len(told) < size:
        try:
            piece = os.read(control, size - len(told))
        except ConnectionResetError:
            piece = b""
        if not piece:
            os._exit(126)
        told += piece
    return told


def told_environment(control: int) -> dict[bytes, bytes]:
    """Read the command's environment. Ours is another: what a command may set must not steer this program."""
    told = read_exactly(control, int.from_bytes(read_exactly(control, 8), "big"))
    return dict(pair.split(b"=", 1) for pair in told.split(b"\0") if pair)


def become(command: list[str], env: dict[bytes, bytes], prctl: Prctl | None, supervisor: int) -> None:
    """In the child: turn into the command, in a session and group of its own. Never returns."""
    code = 126
    try:
        os.setsid()
        if prctl is not None:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != supervisor:  # it died before the signal was asked for
            os._exit(code)
        for number in (*IGNORED, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execvpe(command[0], command, env)
    except OSError as error:
        code = 127 if error.errno == errno.ENOENT else 126
        os.write(2, f"{command[0]}: {error.strerror}\n".encode("utf-8", "surrogateescape"))
    finally:
        os._exit(code)


def signal_group(child: int, number: int) -> None:
    """Signal the group of a command that was not reaped yet, so that its id cannot be another's."""
    try:
        os.killpg(child, number)
    except ProcessLookupError:
        # Before the child's own setsid there is no group yet, and nobody else in it.
        kill(child, number)
    except PermissionError:  # macOS: a group of which only zombies are left
        pass


def kill(pid: int, number: int) -> bool:
    """Signal one process, if it is still there. False: it became another user's, so that it is not ours to signal."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
    except PermissionError:
        return False
    return True


def children(pid: int) -> list[int]:
    """Ask Linux for the children of a process; none elsewhere."""
    found = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += [int(child) for child in file.read().split()]
    except (OSError, ValueError):  # it has ended; whose parent ends is another's child then
        pass
    return found


def ask_to_end(child: int, keeper: bool) -> None:
    """Send SIGTERM to the command's group, or to those that it keeps."""
    for leader in children(child) if keeper else [child]:
        signal_group(leader, signal.SIGTERM)


def kill_orphans() -> bool:
    """Kill what this process adopted, and what those started. False: there are some, and not one may be killed.

    All are stopped first, parents before their children: what still runs while others are killed starts new ones in
    their place, in sessions of their own, and a swarm that is at the limit of processes would never end.
    """
    held: dict[int, bool] = {}
    todo = children(os.getpid())
    while todo:
        pid = todo.pop()
        if pid not in held:
            held[pid] = kill(pid, signal.SIGSTOP)
            todo += children(pid)
    for pid in held:
        kill(pid, signal.SIGKILL)
    return not held or any(held.values())


def reap(child: int) -> int | None:
    """Collect who has ended. Returns the command's exit status if it is among them."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == child:
            ended = os.waitstatus_to_exitcode(status)
            code = ended if ended >= 0 else 128 - ended


def bury(child: int) -> None:
    """After the command's end: kill and reap what it left.

    Its own children become ours, so this goes in rounds.
    """
    for _ in range(REAP_ROUNDS):
        # The group's id stays taken while it has members; without any there is nothing to hit.
        try:
            os.killpg(child, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        some = kill_orphans()
        reap(child)
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except (ChildProcessError, AttributeError):  # none left; or macOS, where nobody is adopted
            return
        if not some:  # another user's, which `sudo` left, say: nothing would change by waiting
            return
        select.select([], [], [], 0.01)


def supervise(child: int, control: int, wake: int, owner: int, keeper: bool) -> int:
    """Wait for the command's end, the owner's word, or the owner's end. Returns the exit status."""
    readers = [control, wake]
    while True:
        code = reap(child)
        if code is not None:
            return code
        ready, _, _ = select.select(readers, [], [], OWNER_CHECK_S)
        if wake in ready:
            os.read(wake, 4096)
        if control in ready:
            try:
                word = os.read(control, 16)
            except ConnectionResetError:
                word = b""
            if b"T" in word:
                ask_to_end(child, keeper)
            if b"K" in word or not word:
                signal_group(child, signal.SIGKILL)
            if not word:
                readers.remove(control)  # the end is near: the command was just killed
        if os.getppid() != owner:
            signal_group(child, signal.SIGKILL)


def main() -> None:
    """Start the command and see it through."""
    control = int(sys.argv[1])
    os.set_inheritable(control, False)
    owner = int(sys.argv[2])  # told, not asked for: it may be dead by now
    env = told_environment(control)
    prctl = load_prctl()
    if prctl is not None:
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    wake, wake_writer = os.pipe()
    os.set_blocking(wake_writer, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
    supervisor = os.getpid()
    try:
        child = os.fork()
    except OSError as error:
        os.write(2, f"{sys.argv[4]}: {error.strerror}\n".encode("utf-8", "surrogateescape"))
        os.write(control, b"126\n")
        return
    if child == 0:
        become(sys.argv[4:], env, prctl, supervisor)
    # The streams belong to the command alone: the owner reads their end when the command is gone.
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    code = supervise(child, control, wake, owner, sys.argv[3] == "1")
    bury(child)
    try:
        os.write(control, b"%d\n" % code)
    except OSError:  # nobody is there to be told
        pass


if __name__ == "__main__":
    main()
    os._exit(0)  # nothing to tidy up, and the owner waits
