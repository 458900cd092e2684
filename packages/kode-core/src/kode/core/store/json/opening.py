"""The folder of a store: it is made, or judged before anything in it is touched."""

from __future__ import annotations

import json
import os
import threading
from contextlib import suppress
from typing import Any

from kode.core.errors import SchemaTooNewError, StoreError
from kode.core.store.json import lines, names
from kode.core.store.json.disk import Disk, map_errors, open_file

__all__ = ["prepare"]


def prepare(path: str, disk: Disk) -> None:
    """Make a store's folder, or see that it is one. Any number of processes may do so at once, and be killed."""
    mark = os.path.join(path, names.MARK)
    with map_errors(path):
        os.makedirs(path, 0o700, exist_ok=True)
        text = _read(mark)
        if text:
            _judge(path, mark, text)
        disk.make_folder(os.path.join(path, names.AGENTS))
        if not text:
            new = f"{mark}.{os.getpid()}{threading.get_ident()}.new"
            disk.create(new, b'{"store":"kode","version":%d}\n' % lines.VERSION)
            with suppress(FileNotFoundError):  # who opened it at the same time was quicker, and has removed ours
                disk.rename(new, mark)
            disk.sync_folder(path)
            disk.sync_folder(os.path.dirname(os.path.abspath(path)))
    if text:
        with suppress(OSError):
            _sweep(path, disk)


def _read(mark: str) -> bytes:
    """Read the mark. One that is empty, or NULs, was being written when its writer or the power went."""
    try:
        with open(open_file(mark), "rb") as file:
            return file.read(65_536).strip(b"\0 \n")
    except FileNotFoundError:
        return b""


def _judge(path: str, mark: str, text: bytes) -> None:
    try:
        said: Any = json.loads(text)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict) or said.get("store") != "kode" or type(said.get("version")) is not int:
        raise StoreError(
            f"{mark} is no mark of a KODE store: the folder is something else's, or the file is damaged. Give another "
            "folder, or restore the file. Nothing was changed.",
            code="foreign_folder",
            path=path,
        )
    if said["version"] > lines.VERSION:
        raise SchemaTooNewError(
            f"{path} has version {said['version']}; this process knows up to {lines.VERSION}. Upgrade KODE; nothing "
            "was changed.",
            path=path,
            found=said["version"],
            known=lines.VERSION,
        )


def _sweep(path: str, disk: Disk) -> None:
    """Remove what processes that were killed have left, by names that only this store gives."""
    for name in filter(names.MARK_NEW.fullmatch, os.listdir(path)):
        disk.remove(os.path.join(path, name))
    trash = os.path.join(path, names.TRASH)
    if not os.path.islink(trash):
        for name in filter(names.GONE.fullmatch, os.listdir(trash)):
            disk.remove_folder(os.path.join(trash, name), names.IN_FOLDER)
