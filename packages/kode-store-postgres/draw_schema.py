"""Write the first migration from the closed list of columns: `python draw_schema.py > …/0001_pre_begin.sql`.

A migration that was released never changes. A test compares this one with what is drawn, so that nobody edits it by
hand; once a column is added to the list, a second migration follows, and this file and that test go.
"""

from __future__ import annotations

import sys

from kode.store.postgres.alone import WRITTEN
from kode.store.postgres.tables import LAYOUTS, Layout

TYPES = {True: 'text COLLATE "C"', False: "bigint"}

# What stays when a row is written again stands in front: the log leaves out what a row's new version begins with as
# its old one did. Of other kinds rows are written once.
SETTLED = {
    "header": {"agent_id", "uid", "template", "tenant", "parent", "created_at", "dedupe_us", "expires_at"}
    | {"max_inbox", "max_message_bytes"},
    "call": {"tool", "seq", "run", "asked_at"},
}

HEAD = """\
-- Tables and functions of KODE's PostgreSQL store. {schema} stands for the schema's quoted name.
--
-- One table per kind of record. `owner` is the identity (uid) a record belongs to, "" for headers; (owner, key) is its
-- place. Keys sort by their bytes: COLLATE "C". Times are microseconds since 1970, UTC. Bodies are opaque.

-- Not IF NOT EXISTS: that asks for the right to make schemas also where this one is there.
DO $$ BEGIN
  IF pg_catalog.to_regnamespace('{schema}') IS NULL THEN
    CREATE SCHEMA {schema};
  END IF;
END $$;

CREATE TABLE {schema}.migration (
  number integer PRIMARY KEY,
  phase text NOT NULL,
  name text NOT NULL,
  checksum text NOT NULL,
  at timestamptz NOT NULL DEFAULT now()
);
"""

INDEXES = """
-- Who must wake, in order. Each commit moves wake_at, so this is the one index that headers pay for.
CREATE INDEX header_due ON {schema}.header (wake_at, "key") WHERE wake_at IS NOT NULL;
CREATE INDEX inbox_id ON {schema}.inbox (owner, id);

-- A header is written with every commit, a call twice or more, an inbox is filled and emptied: room in their pages, so
-- that no index is written to for a row's next version, and their dead rows soon gone. Leases likewise.
ALTER TABLE {schema}.header SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE {schema}.lease SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE {schema}.call SET (fillfactor = 60);
ALTER TABLE {schema}.inbox SET (autovacuum_vacuum_scale_factor = 0.02);

-- Who watches, and until when: as long as nobody does, commits notify nobody, for a NOTIFY costs every commit of the
-- whole database one lock.
CREATE TABLE {schema}.watcher (
  name text PRIMARY KEY,
  until timestamptz NOT NULL
);

-- For people: agents with times as times.
CREATE VIEW {schema}.agents AS
  SELECT agent_id, uid, version, status, template, tenant, parent, parked,
    to_timestamp(created_at / 1e6) AS created_at, to_timestamp(updated_at / 1e6) AS updated_at,
    to_timestamp(wake_at / 1e6) AS wake_at, to_timestamp(expires_at / 1e6) AS expires_at
  FROM {schema}.header;
"""

FUNCTIONS = """
-- Numbers as keys that sort: hexadecimal digits behind their count.
CREATE FUNCTION {schema}.int_key_v1(n bigint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT to_hex(length(to_hex(n))) || to_hex(n) $$;

CREATE FUNCTION {schema}.key_int_v1("key" text) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT ('x' || lpad(substr("key", 2), 16, '0'))::bit(64)::bigint $$;
"""

# What has no schema is PostgreSQL's own, whatever the path of who calls says.
SAFE = """\
SET search_path = pg_catalog, pg_temp
"""

# Those that lock also give up soon: others wait behind them for a connection, while who was locked out comes again.
PATIENT = f"""\
{SAFE}SET lock_timeout = '100ms'
"""

# Who writes an agent has its lock until the end of the transaction. A statement of its own: what is judged must be read
# after the lock was granted. Always taken in one order, so that two batches never wait for each other.
LOCK = """\
  PERFORM pg_advisory_xact_lock(l.id) FROM
    (SELECT DISTINCT hashtextextended('{schema}/' || a, 0::bigint) AS id FROM unnest(agents) AS a ORDER BY 1) AS l;
"""

