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

CREATE TABLE {schema}.header (
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

CREATE TABLE {schema}.lease (
  "fence" bigint,
  "until" bigint,
  "takes" bigint,
  owner text COLLATE "C" NOT NULL,
  "key" text COLLATE "C" NOT NULL,
  "holder" text COLLATE "C",
  body bytea NOT NULL,
  PRIMARY KEY (owner, "key")
);

CREATE TABLE {schema}.message (
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

CREATE TABLE {schema}.call (
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

CREATE TABLE {schema}.events (
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

CREATE TABLE {schema}.inbox (
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

CREATE TABLE {schema}.consumed (
  "position" bigint,
  "run" bigint,
  "expires_at" bigint,
  owner text COLLATE "C" NOT NULL,
  "key" text COLLATE "C" NOT NULL,
  "kind" text COLLATE "C",
  body bytea NOT NULL,
  PRIMARY KEY (owner, "key")
);

CREATE TABLE {schema}.run (
  "started_at" bigint,
  "ended_at" bigint,
  owner text COLLATE "C" NOT NULL,
  "key" text COLLATE "C" NOT NULL,
  "status" text COLLATE "C",
  "stop_reason" text COLLATE "C",
  body bytea NOT NULL,
  PRIMARY KEY (owner, "key")
);

CREATE TABLE {schema}.compaction (
  "start" bigint,
  "stop" bigint,
  "at" bigint,
  owner text COLLATE "C" NOT NULL,
  "key" text COLLATE "C" NOT NULL,
  body bytea NOT NULL,
  PRIMARY KEY (owner, "key")
);

CREATE TABLE {schema}.snapshot (
  "seq" bigint,
  owner text COLLATE "C" NOT NULL,
  "key" text COLLATE "C" NOT NULL,
  "tags" text COLLATE "C",
  "parent" text COLLATE "C",
  body bytea NOT NULL,
  PRIMARY KEY (owner, "key")
);

CREATE TABLE {schema}.document (
  "at" bigint,
  owner text COLLATE "C" NOT NULL,
  "key" text COLLATE "C" NOT NULL,
  "digest" text COLLATE "C",
  body bytea NOT NULL,
  PRIMARY KEY (owner, "key")
);

CREATE TABLE {schema}.blob (
  "size" bigint,
  "at" bigint,
  owner text COLLATE "C" NOT NULL,
  "key" text COLLATE "C" NOT NULL,
  "media_type" text COLLATE "C",
  body bytea NOT NULL,
  PRIMARY KEY (owner, "key")
);

CREATE TABLE {schema}.staged (
  "at" bigint,
  owner text COLLATE "C" NOT NULL,
  "key" text COLLATE "C" NOT NULL,
  body bytea NOT NULL,
  PRIMARY KEY (owner, "key")
);

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

-- Numbers as keys that sort: hexadecimal digits behind their count.
CREATE FUNCTION {schema}.int_key_v1(n bigint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT to_hex(length(to_hex(n))) || to_hex(n) $$;

CREATE FUNCTION {schema}.key_int_v1("key" text) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT ('x' || lpad(substr("key", 2), 16, '0'))::bit(64)::bigint $$;

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
    (SELECT DISTINCT hashtextextended('{schema}/' || a, 0::bigint) AS id FROM unnest(agents) AS a ORDER BY 1) AS l;

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
        'SELECT %s FROM (SELECT) AS o LEFT JOIN {schema}.%I AS r ON r.owner = $1 AND r."key" = $2',
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
    DELETE FROM {schema}.inbox AS r USING unnest(d_n[1:1], d_t[1:1], d_t[2:2], d_t[3:3]) AS d(act, kind, owner, "key")
    WHERE d.kind = 'inbox' AND r.owner = d.owner AND r."key" = d."key" AND (lost IS NULL OR d.act <> ALL (lost));
    FOR one IN SELECT DISTINCT d.kind FROM unnest(d_t[1:1]) AS d(kind) WHERE d.kind <> 'inbox' LOOP
      EXECUTE pg_catalog.format('DELETE FROM {schema}.%I AS r USING unnest($1[1:1], $2[1:1], $2[2:2], $2[3:3])
        AS d(act, kind, owner, "key") WHERE d.kind = $3 AND r.owner = d.owner AND r."key" = d."key"
        AND ($4 IS NULL OR d.act <> ALL ($4))', one.kind) USING d_n, d_t, one.kind, lost;
    END LOOP;
  END IF;

  IF header_b IS NOT NULL THEN
    INSERT INTO {schema}.header (owner, "key", "agent_id", "uid", "version", "commit_id", "staged", "wake_at", "seen", "status", "template", "tenant", "parent", "created_at", "updated_at", "max_inbox", "max_message_bytes", "dedupe_us", "expires_at", "parked", body)
    SELECT p.owner, p."key", p."agent_id", p."uid", p."version", p."commit_id", p."staged", p."wake_at", p."seen", p."status", p."template", p."tenant", p."parent", p."created_at", p."updated_at", p."max_inbox", p."max_message_bytes", p."dedupe_us", p."expires_at", p."parked", p.body
    FROM unnest(header_t[1:1], header_t[2:2], header_t[3:3], header_t[4:4], header_t[5:5], header_t[6:6], header_t[7:7], header_t[8:8], header_t[9:9], header_t[10:10], header_t[11:11], header_n[1:1], header_n[2:2], header_n[3:3], header_n[4:4], header_n[5:5], header_n[6:6], header_n[7:7], header_n[8:8], header_n[9:9], header_n[10:10], header_b) AS p(owner, "key", "agent_id", "uid", "commit_id", "staged", "status", "template", "tenant", "parent", "parked", act, "version", "wake_at", "seen", "created_at", "updated_at", "max_inbox", "max_message_bytes", "dedupe_us", "expires_at", body)
    WHERE lost IS NULL OR p.act <> ALL (lost)
    ON CONFLICT (owner, "key") DO UPDATE SET "agent_id" = excluded."agent_id", "uid" = excluded."uid", "version" = excluded."version", "commit_id" = excluded."commit_id", "staged" = excluded."staged", "wake_at" = excluded."wake_at", "seen" = excluded."seen", "status" = excluded."status", "template" = excluded."template", "tenant" = excluded."tenant", "parent" = excluded."parent", "created_at" = excluded."created_at", "updated_at" = excluded."updated_at", "max_inbox" = excluded."max_inbox", "max_message_bytes" = excluded."max_message_bytes", "dedupe_us" = excluded."dedupe_us", "expires_at" = excluded."expires_at", "parked" = excluded."parked", body = excluded.body;
  END IF;

  IF lease_b IS NOT NULL THEN
    INSERT INTO {schema}.lease (owner, "key", "holder", "fence", "until", "takes", body)
    SELECT p.owner, p."key", p."holder", p."fence", p."until", p."takes", p.body
    FROM unnest(lease_t[1:1], lease_t[2:2], lease_t[3:3], lease_n[1:1], lease_n[2:2], lease_n[3:3], lease_n[4:4], lease_b) AS p(owner, "key", "holder", act, "fence", "until", "takes", body)
    WHERE lost IS NULL OR p.act <> ALL (lost)
    ON CONFLICT (owner, "key") DO UPDATE SET "holder" = excluded."holder", "fence" = excluded."fence", "until" = excluded."until", "takes" = excluded."takes", body = excluded.body;
  END IF;

  IF message_b IS NOT NULL THEN
    INSERT INTO {schema}.message (owner, "key", "role", "run", "step", "at", "size", body)
    SELECT p.owner, p."key", p."role", p."run", p."step", p."at", p."size", p.body
    FROM unnest(message_t[1:1], message_t[2:2], message_t[3:3], message_n[1:1], message_n[2:2], message_n[3:3], message_n[4:4], message_n[5:5], message_b) AS p(owner, "key", "role", act, "run", "step", "at", "size", body)
    WHERE lost IS NULL OR p.act <> ALL (lost)
    ON CONFLICT (owner, "key") DO UPDATE SET "role" = excluded."role", "run" = excluded."run", "step" = excluded."step", "at" = excluded."at", "size" = excluded."size", body = excluded.body;
  END IF;

  IF call_b IS NOT NULL THEN
    INSERT INTO {schema}.call (owner, "key", "status", "tool", "seq", "run", "asked_at", "started_at", "finished_at", "size", body)
    SELECT p.owner, p."key", p."status", p."tool", p."seq", p."run", p."asked_at", p."started_at", p."finished_at", p."size", p.body
    FROM unnest(call_t[1:1], call_t[2:2], call_t[3:3], call_t[4:4], call_n[1:1], call_n[2:2], call_n[3:3], call_n[4:4], call_n[5:5], call_n[6:6], call_n[7:7], call_b) AS p(owner, "key", "status", "tool", act, "seq", "run", "asked_at", "started_at", "finished_at", "size", body)
    WHERE lost IS NULL OR p.act <> ALL (lost)
    ON CONFLICT (owner, "key") DO UPDATE SET "status" = excluded."status", "tool" = excluded."tool", "seq" = excluded."seq", "run" = excluded."run", "asked_at" = excluded."asked_at", "started_at" = excluded."started_at", "finished_at" = excluded."finished_at", "size" = excluded."size", body = excluded.body;
  END IF;

  IF events_b IS NOT NULL THEN
    INSERT INTO {schema}.events (owner, "key", "last", "version", "channels", "run", "at", "size", body)
    SELECT p.owner, p."key", p."last", p."version", p."channels", p."run", p."at", p."size", p.body
    FROM unnest(events_t[1:1], events_t[2:2], events_t[3:3], events_n[1:1], events_n[2:2], events_n[3:3], events_n[4:4], events_n[5:5], events_n[6:6], events_b) AS p(owner, "key", "channels", act, "last", "version", "run", "at", "size", body)
    WHERE lost IS NULL OR p.act <> ALL (lost)
    ON CONFLICT (owner, "key") DO UPDATE SET "last" = excluded."last", "version" = excluded."version", "channels" = excluded."channels", "run" = excluded."run", "at" = excluded."at", "size" = excluded."size", body = excluded.body;
  END IF;

  IF inbox_b IS NOT NULL THEN
    INSERT INTO {schema}.inbox (owner, "key", "id", "kind", "at", "not_before", "priority", "tenant", "size", body)
    SELECT p.owner, p."key", p."id", p."kind", p."at", p."not_before", p."priority", p."tenant", p."size", p.body
    FROM unnest(inbox_t[1:1], inbox_t[2:2], inbox_t[3:3], inbox_t[4:4], inbox_t[5:5], inbox_n[1:1], inbox_n[2:2], inbox_n[3:3], inbox_n[4:4], inbox_n[5:5], inbox_b) AS p(owner, "key", "id", "kind", "tenant", act, "at", "not_before", "priority", "size", body)
    WHERE lost IS NULL OR p.act <> ALL (lost)
    ON CONFLICT (owner, "key") DO UPDATE SET "id" = excluded."id", "kind" = excluded."kind", "at" = excluded."at", "not_before" = excluded."not_before", "priority" = excluded."priority", "tenant" = excluded."tenant", "size" = excluded."size", body = excluded.body;
  END IF;

  IF consumed_b IS NOT NULL THEN
    INSERT INTO {schema}.consumed (owner, "key", "position", "kind", "run", "expires_at", body)
    SELECT p.owner, p."key", p."position", p."kind", p."run", p."expires_at", p.body
    FROM unnest(consumed_t[1:1], consumed_t[2:2], consumed_t[3:3], consumed_n[1:1], consumed_n[2:2], consumed_n[3:3], consumed_n[4:4], consumed_b) AS p(owner, "key", "kind", act, "position", "run", "expires_at", body)
    WHERE lost IS NULL OR p.act <> ALL (lost)
    ON CONFLICT (owner, "key") DO UPDATE SET "position" = excluded."position", "kind" = excluded."kind", "run" = excluded."run", "expires_at" = excluded."expires_at", body = excluded.body;
  END IF;

  IF run_b IS NOT NULL THEN
    INSERT INTO {schema}.run (owner, "key", "status", "stop_reason", "started_at", "ended_at", body)
    SELECT p.owner, p."key", p."status", p."stop_reason", p."started_at", p."ended_at", p.body
    FROM unnest(run_t[1:1], run_t[2:2], run_t[3:3], run_t[4:4], run_n[1:1], run_n[2:2], run_n[3:3], run_b) AS p(owner, "key", "status", "stop_reason", act, "started_at", "ended_at", body)
    WHERE lost IS NULL OR p.act <> ALL (lost)
    ON CONFLICT (owner, "key") DO UPDATE SET "status" = excluded."status", "stop_reason" = excluded."stop_reason", "started_at" = excluded."started_at", "ended_at" = excluded."ended_at", body = excluded.body;
  END IF;

  IF compaction_b IS NOT NULL THEN
    INSERT INTO {schema}.compaction (owner, "key", "start", "stop", "at", body)
    SELECT p.owner, p."key", p."start", p."stop", p."at", p.body
    FROM unnest(compaction_t[1:1], compaction_t[2:2], compaction_n[1:1], compaction_n[2:2], compaction_n[3:3], compaction_n[4:4], compaction_b) AS p(owner, "key", act, "start", "stop", "at", body)
    WHERE lost IS NULL OR p.act <> ALL (lost)
    ON CONFLICT (owner, "key") DO UPDATE SET "start" = excluded."start", "stop" = excluded."stop", "at" = excluded."at", body = excluded.body;
  END IF;

  IF snapshot_b IS NOT NULL THEN
    INSERT INTO {schema}.snapshot (owner, "key", "seq", "tags", "parent", body)
    SELECT p.owner, p."key", p."seq", p."tags", p."parent", p.body
    FROM unnest(snapshot_t[1:1], snapshot_t[2:2], snapshot_t[3:3], snapshot_t[4:4], snapshot_n[1:1], snapshot_n[2:2], snapshot_b) AS p(owner, "key", "tags", "parent", act, "seq", body)
    WHERE lost IS NULL OR p.act <> ALL (lost)
    ON CONFLICT (owner, "key") DO UPDATE SET "seq" = excluded."seq", "tags" = excluded."tags", "parent" = excluded."parent", body = excluded.body;
  END IF;

  IF document_b IS NOT NULL THEN
    INSERT INTO {schema}.document (owner, "key", "digest", "at", body)
    SELECT p.owner, p."key", p."digest", p."at", p.body
    FROM unnest(document_t[1:1], document_t[2:2], document_t[3:3], document_n[1:1], document_n[2:2], document_b) AS p(owner, "key", "digest", act, "at", body)
    WHERE lost IS NULL OR p.act <> ALL (lost)
    ON CONFLICT (owner, "key") DO UPDATE SET "digest" = excluded."digest", "at" = excluded."at", body = excluded.body;
  END IF;

  IF blob_b IS NOT NULL THEN
    INSERT INTO {schema}.blob (owner, "key", "size", "media_type", "at", body)
    SELECT p.owner, p."key", p."size", p."media_type", p."at", p.body
    FROM unnest(blob_t[1:1], blob_t[2:2], blob_t[3:3], blob_n[1:1], blob_n[2:2], blob_n[3:3], blob_b) AS p(owner, "key", "media_type", act, "size", "at", body)
    WHERE lost IS NULL OR p.act <> ALL (lost)
    ON CONFLICT (owner, "key") DO UPDATE SET "size" = excluded."size", "media_type" = excluded."media_type", "at" = excluded."at", body = excluded.body;
  END IF;

  IF staged_b IS NOT NULL THEN
    INSERT INTO {schema}.staged (owner, "key", "at", body)
    SELECT p.owner, p."key", p."at", p.body
    FROM unnest(staged_t[1:1], staged_t[2:2], staged_n[1:1], staged_n[2:2], staged_b) AS p(owner, "key", act, "at", body)
    WHERE lost IS NULL OR p.act <> ALL (lost)
    ON CONFLICT (owner, "key") DO UPDATE SET "at" = excluded."at", body = excluded.body;
  END IF;

  IF header_b IS NOT NULL OR 'header' = ANY (d_t[1:1]) THEN
    IF EXISTS (SELECT FROM {schema}.watcher WHERE until > clock_timestamp()) THEN
      PERFORM pg_notify('kode/{schema}', a) FROM unnest(agents) AS a;
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
      JOIN {schema}.inbox AS r ON r.owner = l.owner AND r."key" > l.after COLLATE "C"
      WHERE lost IS NULL OR l.act <> ALL (lost)
      ORDER BY l.act, r."key";
  END IF;
END $$;

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
  UPDATE {schema}.header SET "agent_id" = header_agent_id, "uid" = header_uid, "version" = header_version, "commit_id" = header_commit_id, "staged" = header_staged, "wake_at" = header_wake_at, "seen" = header_seen, "status" = header_status, "template" = header_template, "tenant" = header_tenant, "parent" = header_parent, "created_at" = header_created_at, "updated_at" = header_updated_at, "max_inbox" = header_max_inbox, "max_message_bytes" = header_max_message_bytes, "dedupe_us" = header_dedupe_us, "expires_at" = header_expires_at, "parked" = header_parked, "body" = header_body
    WHERE owner = '' AND "key" = agent AND uid = known_uid AND version = known_version AND staged IS NULL;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  IF gone IS NOT NULL THEN
    DELETE FROM {schema}.inbox AS i WHERE i.owner = known_uid AND i."key" = ANY (gone);
  END IF;
  IF message_body IS NOT NULL THEN
    INSERT INTO {schema}.message (owner, "key", "role", "run", "step", "at", "size", body)
      VALUES (known_uid, message_key, message_role, message_run, message_step, message_at, message_size, message_body);
  END IF;
  IF call_body IS NOT NULL THEN
    UPDATE {schema}.call AS r SET ("status", "tool", "seq", "run", "asked_at", "started_at", "finished_at", "size", body) = ROW (call_status, call_tool, call_seq, call_run, call_asked_at, call_started_at, call_finished_at, call_size, call_body)
      WHERE r.owner = known_uid AND r."key" = call_key;
    IF NOT FOUND THEN
      INSERT INTO {schema}.call (owner, "key", "status", "tool", "seq", "run", "asked_at", "started_at", "finished_at", "size", body)
        VALUES (known_uid, call_key, call_status, call_tool, call_seq, call_run, call_asked_at, call_started_at, call_finished_at, call_size, call_body);
    END IF;
  END IF;
  IF events_body IS NOT NULL THEN
    INSERT INTO {schema}.events (owner, "key", "last", "version", "channels", "run", "at", "size", body)
      VALUES (known_uid, events_key, events_last, events_version, events_channels, events_run, events_at, events_size, events_body);
  END IF;
  IF consumed_body IS NOT NULL THEN
    INSERT INTO {schema}.consumed (owner, "key", "position", "kind", "run", "expires_at", body)
      VALUES (known_uid, consumed_key, consumed_position, consumed_kind, consumed_run, consumed_expires_at, consumed_body) ON CONFLICT (owner, "key") DO UPDATE SET "position" = excluded."position", "kind" = excluded."kind", "run" = excluded."run", "expires_at" = excluded."expires_at", body = excluded.body;
  END IF;
  IF run_body IS NOT NULL THEN
    INSERT INTO {schema}.run (owner, "key", "status", "stop_reason", "started_at", "ended_at", body)
      VALUES (known_uid, run_key, run_status, run_stop_reason, run_started_at, run_ended_at, run_body) ON CONFLICT (owner, "key") DO UPDATE SET "status" = excluded."status", "stop_reason" = excluded."stop_reason", "started_at" = excluded."started_at", "ended_at" = excluded."ended_at", body = excluded.body;
  END IF;
  IF lease_body IS NOT NULL THEN
    INSERT INTO {schema}.lease (owner, "key", "holder", "fence", "until", "takes", body)
      VALUES (known_uid, lease_key, lease_holder, lease_fence, lease_until, lease_takes, lease_body) ON CONFLICT (owner, "key") DO UPDATE SET "holder" = excluded."holder", "fence" = excluded."fence", "until" = excluded."until", "takes" = excluded."takes", body = excluded.body;
  END IF;
  IF EXISTS (SELECT FROM {schema}.watcher WHERE until > clock_timestamp()) THEN
    PERFORM pg_notify('kode/{schema}', agent);
  END IF;
  now := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
  RETURN NEXT;
  RETURN QUERY SELECT NULL::bigint, i.owner, i."key", i.id, i.kind, i.tenant, i.at, i.not_before, i.priority, i.size,
      i.body
    FROM {schema}.inbox AS i WHERE i.owner = known_uid AND i."key" > look_after COLLATE "C"
    ORDER BY i."key";
END $$;

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
    (SELECT DISTINCT hashtextextended('{schema}/' || a, 0::bigint) AS id FROM unnest(agents) AS a ORDER BY 1) AS l;
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
    IF EXISTS (SELECT FROM {schema}.watcher WHERE until > clock_timestamp()) THEN
      PERFORM pg_notify('kode/{schema}', a) FROM unnest(agents) AS a;
    END IF;
END $$;

-- Remove rows of a uid, so many that others need not wait long; says whether more may be left.
CREATE FUNCTION {schema}.drop_v1(uid text, most bigint) RETURNS boolean LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  kind text;
  gone bigint;
BEGIN
  FOREACH kind IN ARRAY ARRAY['header', 'lease', 'message', 'call', 'events', 'inbox', 'consumed', 'run', 'compaction', 'snapshot', 'document', 'blob', 'staged'] LOOP
    EXECUTE pg_catalog.format('DELETE FROM {schema}.%I WHERE ctid = ANY (ARRAY(
      SELECT ctid FROM {schema}.%I WHERE owner = $1 LIMIT $2))', kind, kind) USING uid, most;
    GET DIAGNOSTICS gone = ROW_COUNT;
    most := most - gone;
    IF most <= 0 THEN
      RETURN true;
    END IF;
  END LOOP;
  RETURN false;
END $$;
