-- What KODE keeps agents in, for a Supabase project. Run all of it in the SQL editor, then add "kode" to the exposed
-- schemas (Settings, API). It may be run again: tables that are there stay as they are, and what people may read.
--
-- Everything belongs to "kode"; to have it elsewhere, replace that name, with its quotes, throughout. Row level
-- security is on for every table and no policy is made, and only service_role may call anything: see the wheel's README
-- for what to add if people shall read their own agents.

BEGIN;

-- ---- tables, and the functions that judge and write: those of the PostgreSQL store --------------------------------

DO $do$ BEGIN
IF to_regclass('"kode".migration') IS NULL THEN
EXECUTE $base$
-- Tables and functions of KODE's PostgreSQL store. "kode" stands for the schema's quoted name.
--
-- One table per kind of record. `owner` is the identity (uid) a record belongs to, "" for headers; (owner, key) is its
-- place. Keys sort by their bytes: COLLATE "C". Times are microseconds since 1970, UTC. Bodies are opaque.

-- Not IF NOT EXISTS: that asks for the right to make schemas also where this one is there.
DO $$ BEGIN
  IF pg_catalog.to_regnamespace('"kode"') IS NULL THEN
    CREATE SCHEMA "kode";
  END IF;
END $$;

CREATE TABLE "kode".migration (
  number integer PRIMARY KEY,
  phase text NOT NULL,
  name text NOT NULL,
  checksum text NOT NULL,
  at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE "kode".header (
  "created_at" bigint,
  "max_inbox" bigint,
  "max_message_bytes" bigint,
  "dedupe_us" bigint,
  "expires_at" bigint,
  owner text COLLATE "C" NOT NULL,
  "key" text COLLATE "C" NOT NULL,
  "agent_id" text COLLATE "C",
  "uid" text COLLATE "C",
  "template" text COLLATE "C",
  "tenant" text COLLATE "C",
  "parent" text COLLATE "C",
  "version" bigint,
  "wake_at" bigint,
  "seen" bigint,
  "updated_at" bigint,
  "commit_id" text COLLATE "C",
  "staged" text COLLATE "C",
  "status" text COLLATE "C",
  "parked" text COLLATE "C",
  body bytea NOT NULL,
  PRIMARY KEY (owner, "key")
);

CREATE TABLE "kode".lease (
  "fence" bigint,
  "until" bigint,
  "takes" bigint,
  owner text COLLATE "C" NOT NULL,
  "key" text COLLATE "C" NOT NULL,
  "holder" text COLLATE "C",
  body bytea NOT NULL,
  PRIMARY KEY (owner, "key")
);

CREATE TABLE "kode".message (
  "run" bigint,
  "step" bigint,
  "at" bigint,
  "size" bigint,
  owner text COLLATE "C" NOT NULL,
  "key" text COLLATE "C" NOT NULL,
  "role" text COLLATE "C",
  body bytea NOT NULL,
  PRIMARY KEY (owner, "key")
);

CREATE TABLE "kode".call (
  "seq" bigint,
  "run" bigint,
  "asked_at" bigint,
  owner text COLLATE "C" NOT NULL,
  "key" text COLLATE "C" NOT NULL,
  "tool" text COLLATE "C",
  "started_at" bigint,
  "finished_at" bigint,
  "size" bigint,
  "status" text COLLATE "C",
  body bytea NOT NULL,
  PRIMARY KEY (owner, "key")
);

CREATE TABLE "kode".events (
  "last" bigint,
  "version" bigint,
  "run" bigint,
  "at" bigint,
  "size" bigint,
  owner text COLLATE "C" NOT NULL,
  "key" text COLLATE "C" NOT NULL,
  "channels" text COLLATE "C",
  body bytea NOT NULL,
  PRIMARY KEY (owner, "key")
);

CREATE TABLE "kode".inbox (
  "at" bigint,
  "not_before" bigint,
  "priority" bigint,
  "size" bigint,
  owner text COLLATE "C" NOT NULL,
  "key" text COLLATE "C" NOT NULL,
  "id" text COLLATE "C",
  "kind" text COLLATE "C",
  "tenant" text COLLATE "C",
  body bytea NOT NULL,
  PRIMARY KEY (owner, "key")
);

CREATE TABLE "kode".consumed (
  "position" bigint,
  "run" bigint,
  "expires_at" bigint,
  owner text COLLATE "C" NOT NULL,
  "key" text COLLATE "C" NOT NULL,
  "kind" text COLLATE "C",
  body bytea NOT NULL,
  PRIMARY KEY (owner, "key")
);

CREATE TABLE "kode".run (
  "started_at" bigint,
  "ended_at" bigint,
  owner text COLLATE "C" NOT NULL,
  "key" text COLLATE "C" NOT NULL,
  "status" text COLLATE "C",
  "stop_reason" text COLLATE "C",
  body bytea NOT NULL,
  PRIMARY KEY (owner, "key")
);

CREATE TABLE "kode".compaction (
  "start" bigint,
  "stop" bigint,
  "at" bigint,
  owner text COLLATE "C" NOT NULL,
  "key" text COLLATE "C" NOT NULL,
  body bytea NOT NULL,
  PRIMARY KEY (owner, "key")
);

CREATE TABLE "kode".snapshot (
  "seq" bigint,
  owner text COLLATE "C" NOT NULL,
  "key" text COLLATE "C" NOT NULL,
  "tags" text COLLATE "C",
  "parent" text COLLATE "C",
  body bytea NOT NULL,
  PRIMARY KEY (owner, "key")
);

CREATE TABLE "kode".document (
  "at" bigint,
  owner text COLLATE "C" NOT NULL,
  "key" text COLLATE "C" NOT NULL,
  "digest" text COLLATE "C",
  body bytea NOT NULL,
  PRIMARY KEY (owner, "key")
);

CREATE TABLE "kode".blob (
  "size" bigint,
  "at" bigint,
  owner text COLLATE "C" NOT NULL,
  "key" text COLLATE "C" NOT NULL,
  "media_type" text COLLATE "C",
  body bytea NOT NULL,
  PRIMARY KEY (owner, "key")
);

CREATE TABLE "kode".staged (
  "at" bigint,
  owner text COLLATE "C" NOT NULL,
  "key" text COLLATE "C" NOT NULL,
  body bytea NOT NULL,
  PRIMARY KEY (owner, "key")
);

-- Who must wake, in order. Each commit moves wake_at, so this is the one index that headers pay for.
CREATE INDEX header_due ON "kode".header (wake_at, "key") WHERE wake_at IS NOT NULL;
CREATE INDEX inbox_id ON "kode".inbox (owner, id);

-- A header is written with every commit, a call twice or more, an inbox is filled and emptied: room in their pages, so
-- that no index is written to for a row's next version, and their dead rows soon gone. Leases likewise.
ALTER TABLE "kode".header SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE "kode".lease SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE "kode".call SET (fillfactor = 60);
ALTER TABLE "kode".inbox SET (autovacuum_vacuum_scale_factor = 0.02);

-- Who watches, and until when: as long as nobody does, commits notify nobody, for a NOTIFY costs every commit of the
-- whole database one lock.
CREATE TABLE "kode".watcher (
  name text PRIMARY KEY,
  until timestamptz NOT NULL
);

-- For people: agents with times as times.
CREATE VIEW "kode".agents AS
  SELECT agent_id, uid, version, status, template, tenant, parent, parked,
    to_timestamp(created_at / 1e6) AS created_at, to_timestamp(updated_at / 1e6) AS updated_at,
    to_timestamp(wake_at / 1e6) AS wake_at, to_timestamp(expires_at / 1e6) AS expires_at
  FROM "kode".header;

-- Numbers as keys that sort: hexadecimal digits behind their count.
CREATE FUNCTION "kode".int_key_v1(n bigint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT to_hex(length(to_hex(n))) || to_hex(n) $$;

CREATE FUNCTION "kode".key_int_v1("key" text) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT ('x' || lpad(substr("key", 2), 16, '0'))::bit(64)::bigint $$;

-- Many acts at once, of different agents: each is judged, and done or not, by itself. Acts are numbered from 1.
-- Gives the time first (act 0), then for each act that failed the number of its condition, and what waits in the
-- inboxes that were asked for.
CREATE FUNCTION "kode".apply_v1(
  agents text[],
  c_n bigint[],  -- act, number of the condition, value
  c_t text[],    -- op, kind, owner, key, column, value: of headers, leases and inboxes
  s_n bigint[],
  s_t text[],    -- the same, of all others
  d_n bigint[],  -- act
  d_t text[],    -- kind, owner, key
  l_n bigint[],  -- act
  l_t text[],    -- owner, key behind which to look
  header_t text[], header_n bigint[], header_b bytea[],
  lease_t text[], lease_n bigint[], lease_b bytea[],
  message_t text[], message_n bigint[], message_b bytea[],
  call_t text[], call_n bigint[], call_b bytea[],
  events_t text[], events_n bigint[], events_b bytea[],
  inbox_t text[], inbox_n bigint[], inbox_b bytea[],
  consumed_t text[], consumed_n bigint[], consumed_b bytea[],
  run_t text[], run_n bigint[], run_b bytea[],
  compaction_t text[], compaction_n bigint[], compaction_b bytea[],
  snapshot_t text[], snapshot_n bigint[], snapshot_b bytea[],
  document_t text[], document_n bigint[], document_b bytea[],
  blob_t text[], blob_n bigint[], blob_b bytea[],
  staged_t text[], staged_n bigint[], staged_b bytea[]
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
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '100ms'
AS $$
#variable_conflict use_column
DECLARE
  lost bigint[];
  why bigint[];
  told text[];
  one record;
  holds boolean;
BEGIN
  PERFORM pg_advisory_xact_lock(l.id) FROM
    (SELECT DISTINCT hashtextextended('"kode"/' || a, 0::bigint) AS id FROM unnest(agents) AS a ORDER BY 1) AS l;

  -- Judge. Headers, leases and inboxes at once.
  IF c_n IS NOT NULL THEN
    SELECT array_agg(f.act), array_agg(f.i) INTO lost, why FROM (
      SELECT c.act, min(c.i) AS i
      FROM unnest(c_n[1:1], c_n[2:2], c_n[3:3], c_t[1:1], c_t[2:2], c_t[3:3], c_t[4:4], c_t[5:5], c_t[6:6])
        AS c(act, i, n, op, kind, owner, "key", name, t)
      LEFT JOIN "kode".header AS h ON c.kind = 'header' AND h.owner = c.owner AND h."key" = c."key"
      LEFT JOIN "kode".lease AS l ON c.kind = 'lease' AND l.owner = c.owner AND l."key" = c."key"
      WHERE NOT CASE
        WHEN c.op = 'no_inbox_after' THEN
          NOT EXISTS (SELECT FROM "kode".inbox AS i WHERE i.owner = c.owner AND i."key" > c.t COLLATE "C")
        WHEN c.op = 'absent' THEN h."key" IS NULL AND l."key" IS NULL
        WHEN c.op = 'free' THEN l.holder IS NULL OR l.until <= c.n
        ELSE (h."key" IS NOT NULL OR l."key" IS NOT NULL)
          AND (CASE c.name WHEN 'version' THEN h."version" WHEN 'wake_at' THEN h."wake_at" WHEN 'seen' THEN h."seen" WHEN 'created_at' THEN h."created_at" WHEN 'updated_at' THEN h."updated_at" WHEN 'max_inbox' THEN h."max_inbox" WHEN 'max_message_bytes' THEN h."max_message_bytes" WHEN 'dedupe_us' THEN h."dedupe_us" WHEN 'expires_at' THEN h."expires_at" WHEN 'fence' THEN l."fence" WHEN 'until' THEN l."until" WHEN 'takes' THEN l."takes" END) IS NOT DISTINCT FROM c.n
          AND (CASE c.name WHEN 'agent_id' THEN h."agent_id" WHEN 'uid' THEN h."uid" WHEN 'commit_id' THEN h."commit_id" WHEN 'staged' THEN h."staged" WHEN 'status' THEN h."status" WHEN 'template' THEN h."template" WHEN 'tenant' THEN h."tenant" WHEN 'parent' THEN h."parent" WHEN 'parked' THEN h."parked" WHEN 'holder' THEN l."holder" END) IS NOT DISTINCT FROM c.t
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
        'SELECT %s FROM (SELECT) AS o LEFT JOIN "kode".%I AS r ON r.owner = $1 AND r."key" = $2',
        CASE one.name WHEN '' THEN 'r."key" IS NULL'
        ELSE pg_catalog.format(
          'r."key" IS NOT NULL AND to_jsonb(r.%I) IS NOT DISTINCT FROM coalesce(to_jsonb($3), to_jsonb($4))',
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
    DELETE FROM "kode".inbox AS r USING unnest(d_n[1:1], d_t[1:1], d_t[2:2], d_t[3:3]) AS d(act, kind, owner, "key")
    WHERE d.kind = 'inbox' AND r.owner = d.owner AND r."key" = d."key" AND (lost IS NULL OR d.act <> ALL (lost));
    FOR one IN SELECT DISTINCT d.kind FROM unnest(d_t[1:1]) AS d(kind) WHERE d.kind <> 'inbox' LOOP
      EXECUTE pg_catalog.format('DELETE FROM "kode".%I AS r USING unnest($1[1:1], $2[1:1], $2[2:2], $2[3:3])
        AS d(act, kind, owner, "key") WHERE d.kind = $3 AND r.owner = d.owner AND r."key" = d."key"
        AND ($4 IS NULL OR d.act <> ALL ($4))', one.kind) USING d_n, d_t, one.kind, lost;
    END LOOP;
  END IF;

  IF header_b IS NOT NULL THEN
    INSERT INTO "kode".header (owner, "key", "agent_id", "uid", "version", "commit_id", "staged", "wake_at", "seen", "status", "template", "tenant", "parent", "created_at", "updated_at", "max_inbox", "max_message_bytes", "dedupe_us", "expires_at", "parked", body)
    SELECT p.owner, p."key", p."agent_id", p."uid", p."version", p."commit_id", p."staged", p."wake_at", p."seen", p."status", p."template", p."tenant", p."parent", p."created_at", p."updated_at", p."max_inbox", p."max_message_bytes", p."dedupe_us", p."expires_at", p."parked", p.body
    FROM unnest(header_t[1:1], header_t[2:2], header_t[3:3], header_t[4:4], header_t[5:5], header_t[6:6], header_t[7:7], header_t[8:8], header_t[9:9], header_t[10:10], header_t[11:11], header_n[1:1], header_n[2:2], header_n[3:3], header_n[4:4], header_n[5:5], header_n[6:6], header_n[7:7], header_n[8:8], header_n[9:9], header_n[10:10], header_b) AS p(owner, "key", "agent_id", "uid", "commit_id", "staged", "status", "template", "tenant", "parent", "parked", act, "version", "wake_at", "seen", "created_at", "updated_at", "max_inbox", "max_message_bytes", "dedupe_us", "expires_at", body)
    WHERE lost IS NULL OR p.act <> ALL (lost)
    ON CONFLICT (owner, "key") DO UPDATE SET "agent_id" = excluded."agent_id", "uid" = excluded."uid", "version" = excluded."version", "commit_id" = excluded."commit_id", "staged" = excluded."staged", "wake_at" = excluded."wake_at", "seen" = excluded."seen", "status" = excluded."status", "template" = excluded."template", "tenant" = excluded."tenant", "parent" = excluded."parent", "created_at" = excluded."created_at", "updated_at" = excluded."updated_at", "max_inbox" = excluded."max_inbox", "max_message_bytes" = excluded."max_message_bytes", "dedupe_us" = excluded."dedupe_us", "expires_at" = excluded."expires_at", "parked" = excluded."parked", body = excluded.body;
  END IF;

  IF lease_b IS NOT NULL THEN
    INSERT INTO "kode".lease (owner, "key", "holder", "fence", "until", "takes", body)
    SELECT p.owner, p."key", p."holder", p."fence", p."until", p."takes", p.body
    FROM unnest(lease_t[1:1], lease_t[2:2], lease_t[3:3], lease_n[1:1], lease_n[2:2], lease_n[3:3], lease_n[4:4], lease_b) AS p(owner, "key", "holder", act, "fence", "until", "takes", body)
    WHERE lost IS NULL OR p.act <> ALL (lost)
    ON CONFLICT (owner, "key") DO UPDATE SET "holder" = excluded."holder", "fence" = excluded."fence", "until" = excluded."until", "takes" = excluded."takes", body = excluded.body;
  END IF;

  IF message_b IS NOT NULL THEN
    INSERT INTO "kode".message (owner, "key", "role", "run", "step", "at", "size", body)
    SELECT p.owner, p."key", p."role", p."run", p."step", p."at", p."size", p.body
    FROM unnest(message_t[1:1], message_t[2:2], message_t[3:3], message_n[1:1], message_n[2:2], message_n[3:3], message_n[4:4], message_n[5:5], message_b) AS p(owner, "key", "role", act, "run", "step", "at", "size", body)
    WHERE lost IS NULL OR p.act <> ALL (lost)
    ON CONFLICT (owner, "key") DO UPDATE SET "role" = excluded."role", "run" = excluded."run", "step" = excluded."step", "at" = excluded."at", "size" = excluded."size", body = excluded.body;
  END IF;

  IF call_b IS NOT NULL THEN
    INSERT INTO "kode".call (owner, "key", "status", "tool", "seq", "run", "asked_at", "started_at", "finished_at", "size", body)
    SELECT p.owner, p."key", p."status", p."tool", p."seq", p."run", p."asked_at", p."started_at", p."finished_at", p."size", p.body
    FROM unnest(call_t[1:1], call_t[2:2], call_t[3:3], call_t[4:4], call_n[1:1], call_n[2:2], call_n[3:3], call_n[4:4], call_n[5:5], call_n[6:6], call_n[7:7], call_b) AS p(owner, "key", "status", "tool", act, "seq", "run", "asked_at", "started_at", "finished_at", "size", body)
    WHERE lost IS NULL OR p.act <> ALL (lost)
    ON CONFLICT (owner, "key") DO UPDATE SET "status" = excluded."status", "tool" = excluded."tool", "seq" = excluded."seq", "run" = excluded."run", "asked_at" = excluded."asked_at", "started_at" = excluded."started_at", "finished_at" = excluded."finished_at", "size" = excluded."size", body = excluded.body;
  END IF;

  IF events_b IS NOT NULL THEN
    INSERT INTO "kode".events (owner, "key", "last", "version", "channels", "run", "at", "size", body)
    SELECT p.owner, p."key", p."last", p."version", p."channels", p."run", p."at", p."size", p.body
    FROM unnest(events_t[1:1], events_t[2:2], events_t[3:3], events_n[1:1], events_n[2:2], events_n[3:3], events_n[4:4], events_n[5:5], events_n[6:6], events_b) AS p(owner, "key", "channels", act, "last", "version", "run", "at", "size", body)
    WHERE lost IS NULL OR p.act <> ALL (lost)
    ON CONFLICT (owner, "key") DO UPDATE SET "last" = excluded."last", "version" = excluded."version", "channels" = excluded."channels", "run" = excluded."run", "at" = excluded."at", "size" = excluded."size", body = excluded.body;
  END IF;

  IF inbox_b IS NOT NULL THEN
    INSERT INTO "kode".inbox (owner, "key", "id", "kind", "at", "not_before", "priority", "tenant", "size", body)
    SELECT p.owner, p."key", p."id", p."kind", p."at", p."not_before", p."priority", p."tenant", p."size", p.body
    FROM unnest(inbox_t[1:1], inbox_t[2:2], inbox_t[3:3], inbox_t[4:4], inbox_t[5:5], inbox_n[1:1], inbox_n[2:2], inbox_n[3:3], inbox_n[4:4], inbox_n[5:5], inbox_b) AS p(owner, "key", "id", "kind", "tenant", act, "at", "not_before", "priority", "size", body)
    WHERE lost IS NULL OR p.act <> ALL (lost)
    ON CONFLICT (owner, "key") DO UPDATE SET "id" = excluded."id", "kind" = excluded."kind", "at" = excluded."at", "not_before" = excluded."not_before", "priority" = excluded."priority", "tenant" = excluded."tenant", "size" = excluded."size", body = excluded.body;
  END IF;

  IF consumed_b IS NOT NULL THEN
    INSERT INTO "kode".consumed (owner, "key", "position", "kind", "run", "expires_at", body)
    SELECT p.owner, p."key", p."position", p."kind", p."run", p."expires_at", p.body
    FROM unnest(consumed_t[1:1], consumed_t[2:2], consumed_t[3:3], consumed_n[1:1], consumed_n[2:2], consumed_n[3:3], consumed_n[4:4], consumed_b) AS p(owner, "key", "kind", act, "position", "run", "expires_at", body)
    WHERE lost IS NULL OR p.act <> ALL (lost)
    ON CONFLICT (owner, "key") DO UPDATE SET "position" = excluded."position", "kind" = excluded."kind", "run" = excluded."run", "expires_at" = excluded."expires_at", body = excluded.body;
  END IF;

  IF run_b IS NOT NULL THEN
    INSERT INTO "kode".run (owner, "key", "status", "stop_reason", "started_at", "ended_at", body)
    SELECT p.owner, p."key", p."status", p."stop_reason", p."started_at", p."ended_at", p.body
    FROM unnest(run_t[1:1], run_t[2:2], run_t[3:3], run_t[4:4], run_n[1:1], run_n[2:2], run_n[3:3], run_b) AS p(owner, "key", "status", "stop_reason", act, "started_at", "ended_at", body)
    WHERE lost IS NULL OR p.act <> ALL (lost)
    ON CONFLICT (owner, "key") DO UPDATE SET "status" = excluded."status", "stop_reason" = excluded."stop_reason", "started_at" = excluded."started_at", "ended_at" = excluded."ended_at", body = excluded.body;
  END IF;

  IF compaction_b IS NOT NULL THEN
    INSERT INTO "kode".compaction (owner, "key", "start", "stop", "at", body)
    SELECT p.owner, p."key", p."start", p."stop", p."at", p.body
    FROM unnest(compaction_t[1:1], compaction_t[2:2], compaction_n[1:1], compaction_n[2:2], compaction_n[3:3], compaction_n[4:4], compaction_b) AS p(owner, "key", act, "start", "stop", "at", body)
    WHERE lost IS NULL OR p.act <> ALL (lost)
    ON CONFLICT (owner, "key") DO UPDATE SET "start" = excluded."start", "stop" = excluded."stop", "at" = excluded."at", body = excluded.body;
  END IF;

  IF snapshot_b IS NOT NULL THEN
    INSERT INTO "kode".snapshot (owner, "key", "seq", "tags", "parent", body)
    SELECT p.owner, p."key", p."seq", p."tags", p."parent", p.body
    FROM unnest(snapshot_t[1:1], snapshot_t[2:2], snapshot_t[3:3], snapshot_t[4:4], snapshot_n[1:1], snapshot_n[2:2], snapshot_b) AS p(owner, "key", "tags", "parent", act, "seq", body)
    WHERE lost IS NULL OR p.act <> ALL (lost)
    ON CONFLICT (owner, "key") DO UPDATE SET "seq" = excluded."seq", "tags" = excluded."tags", "parent" = excluded."parent", body = excluded.body;
  END IF;

  IF document_b IS NOT NULL THEN
    INSERT INTO "kode".document (owner, "key", "digest", "at", body)
    SELECT p.owner, p."key", p."digest", p."at", p.body
    FROM unnest(document_t[1:1], document_t[2:2], document_t[3:3], document_n[1:1], document_n[2:2], document_b) AS p(owner, "key", "digest", act, "at", body)
    WHERE lost IS NULL OR p.act <> ALL (lost)
    ON CONFLICT (owner, "key") DO UPDATE SET "digest" = excluded."digest", "at" = excluded."at", body = excluded.body;
  END IF;

  IF blob_b IS NOT NULL THEN
    INSERT INTO "kode".blob (owner, "key", "size", "media_type", "at", body)
    SELECT p.owner, p."key", p."size", p."media_type", p."at", p.body
    FROM unnest(blob_t[1:1], blob_t[2:2], blob_t[3:3], blob_n[1:1], blob_n[2:2], blob_n[3:3], blob_b) AS p(owner, "key", "media_type", act, "size", "at", body)
    WHERE lost IS NULL OR p.act <> ALL (lost)
    ON CONFLICT (owner, "key") DO UPDATE SET "size" = excluded."size", "media_type" = excluded."media_type", "at" = excluded."at", body = excluded.body;
  END IF;

  IF staged_b IS NOT NULL THEN
    INSERT INTO "kode".staged (owner, "key", "at", body)
    SELECT p.owner, p."key", p."at", p.body
    FROM unnest(staged_t[1:1], staged_t[2:2], staged_n[1:1], staged_n[2:2], staged_b) AS p(owner, "key", act, "at", body)
    WHERE lost IS NULL OR p.act <> ALL (lost)
    ON CONFLICT (owner, "key") DO UPDATE SET "at" = excluded."at", body = excluded.body;
  END IF;

  IF header_b IS NOT NULL OR 'header' = ANY (d_t[1:1]) THEN
    IF EXISTS (SELECT FROM "kode".watcher WHERE until > clock_timestamp()) THEN
      PERFORM pg_notify('kode/"kode"', a) FROM unnest(agents) AS a;
    END IF;
  END IF;
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
      JOIN "kode".inbox AS r ON r.owner = l.owner AND r."key" > l.after COLLATE "C"
      WHERE lost IS NULL OR l.act <> ALL (lost)
      ORDER BY l.act, r."key";
  END IF;
END $$;

-- One commit alone, with one row of a kind at most: the header is changed in its place, what was never there before is
-- inserted as that. Gives the time first, then what waits in the inbox. Gives nothing, and does nothing, if a condition
-- fails: which one `apply` tells. Raises unique_violation if a message or an event was there already.
CREATE FUNCTION "kode".commit_v1(
  agent text,
  known_uid text,
  known_version bigint,
  known_fence bigint,    -- null: the lease must be free at free_at
  free_at bigint,
  quiet_after text,      -- not null: nothing may wait behind that
  look_after text,
  gone text[],           -- keys in the inbox
  header_agent_id text,
  header_uid text,
  header_version bigint,
  header_commit_id text,
  header_staged text,
  header_wake_at bigint,
  header_seen bigint,
  header_status text,
  header_template text,
  header_tenant text,
  header_parent text,
  header_created_at bigint,
  header_updated_at bigint,
  header_max_inbox bigint,
  header_max_message_bytes bigint,
  header_dedupe_us bigint,
  header_expires_at bigint,
  header_parked text,
  header_body bytea,
  message_key text, message_role text, message_run bigint, message_step bigint, message_at bigint, message_size bigint, message_body bytea,
  call_key text, call_status text, call_tool text, call_seq bigint, call_run bigint, call_asked_at bigint, call_started_at bigint, call_finished_at bigint, call_size bigint, call_body bytea,
  events_key text, events_last bigint, events_version bigint, events_channels text, events_run bigint, events_at bigint, events_size bigint, events_body bytea,
  consumed_key text, consumed_position bigint, consumed_kind text, consumed_run bigint, consumed_expires_at bigint, consumed_body bytea,
  run_key text, run_status text, run_stop_reason text, run_started_at bigint, run_ended_at bigint, run_body bytea,
  lease_key text, lease_holder text, lease_fence bigint, lease_until bigint, lease_takes bigint, lease_body bytea
) RETURNS TABLE (
  now bigint, owner text, "key" text, id text, kind text, tenant text,
  at bigint, not_before bigint, priority bigint, size bigint, body bytea
) LANGUAGE plpgsql
SET enable_seqscan = off
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '100ms'
AS $$
#variable_conflict use_column
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended('"kode"/' || agent, 0::bigint));
  IF known_fence IS NOT NULL THEN
    PERFORM FROM "kode".lease AS l WHERE l.owner = known_uid AND l."key" = '' AND l.fence = known_fence;
  ELSE
    PERFORM WHERE NOT EXISTS (SELECT FROM "kode".lease AS l WHERE l.owner = known_uid AND l."key" = ''
      AND l.holder IS NOT NULL AND l.until > free_at);
  END IF;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  IF quiet_after IS NOT NULL THEN
    PERFORM FROM "kode".inbox AS i WHERE i.owner = known_uid AND i."key" > quiet_after COLLATE "C" LIMIT 1;
    IF FOUND THEN
      RETURN;
    END IF;
  END IF;
  UPDATE "kode".header SET "agent_id" = header_agent_id, "uid" = header_uid, "version" = header_version, "commit_id" = header_commit_id, "staged" = header_staged, "wake_at" = header_wake_at, "seen" = header_seen, "status" = header_status, "template" = header_template, "tenant" = header_tenant, "parent" = header_parent, "created_at" = header_created_at, "updated_at" = header_updated_at, "max_inbox" = header_max_inbox, "max_message_bytes" = header_max_message_bytes, "dedupe_us" = header_dedupe_us, "expires_at" = header_expires_at, "parked" = header_parked, "body" = header_body
    WHERE owner = '' AND "key" = agent AND uid = known_uid AND version = known_version AND staged IS NULL;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  IF gone IS NOT NULL THEN
    DELETE FROM "kode".inbox AS i WHERE i.owner = known_uid AND i."key" = ANY (gone);
  END IF;
  IF message_body IS NOT NULL THEN
    INSERT INTO "kode".message (owner, "key", "role", "run", "step", "at", "size", body)
      VALUES (known_uid, message_key, message_role, message_run, message_step, message_at, message_size, message_body);
  END IF;
  IF call_body IS NOT NULL THEN
    UPDATE "kode".call AS r SET ("status", "tool", "seq", "run", "asked_at", "started_at", "finished_at", "size", body) = ROW (call_status, call_tool, call_seq, call_run, call_asked_at, call_started_at, call_finished_at, call_size, call_body)
      WHERE r.owner = known_uid AND r."key" = call_key;
    IF NOT FOUND THEN
      INSERT INTO "kode".call (owner, "key", "status", "tool", "seq", "run", "asked_at", "started_at", "finished_at", "size", body)
        VALUES (known_uid, call_key, call_status, call_tool, call_seq, call_run, call_asked_at, call_started_at, call_finished_at, call_size, call_body);
    END IF;
  END IF;
  IF events_body IS NOT NULL THEN
    INSERT INTO "kode".events (owner, "key", "last", "version", "channels", "run", "at", "size", body)
      VALUES (known_uid, events_key, events_last, events_version, events_channels, events_run, events_at, events_size, events_body);
  END IF;
  IF consumed_body IS NOT NULL THEN
    INSERT INTO "kode".consumed (owner, "key", "position", "kind", "run", "expires_at", body)
      VALUES (known_uid, consumed_key, consumed_position, consumed_kind, consumed_run, consumed_expires_at, consumed_body) ON CONFLICT (owner, "key") DO UPDATE SET "position" = excluded."position", "kind" = excluded."kind", "run" = excluded."run", "expires_at" = excluded."expires_at", body = excluded.body;
  END IF;
  IF run_body IS NOT NULL THEN
    INSERT INTO "kode".run (owner, "key", "status", "stop_reason", "started_at", "ended_at", body)
      VALUES (known_uid, run_key, run_status, run_stop_reason, run_started_at, run_ended_at, run_body) ON CONFLICT (owner, "key") DO UPDATE SET "status" = excluded."status", "stop_reason" = excluded."stop_reason", "started_at" = excluded."started_at", "ended_at" = excluded."ended_at", body = excluded.body;
  END IF;
  IF lease_body IS NOT NULL THEN
    INSERT INTO "kode".lease (owner, "key", "holder", "fence", "until", "takes", body)
      VALUES (known_uid, lease_key, lease_holder, lease_fence, lease_until, lease_takes, lease_body) ON CONFLICT (owner, "key") DO UPDATE SET "holder" = excluded."holder", "fence" = excluded."fence", "until" = excluded."until", "takes" = excluded."takes", body = excluded.body;
  END IF;
  IF EXISTS (SELECT FROM "kode".watcher WHERE until > clock_timestamp()) THEN
    PERFORM pg_notify('kode/"kode"', agent);
  END IF;
  now := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
  RETURN NEXT;
  RETURN QUERY SELECT NULL::bigint, i.owner, i."key", i.id, i.kind, i.tenant, i.at, i.not_before, i.priority, i.size,
      i.body
    FROM "kode".inbox AS i WHERE i.owner = known_uid AND i."key" > look_after COLLATE "C"
    ORDER BY i."key";
END $$;

-- Items for the ends of inboxes, one after the other. Gives the time first (item 0), then for each item its outcome.
CREATE FUNCTION "kode".append_v1(
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
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '100ms'
AS $$
#variable_conflict use_column
DECLARE
  one record;
  head record;
  known record;
  place bigint;
  wakes bigint;
BEGIN
  PERFORM pg_advisory_xact_lock(l.id) FROM
    (SELECT DISTINCT hashtextextended('"kode"/' || a, 0::bigint) AS id FROM unnest(agents) AS a ORDER BY 1) AS l;
  RETURN QUERY SELECT 0::bigint, '', (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, NULL::bigint,
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
      FROM "kode".header AS h WHERE h.owner = '' AND h."key" = one.agent;
    IF NOT FOUND OR one.owner NOT IN ('', head.uid) THEN
      outcome := 'gone';
      RETURN NEXT;
      CONTINUE;
    END IF;
    SELECT r.* INTO known FROM "kode".inbox AS r WHERE r.owner = head.uid AND r.id = one.id LIMIT 1;
    IF FOUND THEN
      outcome := 'waiting'; "position" := "kode".key_int_v1(known."key"); owner := head.uid; waiting := true;
      "key" := known."key"; id := known.id; kind := known.kind; tenant := known.tenant; at := known.at;
      not_before := known.not_before; priority := known.priority; size := known.size; body := known.body;
      RETURN NEXT;
      CONTINUE;
    END IF;
    SELECT r.* INTO known FROM "kode".consumed AS r
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
    IF one.bounded = 1 AND head.max_inbox <= (SELECT count(*) FROM (SELECT FROM "kode".inbox AS r
        WHERE r.owner = head.uid AND r.kind IN ('message', 'reminder', 'instruction')
        AND (r.kind = 'instruction') = (one.kind = 'instruction') LIMIT head.max_inbox) AS c) THEN
      outcome := 'full'; "limit" := head.max_inbox;
      RETURN NEXT;
      CONTINUE;
    END IF;
    SELECT greatest(coalesce("kode".key_int_v1(max(r."key")), 0), coalesce(head.seen, 0)) + 1 INTO place
      FROM "kode".inbox AS r WHERE r.owner = head.uid;
    INSERT INTO "kode".inbox (owner, "key", id, kind, at, not_before, priority, tenant, size, body)
      VALUES (head.uid, "kode".int_key_v1(place), one.id, one.kind, one.at, one.not_before, one.priority, one.tenant,
        one.size, one.body);
    wakes := greatest(one.now, coalesce(one.not_before, 0));
    IF head.parked IS NULL AND (head.wake_at IS NULL OR head.wake_at > wakes) THEN
      UPDATE "kode".header AS h SET wake_at = wakes
        WHERE h.owner = '' AND h."key" = one.agent;
    END IF;
    "position" := place;
    RETURN NEXT;
  END LOOP;
    IF EXISTS (SELECT FROM "kode".watcher WHERE until > clock_timestamp()) THEN
      PERFORM pg_notify('kode/"kode"', a) FROM unnest(agents) AS a;
    END IF;
END $$;

-- Remove rows of a uid, so many that others need not wait long; says whether more may be left.
CREATE FUNCTION "kode".drop_v1(uid text, most bigint) RETURNS boolean LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  kind text;
  gone bigint;
BEGIN
  FOREACH kind IN ARRAY ARRAY['header', 'lease', 'message', 'call', 'events', 'inbox', 'consumed', 'run', 'compaction', 'snapshot', 'document', 'blob', 'staged'] LOOP
    EXECUTE pg_catalog.format('DELETE FROM "kode".%I WHERE ctid = ANY (ARRAY(
      SELECT ctid FROM "kode".%I WHERE owner = $1 LIMIT $2))', kind, kind) USING uid, most;
    GET DIAGNOSTICS gone = ROW_COUNT;
    most := most - gone;
    IF most <= 0 THEN
      RETURN true;
    END IF;
  END LOOP;
  RETURN false;
END $$;

INSERT INTO "kode".migration (number, phase, name, checksum) VALUES (1, 'pre', 'begin', '0ff05f5d7ca4036b3cbabacf162841634543a129b582b22ef040e16e87ff2c60');
$base$;
END IF;
IF to_regproc('"kode".rest_hello_v1') IS NULL THEN
  -- The first time. What people are given to read later is theirs: see the end of this file.
  REVOKE ALL ON SCHEMA "kode" FROM anon, authenticated;
  REVOKE ALL ON ALL TABLES IN SCHEMA "kode" FROM anon, authenticated;
END IF;
END $do$;

-- ---- JSON in, JSON out ------------------------------------------------------------------------------------------
--
-- Each answer is one value, so the API's limit of rows never cuts one. A statement here ends before who asked for it
-- gives up: the API applies a function's statement_timeout to its whole transaction.

-- Columns of a table as an array of arrays, out of rows that are arrays; NULL when there are no rows. In PL/pgSQL,
-- whose plans are kept for the session, and strict, for most kinds are not in most acts.
CREATE OR REPLACE FUNCTION "kode".rest_texts_v1(data jsonb, places integer[]) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (SELECT array_agg(c.held ORDER BY c.n) FROM (
    SELECT p.n, array_agg(r.one->>p.place ORDER BY r.n) AS held
    FROM unnest(places) WITH ORDINALITY AS p(place, n), jsonb_array_elements(data) WITH ORDINALITY AS r(one, n)
    GROUP BY p.n) AS c);
END $$;

CREATE OR REPLACE FUNCTION "kode".rest_bodies_v1(data jsonb) RETURNS bytea[]
LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (SELECT array_agg(decode(b.body, 'base64') ORDER BY b.n)
    FROM jsonb_array_elements_text(data) WITH ORDINALITY AS b(body, n));
END $$;

-- What is read of a row of `r`: owner, key, body, columns. NULL for what is no kind of record.
CREATE OR REPLACE FUNCTION "kode".rest_row_v1(kind text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT 'json_build_array(r.owner, r."key", encode(r.body, ''base64''), ' || CASE kind
    WHEN 'header' THEN 'r."agent_id", r."uid", r."version", r."commit_id", r."staged", r."wake_at", r."seen", r."status", r."template", r."tenant", r."parent", r."created_at", r."updated_at", r."max_inbox", r."max_message_bytes", r."dedupe_us", r."expires_at", r."parked"'
    WHEN 'lease' THEN 'r."holder", r."fence", r."until", r."takes"'
    WHEN 'message' THEN 'r."role", r."run", r."step", r."at", r."size"'
    WHEN 'call' THEN 'r."status", r."tool", r."seq", r."run", r."asked_at", r."started_at", r."finished_at", r."size"'
    WHEN 'events' THEN 'r."last", r."version", r."channels", r."run", r."at", r."size"'
    WHEN 'inbox' THEN 'r."id", r."kind", r."at", r."not_before", r."priority", r."tenant", r."size"'
    WHEN 'consumed' THEN 'r."position", r."kind", r."run", r."expires_at"'
    WHEN 'run' THEN 'r."status", r."stop_reason", r."started_at", r."ended_at"'
    WHEN 'compaction' THEN 'r."start", r."stop", r."at"'
    WHEN 'snapshot' THEN 'r."seq", r."tags", r."parent"'
    WHEN 'document' THEN 'r."digest", r."at"'
    WHEN 'blob' THEN 'r."size", r."media_type", r."at"'
    WHEN 'staged' THEN 'r."at"'
  END || ')'
$$;

-- Which of these this is, and what was applied of the migrations of the tables.
CREATE OR REPLACE FUNCTION "kode".rest_hello_v1() RETURNS json
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT json_build_object(
    'at', (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
    'rest', 1,
    'migrations', (SELECT json_agg(json_build_array(m.number, m.phase, m.checksum)) FROM "kode".migration AS m),
    'isolation', current_setting('transaction_isolation'),
    'durable', current_setting('fsync') <> 'off' AND current_setting('synchronous_commit') <> 'off')
$$;

-- See `apply_v1`. `acts` holds agents, and rows: of conditions that are judged at once (plain) and one by one (rare),
-- of deletes, of looks, and those of each kind to put, whose bodies are an array apart. Every row begins with the
-- number of its act.
CREATE OR REPLACE FUNCTION "kode".rest_apply_v1(acts jsonb) RETURNS json
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET statement_timeout = '30s' SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  RETURN (SELECT json_build_object(
    'at', max(a.failed) FILTER (WHERE a.act = 0),
    'failed', json_agg(json_build_array(a.act, a.failed)) FILTER (WHERE a.act > 0 AND a.failed IS NOT NULL),
    'inbox', json_agg(json_build_array(a.act, a.owner, a."key", encode(a.body, 'base64'), a."id", a."kind", a."at", a."not_before", a."priority", a."tenant", a."size")
      ORDER BY a.act, a."key" COLLATE "C") FILTER (WHERE a.act > 0 AND a.failed IS NULL))
  FROM "kode".apply_v1(
    agents := ARRAY(SELECT jsonb_array_elements_text(acts->'agents')),
    c_n := "kode".rest_texts_v1(acts->'plain', '{0,1,2}')::bigint[],
    c_t := "kode".rest_texts_v1(acts->'plain', '{3,4,5,6,7,8}'),
    s_n := "kode".rest_texts_v1(acts->'rare', '{0,1,2}')::bigint[],
    s_t := "kode".rest_texts_v1(acts->'rare', '{3,4,5,6,7,8}'),
    d_n := "kode".rest_texts_v1(acts->'delete', '{0}')::bigint[],
    d_t := "kode".rest_texts_v1(acts->'delete', '{1,2,3}'),
    l_n := "kode".rest_texts_v1(acts->'look', '{0}')::bigint[],
    l_t := "kode".rest_texts_v1(acts->'look', '{1,2}'),
    header_t := "kode".rest_texts_v1(acts->'header', '{1,2,3,4,6,7,10,11,12,13,20}'),
    header_n := "kode".rest_texts_v1(acts->'header', '{0,5,8,9,14,15,16,17,18,19}')::bigint[],
    header_b := "kode".rest_bodies_v1(acts->'header_b'),
    lease_t := "kode".rest_texts_v1(acts->'lease', '{1,2,3}'),
    lease_n := "kode".rest_texts_v1(acts->'lease', '{0,4,5,6}')::bigint[],
    lease_b := "kode".rest_bodies_v1(acts->'lease_b'),
    message_t := "kode".rest_texts_v1(acts->'message', '{1,2,3}'),
    message_n := "kode".rest_texts_v1(acts->'message', '{0,4,5,6,7}')::bigint[],
    message_b := "kode".rest_bodies_v1(acts->'message_b'),
    call_t := "kode".rest_texts_v1(acts->'call', '{1,2,3,4}'),
    call_n := "kode".rest_texts_v1(acts->'call', '{0,5,6,7,8,9,10}')::bigint[],
    call_b := "kode".rest_bodies_v1(acts->'call_b'),
    events_t := "kode".rest_texts_v1(acts->'events', '{1,2,5}'),
    events_n := "kode".rest_texts_v1(acts->'events', '{0,3,4,6,7,8}')::bigint[],
    events_b := "kode".rest_bodies_v1(acts->'events_b'),
    inbox_t := "kode".rest_texts_v1(acts->'inbox', '{1,2,3,4,8}'),
    inbox_n := "kode".rest_texts_v1(acts->'inbox', '{0,5,6,7,9}')::bigint[],
    inbox_b := "kode".rest_bodies_v1(acts->'inbox_b'),
    consumed_t := "kode".rest_texts_v1(acts->'consumed', '{1,2,4}'),
    consumed_n := "kode".rest_texts_v1(acts->'consumed', '{0,3,5,6}')::bigint[],
    consumed_b := "kode".rest_bodies_v1(acts->'consumed_b'),
    run_t := "kode".rest_texts_v1(acts->'run', '{1,2,3,4}'),
    run_n := "kode".rest_texts_v1(acts->'run', '{0,5,6}')::bigint[],
    run_b := "kode".rest_bodies_v1(acts->'run_b'),
    compaction_t := "kode".rest_texts_v1(acts->'compaction', '{1,2}'),
    compaction_n := "kode".rest_texts_v1(acts->'compaction', '{0,3,4,5}')::bigint[],
    compaction_b := "kode".rest_bodies_v1(acts->'compaction_b'),
    snapshot_t := "kode".rest_texts_v1(acts->'snapshot', '{1,2,4,5}'),
    snapshot_n := "kode".rest_texts_v1(acts->'snapshot', '{0,3}')::bigint[],
    snapshot_b := "kode".rest_bodies_v1(acts->'snapshot_b'),
    document_t := "kode".rest_texts_v1(acts->'document', '{1,2,3}'),
    document_n := "kode".rest_texts_v1(acts->'document', '{0,4}')::bigint[],
    document_b := "kode".rest_bodies_v1(acts->'document_b'),
    blob_t := "kode".rest_texts_v1(acts->'blob', '{1,2,4}'),
    blob_n := "kode".rest_texts_v1(acts->'blob', '{0,3,5}')::bigint[],
    blob_b := "kode".rest_bodies_v1(acts->'blob_b'),
    staged_t := "kode".rest_texts_v1(acts->'staged', '{1,2}'),
    staged_n := "kode".rest_texts_v1(acts->'staged', '{0,3}')::bigint[],
    staged_b := "kode".rest_bodies_v1(acts->'staged_b')
  ) AS a);
END $$;

-- See `append_v1`. A row: owner, agent, id, kind, tenant, item, at, not_before, priority, size, now, bounded.
CREATE OR REPLACE FUNCTION "kode".rest_append_v1(items jsonb, bodies jsonb) RETURNS json
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET statement_timeout = '30s' SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  RETURN (SELECT json_build_object(
    'at', max(a."position") FILTER (WHERE a.item = 0),
    'items', json_agg(json_build_array(a.item, a.outcome, a."position", a."limit", a.waiting,
      CASE WHEN a.waiting THEN json_build_array(a.owner, a."key", encode(a.body, 'base64'), a."id", a."kind", a."at", a."not_before", a."priority", a."tenant", a."size")
        WHEN NOT a.waiting THEN json_build_array(a.owner, a."key", encode(a.body, 'base64'), a."position", a."kind", a."run", a."expires_at") END) ORDER BY a.item) FILTER (WHERE a.item > 0))
  FROM "kode".append_v1(
    ARRAY(SELECT i.one->>1 FROM jsonb_array_elements(items) AS i(one)),
    "kode".rest_texts_v1(items, '{0,1,2,3,4}'),
    "kode".rest_texts_v1(items, '{5,6,7,8,9,10,11}')::bigint[],
    "kode".rest_bodies_v1(bodies)
  ) AS a);
END $$;

-- Several things at once. Each of `asks` is one of:
--   {"kind", "at": [[owner, key], …]}: these records, in this order; null for what is not there;
--   {"kind", "owner", "after", "prefix", "before", "limit", "reverse", "tenant", "bytes"}: a range, as far as so many
--     bytes of bodies, but one record at least; with how many there would have been;
--   {"look": agent}: what is another value after every change.
CREATE OR REPLACE FUNCTION "kode".rest_read_v1(asks jsonb) RETURNS json
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
          (SELECT max(i."key") FROM "kode".inbox AS i WHERE i.owner = h.uid)) INTO found
        FROM "kode".header AS h WHERE h.owner = '' AND h."key" = ask->>'look';
    ELSIF ask ? 'at' THEN
      EXECUTE format('SELECT json_agg(CASE WHEN r."key" IS NOT NULL THEN %s END ORDER BY k.n)
        FROM jsonb_array_elements($1) WITH ORDINALITY AS k(place, n)
        LEFT JOIN "kode".%I AS r ON r.owner = k.place->>0 AND r."key" = k.place->>1',
        "kode".rest_row_v1(ask->>'kind'), ask->>'kind') INTO found USING ask->'at';
    ELSE
      EXECUTE format('WITH page AS MATERIALIZED (
          SELECT r.*, row_number() OVER w AS n, sum(octet_length(r.body)) OVER w - octet_length(r.body) AS before
          FROM (SELECT * FROM "kode".%1$I AS r
            WHERE r.owner = $1 AND r."key" > $2 AND r."key" >= $3 AND ($4 IS NULL OR r."key" < $4) %2$s
            ORDER BY r."key" %3$s LIMIT $6) AS r
          WINDOW w AS (ORDER BY r."key" %3$s))
        SELECT json_build_array((SELECT count(*) FROM page),
          coalesce(json_agg(%4$s ORDER BY r.n), ''[]'')) FROM page AS r WHERE r.before < $7',
        ask->>'kind', CASE WHEN ask->>'tenant' IS NOT NULL THEN 'AND r.tenant = $5' END,
        CASE WHEN (ask->>'reverse')::boolean THEN 'DESC' END, "kode".rest_row_v1(ask->>'kind'))
        INTO found USING ask->>'owner', ask->>'after', ask->>'prefix', ask->>'before', ask->>'tenant',
          (ask->>'limit')::bigint, (ask->>'bytes')::bigint;
    END IF;
    answers := answers || coalesce(found, 'null');
  END LOOP;
  RETURN json_build_object('at', (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, 'answers', answers);
END $$;

-- Who must wake: ids and times.
CREATE OR REPLACE FUNCTION "kode".rest_due_v1(now bigint, wake_at bigint, agent text, most bigint) RETURNS json
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET statement_timeout = '30s' SET enable_seqscan = off SET jit = off AS $$
DECLARE
  found json;
BEGIN
  SELECT json_agg(json_build_array(d."key", d.wake_at) ORDER BY d.wake_at, d."key") INTO found FROM (
    SELECT h."key", h.wake_at FROM "kode".header AS h
    LEFT JOIN "kode".lease AS l ON l.owner = h.uid AND l."key" = ''
    WHERE h.wake_at <= $1 AND (h.wake_at, h."key") > ($2, $3 COLLATE "C") AND (l.holder IS NULL OR l.until <= $1)
    ORDER BY h.wake_at, h."key" LIMIT $4) AS d;
  RETURN coalesce(found, '[]');
END $$;

-- ---- who may ----------------------------------------------------------------------------------------------------

ALTER TABLE "kode".header ENABLE ROW LEVEL SECURITY;
ALTER TABLE "kode".lease ENABLE ROW LEVEL SECURITY;
ALTER TABLE "kode".message ENABLE ROW LEVEL SECURITY;
ALTER TABLE "kode".call ENABLE ROW LEVEL SECURITY;
ALTER TABLE "kode".events ENABLE ROW LEVEL SECURITY;
ALTER TABLE "kode".inbox ENABLE ROW LEVEL SECURITY;
ALTER TABLE "kode".consumed ENABLE ROW LEVEL SECURITY;
ALTER TABLE "kode".run ENABLE ROW LEVEL SECURITY;
ALTER TABLE "kode".compaction ENABLE ROW LEVEL SECURITY;
ALTER TABLE "kode".snapshot ENABLE ROW LEVEL SECURITY;
ALTER TABLE "kode".document ENABLE ROW LEVEL SECURITY;
ALTER TABLE "kode".blob ENABLE ROW LEVEL SECURITY;
ALTER TABLE "kode".staged ENABLE ROW LEVEL SECURITY;
ALTER TABLE "kode".migration ENABLE ROW LEVEL SECURITY;
ALTER TABLE "kode".watcher ENABLE ROW LEVEL SECURITY;
DO $do$ BEGIN
  IF current_setting('server_version_num')::integer >= 150000 THEN
    ALTER VIEW "kode".agents SET (security_invoker = true);
  END IF;
END $do$;

-- Nobody but service_role writes or calls anything, each time; people may be given USAGE and SELECT, and keep them.
REVOKE ALL ON SCHEMA "kode" FROM PUBLIC;
REVOKE CREATE ON SCHEMA "kode" FROM anon, authenticated;
REVOKE ALL ON ALL TABLES IN SCHEMA "kode" FROM PUBLIC;
REVOKE INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER ON ALL TABLES IN SCHEMA "kode" FROM anon, authenticated;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA "kode" FROM PUBLIC, anon, authenticated;
GRANT USAGE ON SCHEMA "kode" TO service_role;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA "kode" TO service_role;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA "kode" TO service_role;

-- What this role makes here later, without this file, is no more open than what is here.
ALTER DEFAULT PRIVILEGES IN SCHEMA "kode" REVOKE ALL ON TABLES FROM PUBLIC, anon, authenticated;
ALTER DEFAULT PRIVILEGES IN SCHEMA "kode" REVOKE ALL ON FUNCTIONS FROM PUBLIC, anon, authenticated;
ALTER DEFAULT PRIVILEGES IN SCHEMA "kode" GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO service_role;
ALTER DEFAULT PRIVILEGES IN SCHEMA "kode" GRANT EXECUTE ON FUNCTIONS TO service_role;

-- The API learns of new functions by this.
NOTIFY pgrst, 'reload schema';

COMMIT;