TELL = """\
    IF EXISTS (SELECT FROM {schema}.watcher WHERE until > clock_timestamp()) THEN
      PERFORM pg_notify('kode/{schema}', a) FROM unnest(agents) AS a;
    END IF;
"""

APPLY_HEAD = """
-- Many acts at once, of different agents: each is judged, and done or not, by itself. Acts are numbered from 1.
-- Gives the time first (act 0), then for each act that failed the number of its condition, and what waits in the
-- inboxes that were asked for.
CREATE FUNCTION {schema}.apply_v1(
  agents text[],
  c_n bigint[],  -- act, number of the condition, value
  c_t text[],    -- op, kind, owner, key, column, value: of headers, leases and inboxes
  s_n bigint[],
  s_t text[],    -- the same, of all others
  d_n bigint[],  -- act
  d_t text[],    -- kind, owner, key
  l_n bigint[],  -- act
  l_t text[],    -- owner, key behind which to look
%(arguments)s
) RETURNS TABLE (
  act bigint, failed bigint, owner text, "key" text, id text, kind text, tenant text,
  at bigint, not_before bigint, priority bigint, size bigint, body bytea
) LANGUAGE plpgsql
-- Plans are made once, for arrays of any length, and are right for tables of any size.
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
SET enable_hashjoin = off
SET enable_mergejoin = off
%(patient)sAS $$
#variable_conflict use_column
DECLARE
  lost bigint[];
  why bigint[];
  told text[];
  one record;
  holds boolean;
BEGIN
%(lock)s
  -- Judge. Headers, leases and inboxes at once.
  IF c_n IS NOT NULL THEN
    SELECT array_agg(f.act), array_agg(f.i) INTO lost, why FROM (
      SELECT c.act, min(c.i) AS i
      FROM unnest(c_n[1:1], c_n[2:2], c_n[3:3], c_t[1:1], c_t[2:2], c_t[3:3], c_t[4:4], c_t[5:5], c_t[6:6])
        AS c(act, i, n, op, kind, owner, "key", name, t)
      LEFT JOIN {schema}.header AS h ON c.kind = 'header' AND h.owner = c.owner AND h."key" = c."key"
      LEFT JOIN {schema}.lease AS l ON c.kind = 'lease' AND l.owner = c.owner AND l."key" = c."key"
      WHERE NOT CASE
        WHEN c.op = 'no_inbox_after' THEN
          NOT EXISTS (SELECT FROM {schema}.inbox AS i WHERE i.owner = c.owner AND i."key" > c.t COLLATE "C")
        WHEN c.op = 'absent' THEN h."key" IS NULL AND l."key" IS NULL
        WHEN c.op = 'free' THEN l.holder IS NULL OR l.until <= c.n
        ELSE (h."key" IS NOT NULL OR l."key" IS NOT NULL)
          AND (CASE c.name %(numbers)s END) IS NOT DISTINCT FROM c.n
          AND (CASE c.name %(texts)s END) IS NOT DISTINCT FROM c.t
      END
      GROUP BY c.act) AS f;
  END IF;
  -- What is rare, one by one.
  IF s_n IS NOT NULL THEN
    FOR one IN
      SELECT c.* FROM unnest(s_n[1:1], s_n[2:2], s_n[3:3], s_t[1:1], s_t[2:2], s_t[3:3], s_t[4:4], s_t[5:5], s_t[6:6])
        AS c(act, i, n, op, kind, owner, "key", name, t)
    LOOP
      EXECUTE pg_catalog.format(
        'SELECT %%s FROM (SELECT) AS o LEFT JOIN {schema}.%%I AS r ON r.owner = $1 AND r."key" = $2',
        CASE one.name WHEN '' THEN 'r."key" IS NULL'
        ELSE pg_catalog.format(
          'r."key" IS NOT NULL AND to_jsonb(r.%%I) IS NOT DISTINCT FROM coalesce(to_jsonb($3), to_jsonb($4))',
          one.name) END, one.kind)
        INTO holds USING one.owner, one."key", one.n, one.t;
      IF NOT holds THEN
        lost := lost || one.act;
        why := why || one.i;
      END IF;
    END LOOP;
  END IF;

  -- Delete, then put.
  IF d_n IS NOT NULL THEN
    DELETE FROM {schema}.inbox AS r USING unnest(d_n[1:1], d_t[1:1], d_t[2:2], d_t[3:3]) AS d(act, kind, owner, "key")
    WHERE d.kind = 'inbox' AND r.owner = d.owner AND r."key" = d."key" AND (lost IS NULL OR d.act <> ALL (lost));
    FOR one IN SELECT DISTINCT d.kind FROM unnest(d_t[1:1]) AS d(kind) WHERE d.kind <> 'inbox' LOOP
      EXECUTE pg_catalog.format('DELETE FROM {schema}.%%I AS r USING unnest($1[1:1], $2[1:1], $2[2:2], $2[3:3])
        AS d(act, kind, owner, "key") WHERE d.kind = $3 AND r.owner = d.owner AND r."key" = d."key"
        AND ($4 IS NULL OR d.act <> ALL ($4))', one.kind) USING d_n, d_t, one.kind, lost;
    END LOOP;
  END IF;
"""

