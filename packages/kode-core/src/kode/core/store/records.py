"""Values to records and back: which fields are columns, how keys sort, what a body holds. Final from version 1.

=========== =========================== =====================================================================
kind        key (after uid)             columns
=========== =========================== =====================================================================
see ``COLUMNS``; bodies are ``codec.encode`` of the body classes here.
"""

from __future__ import annotations

from kode.core.store.contract import Kind

__all__ = ["COLUMNS", "int_key"]

COLUMNS: dict[Kind, tuple[tuple[str, str], ...]] = {
    # (name, "int" | "text"); every column may be null
    "header": (
        ("agent_id", "text"),
        ("uid", "text"),
        ("version", "int"),
        ("commit_id", "text"),
        ("staged", "text"),
        ("wake_at", "int"),
        ("seen", "int"),
        ("status", "text"),
        ("template", "text"),
        ("tenant", "text"),
        ("parent", "text"),
        ("created_at", "int"),
        ("updated_at", "int"),
        ("max_inbox", "int"),
        ("max_message_bytes", "int"),
        ("dedupe_for_s", "int"),  # microseconds, in spite of the name the design gave it
    ),
    "lease": (("holder", "text"), ("fence", "int"), ("until", "int"), ("takes", "int")),
    "message": (("role", "text"), ("run", "int"), ("step", "int"), ("at", "int"), ("size", "int")),
    "call": (
        ("status", "text"),
        ("tool", "text"),
        ("seq", "int"),
        ("run", "int"),
        ("asked_at", "int"),
        ("started_at", "int"),
        ("finished_at", "int"),
        ("size", "int"),
    ),
    "events": (
        ("last", "int"),
        ("version", "int"),
        ("channels", "text"),
        ("run", "int"),
        ("at", "int"),
        ("size", "int"),
    ),
    "inbox": (
        ("id", "text"),
        ("kind", "text"),
        ("at", "int"),
        ("not_before", "int"),
        ("priority", "int"),
        ("tenant", "text"),
        ("size", "int"),
    ),
    "consumed": (("position", "int"), ("run", "int"), ("expires_at", "int")),
    "run": (("status", "text"), ("stop_reason", "text"), ("started_at", "int"), ("ended_at", "int")),
    "compaction": (("start", "int"), ("stop", "int"), ("at", "int")),
    "snapshot": (("seq", "int"), ("tags", "text"), ("parent", "text")),
    "document": (("digest", "text"), ("at", "int")),
    "blob": (("size", "int"), ("media_type", "text")),
    "staged": (("at", "int"),),
}


def int_key(n: int) -> str:
    """Write a number >= 0 so that text order is number order: hex digits behind their count, ``300`` -> ``312c``."""
    digits = f"{n:x}"
    return f"{len(digits):x}{digits}"
