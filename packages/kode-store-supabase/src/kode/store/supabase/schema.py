"""The file that makes what this store needs in a project, and whether a project has it.

A project's API changes no tables, so a person runs the file in the SQL editor. This module only reads and compares.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final

from kode.core.errors import SchemaTooNewError, StoreError, UsageError

__all__ = ["TITLE", "check", "check_schema", "sql"]

TITLE: Final = "schema"
"""What a person calls the file; there is one."""
REST: Final = 1
"""The number of the functions that this code calls; the file's `rest_hello_v1` says its own."""
_SCHEMA: Final = re.compile(r"(?!pg_)[a-z_][a-z0-9_]{0,40}")
_APPLIED: Final = re.compile(r"INSERT INTO \"kode\"\.migration .*? VALUES \((\d+), '\w+', '\w+', '(\w+)'\);")


def check_schema(schema: str) -> str:
    """Refuse what is no plain name.

    Raises:
        UsageError: ``bad_schema``.
    """
    if _SCHEMA.fullmatch(schema) is None:
        raise UsageError(
            f"schema is {schema[:60]!r}; use up to 41 small letters, digits and _, not beginning with a digit or pg_.",
            code="bad_schema",
        )
    return schema


@cache
def _text() -> str:
    return (files("kode.store.supabase") / "schema.sql").read_text("utf-8")


def sql(schema: str) -> str:
    """Give the file, for a schema of that name."""
    return _text().replace('"kode"', f'"{schema}"')


@cache
def shipped() -> Mapping[int, str]:
    """List the migrations of the tables that the file makes, with their checksums."""
    return {int(number): checksum for number, checksum in _APPLIED.findall(_text())}


def check(said: Mapping[str, Any], schema: str, where: str) -> None:
    """Judge what `rest_hello_v1` says of a project.

    Raises:
        StoreError: ``schema_old``, ``schema_changed``.
        SchemaTooNewError: Code of this version cannot work on it.
    """
    known = shipped()
    found = {number: (phase, checksum) for number, phase, checksum in said["migrations"] or ()}
    run = "run what `kode store schema sql --all URL` shows in the SQL editor"
    for number, (phase, checksum) in found.items():
        if number not in known:
            if phase == "post":
                raise SchemaTooNewError(
                    f"{where}: schema {schema!r} has migration {number}; this process knows up to {max(known)}. "
                    "Upgrade kode-store-supabase; nothing was changed.",
                    found=number,
                    known=max(known),
                )
        elif checksum != known[number]:
            raise StoreError(
                f"{where}: migration {number} of schema {schema!r} was applied with another text than this wheel's; "
                "install the release that made it.",
                code="schema_changed",
                migration=number,
            )
    if said["rest"] < REST or not found.keys() >= known.keys():
        raise StoreError(f"{where}: schema {schema!r} is of an older version; {run}.", code="schema_old")