PUT = """
  IF %(kind)s_b IS NOT NULL THEN
    INSERT INTO {schema}.%(kind)s (owner, "key", %(names)s, body)
    SELECT p.owner, p."key", %(values)s, p.body
    FROM unnest(%(slices)s, %(kind)s_b) AS p(%(fields)s, body)
    WHERE lost IS NULL OR p.act <> ALL (lost)
    ON CONFLICT (owner, "key") DO UPDATE SET %(updates)s, body = excluded.body;
  END IF;
"""

APPLY_TAIL = """
  IF header_b IS NOT NULL OR 'header' = ANY (d_t[1:1]) THEN
%(tell)s  END IF;
  RETURN QUERY SELECT 0::bigint, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, NULL, NULL, NULL, NULL,
    NULL, NULL::bigint, NULL::bigint, NULL::bigint, NULL::bigint, NULL::bytea;
  IF lost IS NOT NULL THEN
    RETURN QUERY SELECT f.act, min(f.i), NULL, NULL, NULL, NULL, NULL,
      NULL::bigint, NULL::bigint, NULL::bigint, NULL::bigint, NULL::bytea
      FROM unnest(lost, why) AS f(act, i) GROUP BY f.act;
  END IF;
  IF l_n IS NOT NULL THEN
    RETURN QUERY SELECT l.act, NULL::bigint, r.owner, r."key", r.id, r.kind, r.tenant, r.at, r.not_before, r.priority,
        r.size, r.body
      FROM unnest(l_n[1:1], l_t[1:1], l_t[2:2]) AS l(act, owner, after)
      JOIN {schema}.inbox AS r ON r.owner = l.owner AND r."key" > l.after COLLATE "C"
      WHERE lost IS NULL OR l.act <> ALL (lost)
      ORDER BY l.act, r."key";
  END IF;
END $$;
"""

