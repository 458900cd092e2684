"""Asks ripgrep, where it is installed, in which files to look.

It only names files: each is opened and searched here afterwards, so that nothing leaves the root and a hit is
the same with and without it.
"""

from __future__ import annotations

import re
import selectors
import shutil
from collections.abc import Iterable
from threading import Event

from kode.core.sandbox.launch import DEFAULT_PATH, Launched, read_now

__all__ = ["files_with"]

FLAGS = (
    *("--files-with-matches", "--null", "--no-config", "--no-ignore", "--hidden", "--text", "--encoding=none"),
    *("--no-mmap", "--no-messages", "--color=never", "--case-sensitive"),
)
MAX_NAMES = 64 * 1024 * 1024
"""Bytes of names."""
LOOK_S = 0.05
"""How often ``stop`` is looked at."""
REAP_S = 5.0
PLAIN = re.compile(r"[\w.-]+", re.ASCII)


def files_with(
    wanted: Iterable[str], folder: str, *, ignore: Iterable[str], max_size: int, stop: Event
) -> list[tuple[str, ...]] | None:
    """Find the files below a folder in which one of the expressions matches, and perhaps some more.

    Returns the names on the way to each, in the order of a walk; None if that cannot be had: ripgrep is not
    installed, or it met with anything out of the ordinary, a folder without permission for example.
    """
    program = shutil.which("rg")
    if program is None:
        return None
    argv = [
        *(program, *FLAGS, f"--max-filesize={max_size}"),
        *(f"--glob=!{name}" for name in sorted(ignore) if PLAIN.fullmatch(name)),
        *(f"--regexp={expression}" for expression in wanted),
        *("--", "./"),
    ]
    launched = Launched(argv, cwd=folder, env={"PATH": DEFAULT_PATH}, merge=False, feed=False)
    try:
        names, code = _listen(launched, stop)
    finally:
        launched.reap(REAP_S)  # it ends here if it was stopped
    if code not in (b"0\n", b"1\n"):
        return None
    paths = names.decode("utf-8", "surrogateescape").split("\0")[:-1]
    return sorted(tuple(path.removeprefix("./").split("/")) for path in paths)


def _listen(launched: Launched, stop: Event) -> tuple[bytes, bytes]:
    """Read the names and the exit status; no status if it was stopped or names too many."""
    stdout, stderr = launched.popen.stdout, launched.popen.stderr
    assert stdout is not None
    assert stderr is not None
    names, complaints, code = bytearray(), bytearray(), bytearray()
    with selectors.PollSelector() as selector:  # needs no descriptor of its own
        for source, told in ((stdout, names), (stderr, complaints), (launched.control, code)):
            selector.register(source, selectors.EVENT_READ, told)
        while selector.get_map():
            if stop.is_set() or len(names) > MAX_NAMES:
                return b"", b""
            for key, _ in selector.select(LOOK_S):
                piece = read_now(key.fd)
                if piece == b"":
                    selector.unregister(key.fileobj)
                else:
                    key.data.extend(piece or b"")
            complaints.clear()
    return bytes(names), bytes(code)
