"""Values to records and back: which fields are columns, how keys sort, what a body holds. Final from version 1.

========== ===================== ================================================================================
kind       key (after uid)       body, behind its version; columns are in ``COLUMNS`` and not said again in a body
========== ===================== ================================================================================
header     agent id, uid ""      ``{"state": State, "calls": [ids of the open step's calls], "documents":
                                 [[kind, name, digest], …]}``; ``parent`` without its agent id, which is the column;
                                 ``dedupe_us`` counts microseconds
lease      ""                    empty: all is in columns, so that a renewal writes nothing else
message    int_key(seq)          ``Message``
call       int_keys of run.step.n ``Call``
events     int_key(first cursor) all events of one commit, a short array each (``eventrows``)
inbox      int_key(position)     ``Item``: payload, sender, context
consumed   item id               ``[digest of kind and payload]``; the payload's version is no part of the digest
run        int_key(number)       ``RunRecord``
compaction id                    ``Compaction``
snapshot   id                    ``Snapshot``; its column ``tags`` is a JSON list
document   kind/name/digest      ``[data]``, the document's JSON text as a string; a kind and a digest have no
                                 ``/``, a name may; the digest is in the key because snapshots name documents of before
blob       SHA-256 (hex)         the bytes themselves, without a version
staged     commit id/int_key(n)  a record of a commit that is still to be brought to its place: ``[kind, key,
                                 {columns}]``, a line feed, and that record's body as it is; ``[kind, key]`` and no
                                 line feed for a record to be deleted
staged     a uid, uid ""         ``["fork" | "drop", agent id]``: records of that uid may be without a header, for
                                 they are being made or removed (``orphans``)
========== ===================== ================================================================================

Texts that become keys or columns are printable, have no NUL and are bounded in bytes of UTF-8: 200, an item's id 500
(``primitives.check_name``).

Where a body is named after a class it is that value as a JSON object: fields that are columns or in the key are left
out, and so is each field that holds its default. ``size`` is the number of bytes in the body. Text in columns is
well-formed Unicode without NUL (U+FFFD stands for what was wrong), because engines refuse the rest.

What reads a record raises ``RecordCorruptError`` (``raw`` holds the body) or ``SchemaTooNewError``; nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kode.core.lazy import exports

if TYPE_CHECKING:
    from kode.core.store.records.columns import COLUMNS, call_key, call_prefix, document_key, int_key, key_int
    from kode.core.store.records.headers import (
        header_call_keys,
        header_counters,
        header_recipe,
        header_record,
        lease_record,
        read_bounds,
        read_header,
        read_info,
        read_lease,
        released_record,
    )
    from kode.core.store.records.items import (
        checked_item,
        consumed_record,
        inbox_record,
        input_item,
        item_digest,
        item_input,
        read_consumed,
        read_item,
        same_item,
    )
    from kode.core.store.records.said import (
        blob_record,
        call_record,
        compaction_record,
        document_record,
        events_record,
        message_record,
        read_call,
        read_compaction,
        read_document,
        read_events,
        read_message,
        read_run,
        read_snapshot,
        run_record,
        snapshot_record,
    )
    from kode.core.store.records.staged import Act, orphan_key, orphan_record, read_orphan, read_staged, staged_record

__getattr__, __dir__ = exports(
    __name__,
    {
        "COLUMNS": "columns",
        "Act": "staged",
        "blob_record": "said",
        "call_key": "columns",
        "call_prefix": "columns",
        "call_record": "said",
        "checked_item": "items",
        "compaction_record": "said",
        "consumed_record": "items",
        "document_key": "columns",
        "document_record": "said",
        "events_record": "said",
        "header_call_keys": "headers",
        "header_counters": "headers",
        "header_recipe": "headers",
        "header_record": "headers",
        "inbox_record": "items",
        "input_item": "items",
        "int_key": "columns",
        "item_digest": "items",
        "item_input": "items",
        "key_int": "columns",
        "lease_record": "headers",
        "message_record": "said",
        "orphan_key": "staged",
        "orphan_record": "staged",
        "read_bounds": "headers",
        "read_call": "said",
        "read_compaction": "said",
        "read_consumed": "items",
        "read_document": "said",
        "read_events": "said",
        "read_header": "headers",
        "read_info": "headers",
        "read_item": "items",
        "read_lease": "headers",
        "read_message": "said",
        "read_orphan": "staged",
        "read_run": "said",
        "read_snapshot": "said",
        "read_staged": "staged",
        "released_record": "headers",
        "run_record": "said",
        "same_item": "items",
        "snapshot_record": "said",
        "staged_record": "staged",
    },
)

__all__ = [
    "COLUMNS",
    "Act",
    "blob_record",
    "call_key",
    "call_prefix",
    "call_record",
    "checked_item",
    "compaction_record",
    "consumed_record",
    "document_key",
    "document_record",
    "events_record",
    "header_call_keys",
    "header_counters",
    "header_recipe",
    "header_record",
    "inbox_record",
    "input_item",
    "int_key",
    "item_digest",
    "item_input",
    "key_int",
    "lease_record",
    "message_record",
    "orphan_key",
    "orphan_record",
    "read_bounds",
    "read_call",
    "read_compaction",
    "read_consumed",
    "read_document",
    "read_events",
    "read_header",
    "read_info",
    "read_item",
    "read_lease",
    "read_message",
    "read_orphan",
    "read_run",
    "read_snapshot",
    "read_staged",
    "released_record",
    "run_record",
    "same_item",
    "snapshot_record",
    "staged_record",
]