COMMIT = """
-- One commit alone, with one row of a kind at most: the header is changed in its place, what was never there before is
-- inserted as that. Gives the time first, then what waits in the inbox. Gives nothing, and does nothing, if a condition
-- fails: which one `apply` tells. Raises unique_violation if a message or an event was there already.
CREATE FUNCTION {schema}.commit_v1(
  agent text,
  known_uid text,
  known_version bigint,
  known_fence bigint,    -- null: the lease must be free at free_at
  free_at bigint,
  quiet_after text,      -- not null: nothing may wait behind that
  look_after text,
  gone text[],           -- keys in the inbox
%(arguments)s
) RETURNS TABLE (
  now bigint, owner text, "key" text, id text, kind text, tenant text,
  at bigint, not_before bigint, priority bigint, size bigint, body bytea
) LANGUAGE plpgsql
SET enable_seqscan = off
%(patient)sAS $$
#variable_conflict use_column
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended('{schema}/' || agent, 0::bigint));
  IF known_fence IS NOT NULL THEN
    PERFORM FROM {schema}.lease AS l WHERE l.owner = known_uid AND l."key" = '' AND l.fence = known_fence;
  ELSE
    PERFORM WHERE NOT EXISTS (SELECT FROM {schema}.lease AS l WHERE l.owner = known_uid AND l."key" = ''
      AND l.holder IS NOT NULL AND l.until > free_at);
  END IF;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  IF quiet_after IS NOT NULL THEN
    PERFORM FROM {schema}.inbox AS i WHERE i.owner = known_uid AND i."key" > quiet_after COLLATE "C" LIMIT 1;
    IF FOUND THEN
      RETURN;
    END IF;
  END IF;
  UPDATE {schema}.header SET %(header)s
    WHERE owner = '' AND "key" = agent AND uid = known_uid AND version = known_version AND staged IS NULL;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  IF gone IS NOT NULL THEN
    DELETE FROM {schema}.inbox AS i WHERE i.owner = known_uid AND i."key" = ANY (gone);
  END IF;
%(puts)s  IF EXISTS (SELECT FROM {schema}.watcher WHERE until > clock_timestamp()) THEN
    PERFORM pg_notify('kode/{schema}', agent);
  END IF;
  now := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
  RETURN NEXT;
  RETURN QUERY SELECT NULL::bigint, i.owner, i."key", i.id, i.kind, i.tenant, i.at, i.not_before, i.priority, i.size,
      i.body
    FROM {schema}.inbox AS i WHERE i.owner = known_uid AND i."key" > look_after COLLATE "C"
    ORDER BY i."key";
END $$;
"""

INSERT = """\
  IF %(kind)s_body IS NOT NULL THEN
    INSERT INTO {schema}.%(kind)s (owner, "key", %(names)s, body)
      VALUES (known_uid, %(values)s)%(twice)s;
  END IF;
"""

# A call is written twice at least. To try to insert it each time would be said in the log.
REPLACE = """\
  IF %(kind)s_body IS NOT NULL THEN
    UPDATE {schema}.%(kind)s AS r SET (%(names)s, body) = ROW (%(columns)s)
      WHERE r.owner = known_uid AND r."key" = %(kind)s_key;
    IF NOT FOUND THEN
      INSERT INTO {schema}.%(kind)s (owner, "key", %(names)s, body)
        VALUES (known_uid, %(values)s);
    END IF;
  END IF;
"""

