"""Write the file that is run in a Supabase project: `python draw_sql.py > src/kode/store/supabase/schema.sql`.

Its first part is what the PostgreSQL wheel makes, word for word: the same tables and the same functions judge and
write, so both wheels may work on one schema at once. What is added only carries JSON to them and back. A test compares
the file with what is drawn. It is for this repository alone: the wheels do not know each other.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from kode.core.store.records import COLUMNS
from kode.store.postgres.migrations import shipped
from kode.store.postgres.tables import LAYOUTS, Layout

SCHEMA = '"kode"'

HEAD = """\
-- What KODE keeps agents in, for a Supabase project. Run all of it in the SQL editor, then add "kode" to the exposed
-- schemas (Settings, API). It may be run again: tables that are there stay as they are, and what people may read.
--
-- Everything belongs to "kode"; to have it elsewhere, replace that name, with its quotes, throughout. Row level
-- security is on for every table and no policy is made, and only service_role may call anything: see the wheel's README
-- for what to add if people shall read their own agents.

BEGIN;

-- ---- tables, and the functions that judge and write: those of the PostgreSQL store --------------------------------

DO $do$ BEGIN
IF to_regclass('{schema}.migration') IS NULL THEN
EXECUTE $base$
{base}$base$;
END IF;
IF to_regproc('{schema}.rest_hello_v1') IS NULL THEN
  -- The first time. What people are given to read later is theirs: see the end of this file.
  REVOKE ALL ON SCHEMA {schema} FROM anon, authenticated;
  REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM anon, authenticated;
END IF;
END $do$;
"""

REST = """
-- ---- JSON in, JSON out ------------------------------------------------------------------------------------------
--
-- Each answer is one value, so the API's limit of rows never cuts one. A statement here ends before who asked for it
-- gives up: the API applies a function's statement_timeout to its whole transaction.

-- Columns of a table as an array of arrays, out of rows that are arrays; NULL when there are no rows. In PL/pgSQL,
-- whose plans are kept for the session, and strict, for most kinds are not in most acts.
CREATE OR REPLACE FUNCTION {schema}.rest_texts_v1(data jsonb, places integer[]) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (SELECT array_agg(c.held ORDER BY c.n) FROM (
    SELECT p.n, array_agg(r.one->>p.place ORDER BY r.n) AS held
    FROM unnest(places) WITH ORDINALITY AS p(place, n), jsonb_array_elements(data) WITH ORDINALITY AS r(one, n)
    GROUP BY p.n) AS c);
END $$;

CREATE OR REPLACE FUNCTION {schema}.rest_bodies_v1(data jsonb) RETURNS bytea[]
LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (SELECT array_agg(decode(b.body, 'base64') ORDER BY b.n)
    FROM jsonb_array_elements_text(data) WITH ORDINALITY AS b(body, n));
END $$;

