"""`kode store schema`: the format of records, and the tables of stores that have some.

What a store can do about its schema it says itself (`SchemaSupport`), so a wheel brings this command along without
this one knowing it.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from importlib.resources import files
from typing import Annotated

import anyio
import typer

from kode.cli.opening import AsJson
from kode.core.errors import UsageError
from kode.core.store import SchemaSupport, Store, open_store
from kode.core.store.migrating import SchemaAct, tend_schema
from kode.core.store.records import COLUMNS
from kode.core.store.records.codec import VERSION

__all__ = ["schema"]

Url = Annotated[
    str,
    typer.Argument(
        metavar="URL",
        envvar="KODE_STORE",
        show_default=False,
        help="A store, such as postgresql://user@host/database. Default: KODE_STORE, which keeps a password out of the "
        "list of processes.",
    ),
]

schema = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Show the format of records; look after the schema of a store.",
)


@schema.callback(invoke_without_command=True)
def _records(context: typer.Context, as_json: AsJson = False) -> None:
    """Show the format of records: kinds, columns, version; or look after the schema of a store."""
    if context.invoked_subcommand is not None:
        return
    if as_json:
        kinds = {kind: dict(columns) for kind, columns in COLUMNS.items()}
        typer.echo(json.dumps({"version": VERSION, "kinds": kinds}))
        return
    typer.echo(f"records: version {VERSION}")
    width = max(map(len, COLUMNS))
    for kind, columns in COLUMNS.items():
        typer.echo(f"{kind:<{width}}  {', '.join(f'{name} {value}' for name, value in columns)}")


@schema.command("status", short_help="Tell which steps were applied.")
def _status(url: Url) -> None:
    """Tell which steps of a store's schema were applied, and which are missing."""
    _tend(open_store(url), "status")


@schema.command("upgrade", short_help="Apply what is missing.")
def _upgrade(
    url: Url,
    post: Annotated[
        bool, typer.Option("--post", help="Also remove what only older code uses, when none of that works any more.")
    ] = False,
) -> None:
    """Apply what is missing of a store's schema, before new code starts."""
    _tend(open_store(url), "upgrade", post=post)


@schema.command("sql", short_help="Show the statements that are missing.")
def _sql(
    url: Url,
    whole: Annotated[
        bool, typer.Option("--all", help="Show all of them; the store is not asked and need not be there.")
    ] = False,
) -> None:
    """Show the statements that are missing of a store's schema, for who applies them by hand."""
    store = open_store(url)
    if isinstance(store, SchemaSupport):
        _tend(store, "sql", whole=whole)
        return
    statements = _shipped(store)
    if not statements:
        raise UsageError("This store has no SQL of its own.", code="no_schema")
    typer.echo("\n\n".join(statements))


def _tend(store: Store, act: SchemaAct, *, post: bool = False, whole: bool = False) -> None:
    for line in anyio.run(partial(tend_schema, store, act, post=post, whole=whole)):
        typer.echo(line)


def _shipped(store: Store) -> list[str]:
    """The statements that make a store's tables: of SQLite, or the ``.sql`` files of another wheel."""
    kind = type(store)
    if kind.__module__.startswith("kode.core.store.sqlite"):
        from kode.core.store.sqlite.rows import SCHEMA

        return [f"{statement.rstrip().rstrip(';')};" for statement in SCHEMA]
    package = sys.modules[kind.__module__].__package__
    found = [one for one in files(package).iterdir() if one.name.endswith(".sql")] if package else []
    return [one.read_text() for one in sorted(found, key=lambda one: one.name)]