APPEND = """
-- Items for the ends of inboxes, one after the other. Gives the time first (item 0), then for each item its outcome.
CREATE FUNCTION {schema}.append_v1(
  agents text[],
  items_t text[],    -- owner, agent, id, kind, tenant
  items_n bigint[],  -- item, at, not_before, priority, size, now, bounded (0 or 1)
  items_b bytea[]
) RETURNS TABLE (
  item bigint, outcome text, "position" bigint, "limit" bigint, owner text, waiting boolean, "key" text,
  id text, kind text, tenant text, at bigint, not_before bigint, priority bigint, size bigint, body bytea,
  run bigint, expires_at bigint
) LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
%(patient)sAS $$
#variable_conflict use_column
DECLARE
  one record;
  head record;
  known record;
  place bigint;
  wakes bigint;
BEGIN
%(lock)s  RETURN QUERY SELECT 0::bigint, '', (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, NULL::bigint,
    NULL, NULL::boolean, NULL, NULL, NULL, NULL, NULL::bigint, NULL::bigint, NULL::bigint, NULL::bigint, NULL::bytea,
    NULL::bigint, NULL::bigint;
  FOR one IN
    SELECT i.* FROM unnest(items_t[1:1], items_t[2:2], items_t[3:3], items_t[4:4], items_t[5:5], items_n[1:1],
        items_n[2:2], items_n[3:3], items_n[4:4], items_n[5:5], items_n[6:6], items_n[7:7], items_b)
      AS i(owner, agent, id, kind, tenant, item, at, not_before, priority, size, now, bounded, body)
    ORDER BY i.item
  LOOP
    item := one.item; outcome := 'new'; "position" := 0; "limit" := 0; owner := NULL; waiting := NULL; "key" := NULL;
    id := NULL; kind := NULL; tenant := NULL; at := NULL; not_before := NULL; priority := NULL; size := NULL;
    body := NULL; run := NULL; expires_at := NULL;
    SELECT h.uid, h.seen, h.parked, h.wake_at, h.max_inbox, h.max_message_bytes INTO head
      FROM {schema}.header AS h WHERE h.owner = '' AND h."key" = one.agent;
    IF NOT FOUND OR one.owner NOT IN ('', head.uid) THEN
      outcome := 'gone';
      RETURN NEXT;
      CONTINUE;
    END IF;
    SELECT r.* INTO known FROM {schema}.inbox AS r WHERE r.owner = head.uid AND r.id = one.id LIMIT 1;
    IF FOUND THEN
      outcome := 'waiting'; "position" := {schema}.key_int_v1(known."key"); owner := head.uid; waiting := true;
      "key" := known."key"; id := known.id; kind := known.kind; tenant := known.tenant; at := known.at;
      not_before := known.not_before; priority := known.priority; size := known.size; body := known.body;
      RETURN NEXT;
      CONTINUE;
    END IF;
    SELECT r.* INTO known FROM {schema}.consumed AS r
      WHERE r.owner = head.uid AND r."key" = one.id AND r.expires_at > one.now;
    IF FOUND THEN
      outcome := 'consumed'; "position" := known."position"; owner := head.uid; waiting := false;
      "key" := known."key"; kind := known.kind; run := known.run; expires_at := known.expires_at; body := known.body;
      RETURN NEXT;
      CONTINUE;
    END IF;
    IF one.bounded = 1 AND one.size > head.max_message_bytes THEN
      outcome := 'too_big'; "limit" := head.max_message_bytes;
      RETURN NEXT;
      CONTINUE;
    END IF;
    -- Counts no further than it must.
    IF one.bounded = 1 AND head.max_inbox <= (SELECT count(*) FROM (SELECT FROM {schema}.inbox AS r
        WHERE r.owner = head.uid AND r.kind IN ('message', 'reminder', 'instruction')
        AND (r.kind = 'instruction') = (one.kind = 'instruction') LIMIT head.max_inbox) AS c) THEN
      outcome := 'full'; "limit" := head.max_inbox;
      RETURN NEXT;
      CONTINUE;
    END IF;
    SELECT greatest(coalesce({schema}.key_int_v1(max(r."key")), 0), coalesce(head.seen, 0)) + 1 INTO place
      FROM {schema}.inbox AS r WHERE r.owner = head.uid;
    INSERT INTO {schema}.inbox (owner, "key", id, kind, at, not_before, priority, tenant, size, body)
      VALUES (head.uid, {schema}.int_key_v1(place), one.id, one.kind, one.at, one.not_before, one.priority, one.tenant,
        one.size, one.body);
    wakes := greatest(one.now, coalesce(one.not_before, 0));
    IF head.parked IS NULL AND (head.wake_at IS NULL OR head.wake_at > wakes) THEN
      UPDATE {schema}.header AS h SET wake_at = wakes
        WHERE h.owner = '' AND h."key" = one.agent;
    END IF;
    "position" := place;
    RETURN NEXT;
  END LOOP;
%(tell)sEND $$;
"""

DROP = """
-- Remove rows of a uid, so many that others need not wait long; says whether more may be left.
CREATE FUNCTION {schema}.drop_v1(uid text, most bigint) RETURNS boolean LANGUAGE plpgsql
%(safe)sAS $$
DECLARE
  kind text;
  gone bigint;
BEGIN
  FOREACH kind IN ARRAY ARRAY[%(kinds)s] LOOP
    EXECUTE pg_catalog.format('DELETE FROM {schema}.%%I WHERE ctid = ANY (ARRAY(
      SELECT ctid FROM {schema}.%%I WHERE owner = $1 LIMIT $2))', kind, kind) USING uid, most;
    GET DIAGNOSTICS gone = ROW_COUNT;
    most := most - gone;
    IF most <= 0 THEN
      RETURN true;
    END IF;
  END LOOP;
  RETURN false;
END $$;
"""


def table(layout: Layout) -> str:
    """Make a table's statement. Numbers stand together, for between them and texts there would be padding."""
    settled = SETTLED.get(layout.kind, set(layout.names))
    columns = [f'"{name}" {TYPES[False]}' for name in layout.numbers if name in settled]
    columns += [f"{name} {TYPES[True]} NOT NULL" for name in ("owner", '"key"')]
    columns += [f'"{name}" {TYPES[True]}' for name in layout.texts if name in settled]
    columns += [f'"{name}" {TYPES[False]}' for name in layout.numbers if name not in settled]
    columns += [f'"{name}" {TYPES[True]}' for name in layout.texts if name not in settled]
    listed = "".join(f"  {column},\n" for column in columns)
    return (
        f'\nCREATE TABLE {{schema}}.{layout.kind} (\n{listed}  body bytea NOT NULL,\n  PRIMARY KEY (owner, "key")\n);\n'
    )