-- What is read of a row of `r`: owner, key, body, columns. NULL for what is no kind of record.
CREATE OR REPLACE FUNCTION {schema}.rest_row_v1(kind text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT 'json_build_array(r.owner, r."key", encode(r.body, ''base64''), ' || CASE kind
%(rows)s
  END || ')'
$$;

-- Which of these this is, and what was applied of the migrations of the tables.
CREATE OR REPLACE FUNCTION {schema}.rest_hello_v1() RETURNS json
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT json_build_object(
    'at', (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
    'rest', 1,
    'migrations', (SELECT json_agg(json_build_array(m.number, m.phase, m.checksum)) FROM {schema}.migration AS m),
    'isolation', current_setting('transaction_isolation'),
    'durable', current_setting('fsync') <> 'off' AND current_setting('synchronous_commit') <> 'off')
$$;

-- See `apply_v1`. `acts` holds agents, and rows: of conditions that are judged at once (plain) and one by one (rare),
-- of deletes, of looks, and those of each kind to put, whose bodies are an array apart. Every row begins with the
-- number of its act.
CREATE OR REPLACE FUNCTION {schema}.rest_apply_v1(acts jsonb) RETURNS json
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET statement_timeout = '30s' SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  RETURN (SELECT json_build_object(
    'at', max(a.failed) FILTER (WHERE a.act = 0),
    'failed', json_agg(json_build_array(a.act, a.failed)) FILTER (WHERE a.act > 0 AND a.failed IS NOT NULL),
    'inbox', json_agg(json_build_array(a.act, %(waiting)s)
      ORDER BY a.act, a."key" COLLATE "C") FILTER (WHERE a.act > 0 AND a.failed IS NULL))
  FROM {schema}.apply_v1(
    agents := ARRAY(SELECT jsonb_array_elements_text(acts->'agents')),
%(arguments)s
  ) AS a);
END $$;

-- See `append_v1`. A row: owner, agent, id, kind, tenant, item, at, not_before, priority, size, now, bounded.
CREATE OR REPLACE FUNCTION {schema}.rest_append_v1(items jsonb, bodies jsonb) RETURNS json
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET statement_timeout = '30s' SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  RETURN (SELECT json_build_object(
    'at', max(a."position") FILTER (WHERE a.item = 0),
    'items', json_agg(json_build_array(a.item, a.outcome, a."position", a."limit", a.waiting,
      CASE WHEN a.waiting THEN json_build_array(%(waiting)s)
        WHEN NOT a.waiting THEN json_build_array(%(consumed)s) END) ORDER BY a.item) FILTER (WHERE a.item > 0))
  FROM {schema}.append_v1(
    ARRAY(SELECT i.one->>1 FROM jsonb_array_elements(items) AS i(one)),
    {schema}.rest_texts_v1(items, '{0,1,2,3,4}'),
    {schema}.rest_texts_v1(items, '{5,6,7,8,9,10,11}')::bigint[],
    {schema}.rest_bodies_v1(bodies)
  ) AS a);
END $$;

-- Several things at once. Each of `asks` is one of:
--   {"kind", "at": [[owner, key], …]}: these records, in this order; null for what is not there;
--   {"kind", "owner", "after", "prefix", "before", "limit", "reverse", "tenant", "bytes"}: a range, as far as so many
--     bytes of bodies, but one record at least; with how many there would have been;
--   {"look": agent}: what is another value after every change.
CREATE OR REPLACE FUNCTION {schema}.rest_read_v1(asks jsonb) RETURNS json
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET statement_timeout = '30s'
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
DECLARE
  ask jsonb;
  found json;
  answers json[] := '{}';
BEGIN
  FOR ask IN SELECT a.one FROM jsonb_array_elements(asks) WITH ORDINALITY AS a(one, n) ORDER BY a.n LOOP
    IF ask ? 'look' THEN
      SELECT json_build_array(h.uid, h.version,
          (SELECT max(i."key") FROM {schema}.inbox AS i WHERE i.owner = h.uid)) INTO found
        FROM {schema}.header AS h WHERE h.owner = '' AND h."key" = ask->>'look';
    ELSIF ask ? 'at' THEN
      EXECUTE format('SELECT json_agg(CASE WHEN r."key" IS NOT NULL THEN %%s END ORDER BY k.n)
        FROM jsonb_array_elements($1) WITH ORDINALITY AS k(place, n)
        LEFT JOIN {schema}.%%I AS r ON r.owner = k.place->>0 AND r."key" = k.place->>1',
        {schema}.rest_row_v1(ask->>'kind'), ask->>'kind') INTO found USING ask->'at';
    ELSE
      EXECUTE format('WITH page AS MATERIALIZED (
          SELECT r.*, row_number() OVER w AS n, sum(octet_length(r.body)) OVER w - octet_length(r.body) AS before
          FROM (SELECT * FROM {schema}.%%1$I AS r
            WHERE r.owner = $1 AND r."key" > $2 AND r."key" >= $3 AND ($4 IS NULL OR r."key" < $4) %%2$s
            ORDER BY r."key" %%3$s LIMIT $6) AS r
          WINDOW w AS (ORDER BY r."key" %%3$s))
        SELECT json_build_array((SELECT count(*) FROM page),
          coalesce(json_agg(%%4$s ORDER BY r.n), ''[]'')) FROM page AS r WHERE r.before < $7',
        ask->>'kind', CASE WHEN ask->>'tenant' IS NOT NULL THEN 'AND r.tenant = $5' END,
        CASE WHEN (ask->>'reverse')::boolean THEN 'DESC' END, {schema}.rest_row_v1(ask->>'kind'))
        INTO found USING ask->>'owner', ask->>'after', ask->>'prefix', ask->>'before', ask->>'tenant',
          (ask->>'limit')::bigint, (ask->>'bytes')::bigint;
    END IF;
    answers := answers || coalesce(found, 'null');
  END LOOP;
  RETURN json_build_object('at', (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, 'answers', answers);
END $$;

-- Who must wake: ids and times.
CREATE OR REPLACE FUNCTION {schema}.rest_due_v1(now bigint, wake_at bigint, agent text, most bigint) RETURNS json
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET statement_timeout = '30s' SET enable_seqscan = off SET jit = off AS $$
DECLARE
  found json;
BEGIN
  SELECT json_agg(json_build_array(d."key", d.wake_at) ORDER BY d.wake_at, d."key") INTO found FROM (
    SELECT h."key", h.wake_at FROM {schema}.header AS h
    LEFT JOIN {schema}.lease AS l ON l.owner = h.uid AND l."key" = ''
    WHERE h.wake_at <= $1 AND (h.wake_at, h."key") > ($2, $3 COLLATE "C") AND (l.holder IS NULL OR l.until <= $1)
    ORDER BY h.wake_at, h."key" LIMIT $4) AS d;
  RETURN coalesce(found, '[]');
END $$;
"""

TAIL = """
-- ---- who may ----------------------------------------------------------------------------------------------------

%(secure)s
DO $do$ BEGIN
  IF current_setting('server_version_num')::integer >= 150000 THEN
    ALTER VIEW {schema}.agents SET (security_invoker = true);
  END IF;
END $do$;

-- Nobody but service_role writes or calls anything, each time; people may be given USAGE and SELECT, and keep them.
REVOKE ALL ON SCHEMA {schema} FROM PUBLIC;
REVOKE CREATE ON SCHEMA {schema} FROM anon, authenticated;
REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM PUBLIC;
REVOKE INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER ON ALL TABLES IN SCHEMA {schema} FROM anon, authenticated;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA {schema} FROM PUBLIC, anon, authenticated;
GRANT USAGE ON SCHEMA {schema} TO service_role;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO service_role;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema} TO service_role;

-- What this role makes here later, without this file, is no more open than what is here.
ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} REVOKE ALL ON TABLES FROM PUBLIC, anon, authenticated;
ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} REVOKE ALL ON FUNCTIONS FROM PUBLIC, anon, authenticated;
ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO service_role;
ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT EXECUTE ON FUNCTIONS TO service_role;

