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
# In the list of commands a summary that is longer than its line would be cut in mid sentence.
store.command("check", short_help="Check that it works and fits together.")(check)
store.command("stats", short_help="Count agents, messages, calls, tokens.")(stats)
store.command("prune", short_help="Remove what is old.")(prune)
store.command("copy", short_help="Copy agents to another store.")(copy)
store.command("verify", short_help="Compare what two stores hold.")(verify)
store.command("import", short_help="Import agents of KODE's predecessor.")(import_)
store.add_typer(schema, name="schema", short_help="Show formats; tend a store's schema.")
# What the kit takes is the kit's to say.
kit = {"allow_extra_args": True, "ignore_unknown_options": True}
store.command("conformance", short_help="Try a store of your own.", context_settings=kit)(conformance)
