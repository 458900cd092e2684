"""The group `kode store`: its commands by name."""

from __future__ import annotations

import typer

from kode.cli.store.looking import check, conformance, stats
from kode.cli.store.moving import copy, import_, verify
from kode.cli.store.pruning import prune
from kode.cli.store.schema import schema

__all__ = ["store"]

store = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Check, count, prune and copy a store, or move to it.",
)
store.__doc__ = store.info.help  # where one looks for what a command does, of a function too
store.command("check")(check)
store.command("stats")(stats)
store.command("prune")(prune)
store.command("copy")(copy)
store.command("verify")(verify)
store.command("import")(import_)
store.add_typer(schema, name="schema")
# What the kit takes is the kit's to say.
store.command("conformance", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(conformance)