-- The API learns of new functions by this.
NOTIFY pgrst, 'reload schema';

COMMIT;
"""


def texts(rows: str, places: Sequence[int], *, numbers: bool = False) -> str:
    """Take columns of rows out of `acts`."""
    listed = ",".join(map(str, places))
    return f"{{schema}}.rest_texts_v1(acts->'{rows}', '{{{listed}}}'){'::bigint[]' if numbers else ''}"


def arguments() -> str:
    """Make the arguments of `apply_v1` but for the agents."""
    lines = []
    for name, rows, numbers, width in (
        ("c", "plain", 3, 9),
        ("s", "rare", 3, 9),
        ("d", "delete", 1, 4),
        ("l", "look", 1, 3),
    ):
        lines.append(f"    {name}_n := {texts(rows, range(numbers), numbers=True)}")
        lines.append(f"    {name}_t := {texts(rows, range(numbers, width))}")
    for kind, layout in LAYOUTS.items():
        place = {name: 3 + i for i, name in enumerate(layout.names)}
        lines.append(f"    {kind}_t := {texts(kind, [1, 2, *(place[name] for name in layout.texts)])}")
        lines.append(f"    {kind}_n := {texts(kind, [0, *(place[name] for name in layout.numbers)], numbers=True)}")
        lines.append(f"    {kind}_b := {{schema}}.rest_bodies_v1(acts->'{kind}_b')")
    return ",\n".join(lines)


def columns(layout: Layout, name: str) -> str:
    """List the columns of a row."""
    return ", ".join(f'{name}."{column}"' for column in layout.names)


def row(layout: Layout, name: str) -> str:
    """Make what is read of a row: owner, key, body, columns."""
    return f"{name}.owner, {name}.\"key\", encode({name}.body, 'base64'), {columns(layout, name)}"


def draw() -> str:
    """Make the whole file."""
    base = "\n".join(one.sql("kode") for one in shipped())
    rows = "\n".join(f"    WHEN '{kind}' THEN '{columns(layout, 'r')}'" for kind, layout in LAYOUTS.items())
    rest = REST % {
        "rows": rows,
        "arguments": arguments(),
        "waiting": row(LAYOUTS["inbox"], "a"),
        "consumed": row(LAYOUTS["consumed"], "a"),
    }
    tables = [*COLUMNS, "migration", "watcher"]
    secure = [f"ALTER TABLE {{schema}}.{name} ENABLE ROW LEVEL SECURITY;" for name in tables]
    text = HEAD.replace("{base}", base) + rest + TAIL % {"secure": "\n".join(secure)}
    return text.replace("{schema}", SCHEMA)


if __name__ == "__main__":
    sys.stdout.write(draw())