def put(layout: Layout) -> str:
    """Make the part of `apply` that puts rows of a kind."""
    kind, names = layout.kind, [f'"{name}"' for name in layout.names]
    texts = ["owner", '"key"', *[f'"{name}"' for name in layout.texts]]
    numbers = ["act", *[f'"{name}"' for name in layout.numbers]]
    slices = [f"{kind}_t[{i}:{i}]" for i in range(1, len(texts) + 1)]
    slices += [f"{kind}_n[{i}:{i}]" for i in range(1, len(numbers) + 1)]
    return PUT % {
        "kind": kind,
        "names": ", ".join(names),
        "values": ", ".join(f"p.{name}" for name in names),
        "slices": ", ".join(slices),
        "fields": ", ".join([*texts, *numbers]),
        "updates": ", ".join(f"{name} = excluded.{name}" for name in names),
    }


def cases(numbers: bool) -> str:
    """Make the branches that find a column of a header or a lease by its name."""
    found = [
        f"WHEN '{name}' THEN {row}.\"{name}\""
        for row, kind in (("h", "header"), ("l", "lease"))
        for name in (LAYOUTS[kind].numbers if numbers else LAYOUTS[kind].texts)  # type: ignore[index]
    ]
    return " ".join(found)


def written(layout: Layout) -> str:
    """Make the part of `commit` that writes the row of a kind."""
    kind, names = layout.kind, [f'"{name}"' for name in layout.names]
    columns = ", ".join(f"{kind}_{name}" for name in (*layout.names, "body"))
    updates = ", ".join(f"{name} = excluded.{name}" for name in [*names, "body"])
    return (REPLACE if kind == "call" else INSERT) % {
        "kind": kind,
        "names": ", ".join(names),
        "columns": columns,
        "values": f"{kind}_key, {columns}",
        "twice": "" if kind in ("message", "events") else f' ON CONFLICT (owner, "key") DO UPDATE SET {updates}',
    }


def commit() -> str:
    """Make the function for one commit alone."""
    header, kinds = LAYOUTS["header"], [LAYOUTS[kind] for kind in WRITTEN]
    arguments = [f"  header_{name} {sort(header, name)}" for name in (*header.names, "body")]
    for layout in kinds:
        columns = ("key", *layout.names, "body")
        arguments.append("  " + ", ".join(f"{layout.kind}_{name} {sort(layout, name)}" for name in columns))
    return COMMIT % {
        "patient": PATIENT,
        "arguments": ",\n".join(arguments),
        "header": ", ".join(f'"{name}" = header_{name}' for name in (*header.names, "body")),
        "puts": "".join(map(written, kinds)),
    }


def sort(layout: Layout, name: str) -> str:
    """Give the type of a column as an argument."""
    return "bytea" if name == "body" else "bigint" if name in layout.numbers else "text"


def draw() -> str:
    """Make the whole migration."""
    arguments = ",\n".join(f"  {kind}_t text[], {kind}_n bigint[], {kind}_b bytea[]" for kind in LAYOUTS)
    apply = APPLY_HEAD % {
        "lock": LOCK,
        "patient": PATIENT,
        "arguments": arguments,
        "numbers": cases(True),
        "texts": cases(False),
    }
    parts = [
        HEAD,
        *map(table, LAYOUTS.values()),
        INDEXES,
        FUNCTIONS,
        apply,
        *map(put, LAYOUTS.values()),
        APPLY_TAIL % {"tell": TELL},
        commit(),
    ]
    kinds = ", ".join(f"'{kind}'" for kind in LAYOUTS)
    append = APPEND % {"lock": LOCK, "patient": PATIENT, "tell": TELL}
    return "".join([*parts, append, DROP % {"safe": SAFE, "kinds": kinds}])


if __name__ == "__main__":
    sys.stdout.write(draw())
