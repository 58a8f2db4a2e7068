CREATE TABLE {s}.event (
  position bigint PRIMARY KEY CHECK (position > 0), -- dense, in commit order, given under the store's lock
  category text COLLATE "C" NOT NULL,
  key text COLLATE "C" NOT NULL,
  version bigint NOT NULL CHECK (version > 0),
  id uuid NOT NULL,
  name text COLLATE "C" NOT NULL,
  schema_version integer NOT NULL,
  payload jsonb NOT NULL,
  metadata jsonb NOT NULL,
  tags text[] COLLATE "C" NOT NULL,
  recorded_at timestamptz NOT NULL, -- never decreasing along the position
  erased_at timestamptz,
  transform text COLLATE "C", -- how the payload was changed before it was stored; NULL: not at all
  CONSTRAINT event_version_key UNIQUE (category, key, version),
  CONSTRAINT event_id_key UNIQUE (id)
);
CREATE INDEX event_name_position ON {s}.event (name, position);
CREATE INDEX event_tags ON {s}.event USING gin (tags) WITH (fastupdate = off) WHERE tags <> '{}';

-- Up to where the log may have been trimmed: one row. Positions are dense behind it.
CREATE TABLE {s}.retention (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  floor bigint NOT NULL DEFAULT 0 CHECK (floor >= 0)
);
INSERT INTO {s}.retention DEFAULT VALUES;

-- What lifecycle events have made of streams: one row for each that is not plain, which is live without tags. Versions are
-- what the events say.
CREATE TABLE {s}.stream_state (
  category text COLLATE "C" NOT NULL,
  key text COLLATE "C" NOT NULL,
  state text COLLATE "C" NOT NULL CHECK (state IN ('live', 'deleted', 'erased')),
  tags text[] COLLATE "C" NOT NULL,
  PRIMARY KEY (category, key),
  CHECK (state <> 'live' OR tags <> '{}')
);
CREATE INDEX stream_tags ON {s}.stream_state USING gin (tags) WITH (fastupdate = off) WHERE tags <> '{}';
CREATE INDEX stream_gone ON {s}.stream_state (state, category, key) WHERE state <> 'live';

-- All streams, for people. What is asked of one stream is looked up by its index.
CREATE VIEW {s}.stream AS
  SELECT e.category, e.key, e.version, coalesce(t.state, 'live') AS state, coalesce(t.tags, '{}') AS tags,
    e.first_position, e.last_position
  FROM (SELECT category, key, max(version) AS version, min(position) AS first_position, max(position) AS last_position
    FROM {s}.event GROUP BY category, key) e
  LEFT JOIN {s}.stream_state t ON t.category = e.category AND t.key = e.key;

CREATE TABLE {s}.claim (
  scope text COLLATE "C" NOT NULL,
  value text COLLATE "C" NOT NULL,
  category text COLLATE "C" NOT NULL,
  key text COLLATE "C" NOT NULL,
  PRIMARY KEY (scope, value)
);
CREATE INDEX claim_owner ON {s}.claim (category, key);

-- Values that many streams may have.
CREATE TABLE {s}.entry (
  scope text COLLATE "C" NOT NULL,
  value text COLLATE "C" NOT NULL,
  category text COLLATE "C" NOT NULL,
  key text COLLATE "C" NOT NULL,
  PRIMARY KEY (scope, value, category, key)
);
CREATE INDEX entry_owner ON {s}.entry (category, key, scope);

CREATE TABLE {s}.snapshot (
  category text COLLATE "C" NOT NULL,
  key text COLLATE "C" NOT NULL,
  version bigint NOT NULL,
  event_id uuid NOT NULL,
  shape bigint NOT NULL,
  state jsonb NOT NULL,
  saved_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (category, key, version)
);

-- How far each projection has come.
CREATE TABLE {s}.progress (
  projection text COLLATE "C" PRIMARY KEY,
  position bigint NOT NULL,
  event_id uuid NOT NULL,
  epoch bigint NOT NULL
) WITH (fillfactor = 50);

-- Which process leads each projection, how it is doing there, and what is wanted of it.
CREATE TABLE {s}.projection (
  name text COLLATE "C" PRIMARY KEY,
  paused boolean NOT NULL DEFAULT false,
  owner uuid,
  process text,
  origin text, -- where that process runs
  term bigint NOT NULL DEFAULT 0, -- how often the leader has changed
  leased_until timestamptz,
  state text COLLATE "C" NOT NULL DEFAULT 'idle',
  reason text,
  reached bigint NOT NULL DEFAULT 0,
  head bigint NOT NULL DEFAULT 0,
  behind_since timestamptz,
  rate float8 NOT NULL DEFAULT 0,
  seen_at timestamptz,
  -- The read model that is being built beside the live one.
  rebuild_state text COLLATE "C",
  rebuild_reason text,
  rebuild_reached bigint,
  rebuild_rate float8
) WITH (fillfactor = 50);

-- Which processes run a projection in parts: they share them.
CREATE TABLE {s}.replica (
  projection text COLLATE "C",
  owner uuid,
  until timestamptz NOT NULL,
  PRIMARY KEY (projection, owner)
) WITH (fillfactor = 50);

CREATE TABLE {s}.projection_order (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  projection text COLLATE "C" NOT NULL,
  kind text COLLATE "C" NOT NULL,
  argument text,
  given_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  answered_at timestamptz,
  process text,
  failure text,
  note text -- what came of it
);

-- The events that projections left out. Those of a key with a parked one wait for it.
CREATE TABLE {s}.dead_letter (
  projection text COLLATE "C" NOT NULL,
  position bigint NOT NULL,
  event_id uuid NOT NULL,
  name text COLLATE "C" NOT NULL,
  category text COLLATE "C" NOT NULL,
  stream_key text COLLATE "C" NOT NULL,
  key text COLLATE "C" NOT NULL,
  reason text NOT NULL,
  attempts integer NOT NULL,
  at timestamptz NOT NULL,
  parked boolean NOT NULL,
  PRIMARY KEY (projection, position)
);
CREATE INDEX dead_letter_key ON {s}.dead_letter (projection, key, position);
CREATE INDEX dead_letter_stream ON {s}.dead_letter (category, stream_key);

-- Readers name a collection; its documents carry the generation, so that a rebuild swaps one row.
CREATE TABLE {s}.collection (
  name text COLLATE "C" PRIMARY KEY,
  generation bigint GENERATED BY DEFAULT AS IDENTITY UNIQUE,
  projection text COLLATE "C" NOT NULL
);

CREATE TABLE {s}.document (
  generation bigint NOT NULL,
  key text COLLATE "C" NOT NULL,
  body jsonb NOT NULL,
  owner_category text COLLATE "C",
  owner_key text COLLATE "C",
  PRIMARY KEY (generation, key)
) WITH (fillfactor = 80);
CREATE INDEX document_owner ON {s}.document (owner_category, owner_key) WHERE owner_key IS NOT NULL;

CREATE TABLE {s}.document_index (
  generation bigint NOT NULL,
  field text COLLATE "C" NOT NULL,
  value text COLLATE "C" NOT NULL,
  key text COLLATE "C" NOT NULL,
  PRIMARY KEY (generation, field, value, key)
);
-- The key first: for lists by value it must not look as good as the primary key.
CREATE INDEX document_index_key ON {s}.document_index (key, generation);

-- The past cannot change: an event may only be erased, and only after its stream says so.
CREATE FUNCTION {s}.guard_event_v1() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF TG_OP = 'UPDATE' THEN
    IF OLD.erased_at IS NULL AND NEW.erased_at IS NOT NULL
      AND NEW.payload = '{}' AND NEW.metadata = '{}' AND NEW.tags = '{}'
      AND ROW(NEW.position, NEW.category, NEW.key, NEW.version, NEW.id, NEW.name, NEW.schema_version, NEW.recorded_at)
        = ROW(OLD.position, OLD.category, OLD.key, OLD.version, OLD.id, OLD.name, OLD.schema_version, OLD.recorded_at)
      AND OLD.version < (
        -- `|| ''`: see `erase_v1`.
        SELECT e.version FROM {s}.event e
        WHERE e.category = OLD.category AND e.key = OLD.key AND e.name || '' = 'backstory.erased'
        ORDER BY e.version DESC LIMIT 1)
    THEN
      RETURN NEW;
    END IF;
  END IF;
  RAISE EXCEPTION 'the events in % are never changed: % is refused', TG_TABLE_SCHEMA, TG_OP
    USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER guard_row BEFORE UPDATE OR DELETE ON {s}.event
  FOR EACH ROW EXECUTE FUNCTION {s}.guard_event_v1();
CREATE TRIGGER guard_table BEFORE TRUNCATE ON {s}.event
  FOR EACH STATEMENT EXECUTE FUNCTION {s}.guard_event_v1();
-- ALWAYS: no session setting switches them off.
ALTER TABLE {s}.event ENABLE ALWAYS TRIGGER guard_row;
ALTER TABLE {s}.event ENABLE ALWAYS TRIGGER guard_table;

-- Locks streams against erasures for the rest of the transaction, and says which are erased. Whoever stores something of a
-- stream calls it first: a later erasure finds what was stored, an earlier one is seen. A stream stands for itself by its
-- first event; one that has none cannot be erased yet. Callers name the streams in order.
CREATE FUNCTION {s}.lock_owners_v1(categories_ text[], keys_ text[])
RETURNS TABLE (category_ text, key_ text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
  PERFORM FROM generate_series(1, cardinality(categories_)) AS q(i)
    CROSS JOIN LATERAL (SELECT FROM {s}.event e WHERE e.category = categories_[q.i] AND e.key = keys_[q.i]
      ORDER BY e.version LIMIT 1 FOR SHARE) f;
  -- A statement of its own: it sees the erasure that the first one waited for.
  RETURN QUERY SELECT t.category, t.key FROM generate_series(1, cardinality(categories_)) AS q(i)
    CROSS JOIN LATERAL (SELECT t.category, t.key, t.state FROM {s}.stream_state t
      WHERE t.category = categories_[q.i] AND t.key = keys_[q.i] LIMIT 1) t
    WHERE t.state = 'erased';
END $$;
REVOKE ALL ON FUNCTION {s}.lock_owners_v1(text[], text[]) FROM PUBLIC;

-- Takes the content of streams whose erasures were appended; the skeletons of their events stay. Callers name the streams in
-- order.
CREATE FUNCTION {s}.erase_v1(categories_ text[], keys_ text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  category_ text;
  key_ text;
  tomb record;
BEGIN
  -- Also when they were erased before. All of them before any document, as those do who hold them by `lock_owners_v1`.
  PERFORM FROM generate_series(1, cardinality(categories_)) AS q(i)
    CROSS JOIN LATERAL (SELECT FROM {s}.event e WHERE e.category = categories_[q.i] AND e.key = keys_[q.i]
      ORDER BY e.version LIMIT 1 FOR UPDATE) f;
  FOR i IN 1 .. cardinality(categories_) LOOP
    category_ := categories_[i];
    key_ := keys_[i];
    -- By the stream: `|| ''` keeps the planner from all erasures that there were, which it may take for few.
    SELECT e.position, e.recorded_at INTO tomb FROM {s}.event e
      WHERE e.category = category_ AND e.key = key_ AND e.name || '' = 'backstory.erased'
      ORDER BY e.version DESC LIMIT 1;
    IF NOT FOUND THEN
      RAISE EXCEPTION 'the stream has no event backstory.erased' USING ERRCODE = 'restrict_violation';
    END IF;
    UPDATE {s}.event e SET payload = '{}', metadata = '{}', tags = '{}', erased_at = tomb.recorded_at
      WHERE e.category = category_ AND e.key = key_ AND e.position < tomb.position AND e.erased_at IS NULL;
    DELETE FROM {s}.snapshot t WHERE t.category = category_ AND t.key = key_;
    DELETE FROM {s}.claim t WHERE t.category = category_ AND t.key = key_;
    DELETE FROM {s}.entry t WHERE t.category = category_ AND t.key = key_;
    DELETE FROM {s}.document_index i USING {s}.document d
      WHERE d.owner_category = category_ AND d.owner_key = key_ AND i.generation = d.generation AND i.key = d.key;
    DELETE FROM {s}.document d WHERE d.owner_category = category_ AND d.owner_key = key_;
    -- Their reasons may quote the events.
    DELETE FROM {s}.dead_letter t WHERE t.category = category_ AND t.stream_key = key_;
  END LOOP;
END $$;
REVOKE ALL ON FUNCTION {s}.erase_v1(text[], text[]) FROM PUBLIC;

-- Keeps the newest ten snapshots of a stream, and none that contains an erased event.
CREATE FUNCTION {s}.save_snapshot_v1(
  category_ text, key_ text, version_ bigint, event_id_ uuid, shape_ bigint, state_ jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM {s}.lock_owners_v1(ARRAY[category_], ARRAY[key_]);
  INSERT INTO {s}.snapshot AS t (category, key, version, event_id, shape, state)
    SELECT category_, key_, version_, event_id_, shape_, state_
    WHERE NOT EXISTS (
      SELECT FROM {s}.event e
      WHERE e.category = category_ AND e.key = key_ AND e.version = version_ AND e.erased_at IS NOT NULL)
    ON CONFLICT (category, key, version) DO UPDATE
      SET event_id = excluded.event_id, shape = excluded.shape, state = excluded.state,
          saved_at = clock_timestamp();
  DELETE FROM {s}.snapshot t WHERE t.category = category_ AND t.key = key_ AND t.version < (
    SELECT n.version FROM {s}.snapshot n WHERE n.category = category_ AND n.key = key_
    ORDER BY n.version DESC OFFSET 9 LIMIT 1);
END $$;

-- For each look that asks for tags its first event. One plan for ever, and none but by the index of tags: that is what the
-- settings leave. They are made once for all looks: they take longer than a look.
CREATE FUNCTION {s}.tag_hits_v1(looks_ jsonb)
RETURNS TABLE (append int, hit_position bigint, hit_name text, hit_id uuid)
LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_indexscan = off SET enable_indexonlyscan = off
SET plan_cache_mode = force_generic_plan SET jit = off AS $$
BEGIN
  RETURN QUERY SELECT q.append, t.position, t.name, t.id
    FROM jsonb_to_recordset(looks_) AS q(append int, after bigint, names text[],
      categories text[], stream_categories text[], stream_keys text[], tags text[])
    CROSS JOIN LATERAL (
      -- MATERIALIZED: or the planner walks the primary key in hope of an early match.
      WITH found AS MATERIALIZED (
        SELECT e.position, e.name, e.id, e.category, e.key FROM {s}.event e
        WHERE e.tags <> '{}' AND e.tags @> q.tags)
      SELECT f.position, f.name, f.id FROM found f
      WHERE f.position > q.after AND (q.names IS NULL OR f.name = ANY (q.names))
        AND (q.categories IS NULL OR f.category = ANY (q.categories)
          OR (f.category, f.key) IN (SELECT * FROM unnest(q.stream_categories, q.stream_keys)))
      ORDER BY f.position LIMIT 1) t;
END $$;

-- The first event behind a position that one item of a filter means. NULL restricts nothing.
CREATE FUNCTION {s}.hit_v1(
  after_ bigint, head_ bigint, names_ text[], categories_ text[],
  stream_categories_ text[], stream_keys_ text[], tags_ text[])
RETURNS TABLE (hit_position bigint, hit_name text, hit_id uuid)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  low bigint := after_;
BEGIN
  IF head_ - after_ > 1000 THEN
    IF tags_ IS NOT NULL THEN
      RETURN QUERY SELECT t.hit_position, t.hit_name, t.hit_id FROM {s}.tag_hits_v1(jsonb_build_array(jsonb_build_object(
        'after', after_, 'names', names_, 'categories', categories_,
        'stream_categories', stream_categories_, 'stream_keys', stream_keys_, 'tags', tags_))) t;
      RETURN;
    ELSIF categories_ = '{}' THEN
      -- A stream whose newest event is not behind the position is not gone through. `+ 0`: the index of positions is no way
      -- to the others.
      RETURN QUERY SELECT f.position, f.name, f.id
        FROM unnest((SELECT stream_categories_), (SELECT stream_keys_)) AS q(category, key)
        CROSS JOIN LATERAL (
          SELECT e.position FROM {s}.event e
          WHERE e.category = q.category AND e.key = q.key ORDER BY e.version DESC LIMIT 1) l
        CROSS JOIN LATERAL (
          SELECT e.position, e.name, e.id FROM {s}.event e
          WHERE l.position > after_ AND e.category = q.category AND e.key = q.key AND e.position + 0 > after_
            AND (names_ IS NULL OR e.name = ANY (names_))
          ORDER BY e.version LIMIT 1) f
        ORDER BY f.position LIMIT 1;
      RETURN;
    ELSIF categories_ IS NULL AND names_ IS NOT NULL THEN
      -- The next row of the index, whatever its name is: asked for the name alone, the planner may go along the positions.
      RETURN QUERY SELECT f.position, f.name, f.id
        FROM unnest((SELECT names_)) AS q(name)
        CROSS JOIN LATERAL (
          SELECT e.position, e.name, e.id FROM {s}.event e
          WHERE (e.name, e.position) > (q.name, after_)
          ORDER BY e.name, e.position LIMIT 1) f
        WHERE f.name = q.name
        ORDER BY f.position LIMIT 1;
      RETURN;
    END IF;
  END IF;
  -- Bounded windows keep every plan good, whatever the statistics say.
  WHILE low < head_ LOOP
    RETURN QUERY SELECT e.position, e.name, e.id FROM {s}.event e
      WHERE e.position > low AND e.position <= low + 20000
        AND (names_ IS NULL OR e.name = ANY (names_))
        AND (tags_ IS NULL OR e.tags @> tags_)
        AND (categories_ IS NULL OR e.category = ANY (categories_)
          OR (e.category, e.key) IN (SELECT * FROM unnest(stream_categories_, stream_keys_)))
      ORDER BY e.position LIMIT 1;
    EXIT WHEN FOUND;
    low := low + 20000;
  END LOOP;
END $$;

-- Up to where no event behind a position has these tags. While they are few, all their rows tell. Else it is looked as far
-- as takes about as long as that look did, which depends on how many they are: their index knows no order.
CREATE FUNCTION {s}.tag_reach_v1(after_ bigint, end_ bigint, names_ text[], tags_ text[]) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_indexscan = off SET enable_indexonlyscan = off
SET plan_cache_mode = force_custom_plan SET jit = off AS $$
DECLARE
  begun timestamptz := clock_timestamp();
  many bigint;
  hit bigint;
  high bigint;
BEGIN
  SELECT count(*), min(f.position) FILTER (WHERE f.position > after_ AND (names_ IS NULL OR f.name = ANY (names_)))
    INTO many, hit
    FROM (SELECT e.position, e.name FROM {s}.event e WHERE e.tags <> '{}' AND e.tags @> tags_ LIMIT 2000) f;
  IF many < 2000 THEN
    RETURN least(hit - 1, end_);
  END IF;
  high := least(end_, after_ + 100000 + (extract(epoch FROM clock_timestamp() - begun) * 50000000)::bigint);
  -- The first ones found are near the lowest: looked for again below them, there are few or none.
  FOR attempt IN 1 .. 3 LOOP
    -- Both indexes, whatever the statistics say of the values: SELECT hides them.
    SELECT count(*), min(f.position) INTO many, hit
      FROM (SELECT e.position FROM {s}.event e
        WHERE e.tags <> '{}' AND e.tags @> (SELECT tags_)
          AND e.position > (SELECT after_) AND e.position <= (SELECT high) LIMIT 1000) f;
    high := least(hit - 1, high);
    IF many < 1000 THEN
      RETURN high;
    END IF;
  END LOOP;
  RETURN after_;
END $$;

-- Up to where nothing behind a position can match a filter, at most up to an end: as far as the indexes of names and tags
-- tell at little cost.
CREATE FUNCTION {s}.reach_v1(after_ bigint, end_ bigint, looks_ jsonb) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  item record;
  far bigint;
BEGIN
  FOR item IN SELECT * FROM jsonb_to_recordset(looks_) AS q(names text[], tags text[]) LOOP
    far := after_;
    IF item.names IS NOT NULL THEN
      SELECT least(min(f.position) - 1, end_) INTO far
        FROM unnest(item.names) AS q(name)
        CROSS JOIN LATERAL (
          SELECT e.position, e.name FROM {s}.event e
          WHERE (e.name, e.position) > (q.name, after_)
          ORDER BY e.name, e.position LIMIT 1) f
        WHERE f.name = q.name;
    END IF;
    IF item.tags IS NOT NULL AND far < end_ THEN
      far := {s}.tag_reach_v1(far, end_, item.names, item.tags);
    END IF;
    end_ := least(far, end_);
    EXIT WHEN end_ <= after_;
  END LOOP;
  RETURN end_;
END $$;

-- The first position recorded at or after a time; one behind the newest when there is none.
CREATE FUNCTION {s}.position_at_v1(time_ timestamptz) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  low bigint := 1;
  high bigint;
  middle bigint;
  found_at timestamptz;
BEGIN
  SELECT coalesce(max(e.position), 0) + 1 INTO high FROM {s}.event e;
  WHILE low < high LOOP
    middle := low + (high - low) / 2;
    SELECT e.recorded_at INTO found_at FROM {s}.event e WHERE e.position = middle;
    IF found_at >= time_ THEN
      high := middle;
    ELSE
      low := middle + 1;
    END IF;
  END LOOP;
  RETURN low;
END $$;

-- How many more parts of a projection a process should lead, or how many fewer: all lead as many, but for one.
CREATE FUNCTION {s}.room_v1(owner_ uuid, projection_ text, parts_ bigint)
RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN ceil(parts_::numeric / greatest(1, (SELECT count(*) FROM {s}.replica r
      WHERE r.projection = projection_ AND r.until > clock_timestamp())))::bigint
    - (SELECT count(*) FROM {s}.projection p WHERE p.owner = owner_ AND starts_with(p.name, projection_ || '~'));
END $$;

-- What a process says of its projections, and is told about them. Whoever leads one from now on is
-- the only one to commit: an earlier leader is fenced by the epoch. What somebody else has locked
-- just now is left for the next time.
CREATE FUNCTION {s}.beat_v1(
  owner_ uuid, process_ text, origin_ text, lease_ interval, reports_ jsonb, answers_ jsonb)
RETURNS TABLE (name_ text, position_ bigint, event_id_ uuid, epoch_ bigint, paused_ boolean, leads_ boolean,
  term_ bigint, trouble_ text, orders_ jsonb, leader_ uuid, leader_origin_ text,
  next_position_ bigint, next_event_id_ uuid, next_epoch_ bigint)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  now_ timestamptz := clock_timestamp();
  free text[];
  locked text[];
  parts jsonb; -- how many each projection has that runs in parts
BEGIN
  UPDATE {s}.projection_order o SET answered_at = now_, process = process_, failure = q.failure, note = q.note
    FROM jsonb_to_recordset(answers_) AS q(id bigint, failure text, note text)
    WHERE o.id = q.id AND o.answered_at IS NULL;
  INSERT INTO {s}.projection (name)
    SELECT q.projection FROM jsonb_to_recordset(reports_) AS q(projection text)
    WHERE NOT EXISTS (SELECT FROM {s}.projection p WHERE p.name = q.projection)
    ORDER BY q.projection ON CONFLICT (name) DO NOTHING;
  SELECT jsonb_object_agg(q.projection, q.parts) INTO parts FROM (
    SELECT split_part(q.projection, '~', 1) AS projection, count(*) AS parts
    FROM jsonb_to_recordset(reports_) AS q(projection text) WHERE q.projection LIKE '%~%' GROUP BY 1) q;
  IF parts IS NOT NULL THEN
    INSERT INTO {s}.replica (projection, owner, until)
      SELECT q.projection, owner_, now_ + lease_ FROM jsonb_object_keys(parts) AS q(projection) ORDER BY q.projection
      ON CONFLICT (projection, owner) DO UPDATE SET until = excluded.until;
    UPDATE {s}.projection p SET owner = NULL, leased_until = NULL FROM (
      SELECT p.name, row_number() OVER (PARTITION BY q.key ORDER BY length(p.name) DESC, p.name DESC)
          <= -{s}.room_v1(owner_, q.key, q.value::bigint) AS many
      FROM jsonb_each_text(parts) q JOIN {s}.projection p ON starts_with(p.name, q.key || '~')
      WHERE p.owner = owner_) f
    WHERE p.name = f.name AND f.many;
  END IF;
  SELECT array_agg(f.name) INTO free FROM (
    SELECT p.name FROM {s}.projection p
    WHERE p.name IN (SELECT q.projection FROM jsonb_to_recordset(reports_) AS q(projection text))
      AND p.owner IS DISTINCT FROM owner_ AND (p.owner IS NULL OR p.leased_until <= now_)
    ORDER BY p.name FOR UPDATE SKIP LOCKED) f;
  IF parts IS NOT NULL AND free IS NOT NULL THEN
    SELECT array_agg(f.name) INTO free FROM (
      SELECT f.name, row_number() OVER (PARTITION BY split_part(f.name, '~', 1) ORDER BY length(f.name), f.name)
          <= {s}.room_v1(owner_, split_part(f.name, '~', 1), (parts ->> split_part(f.name, '~', 1))::bigint) AS fits
      FROM unnest(free) AS f(name)) f
      WHERE f.fits OR f.name NOT LIKE '%~%';
  END IF;
  IF free IS NOT NULL THEN
    -- A leader that froze while it stored its last batch still holds the row.
    SELECT array_agg(l.projection) INTO locked FROM (
      SELECT t.projection FROM {s}.progress t WHERE t.projection = ANY (free)
      ORDER BY t.projection FOR UPDATE SKIP LOCKED) l;
    SELECT array_agg(f.name) INTO free FROM unnest(free) AS f(name)
      WHERE f.name = ANY (locked) OR NOT EXISTS (SELECT FROM {s}.progress t WHERE t.projection = f.name);
    INSERT INTO {s}.progress AS t (projection, position, event_id, epoch)
      SELECT f.name, 0, '00000000-0000-0000-0000-000000000000', 1 FROM unnest(free) AS f(name)
      ON CONFLICT (projection) DO UPDATE SET epoch = t.epoch + 1;
  END IF;
  UPDATE {s}.projection p
    SET term = p.term + CASE WHEN p.owner IS DISTINCT FROM owner_ THEN 1 ELSE 0 END,
      owner = owner_, process = process_, origin = origin_, leased_until = now_ + lease_, state = q.state, reason = q.reason,
      reached = q.reached, head = q.head, behind_since = q.behind_since, rate = q.rate, seen_at = now_,
      rebuild_state = q.rebuild_state, rebuild_reason = q.rebuild_reason, rebuild_reached = q.rebuild_reached,
      rebuild_rate = q.rebuild_rate
    FROM jsonb_to_recordset(reports_) AS q(projection text, state text, reason text, reached bigint, head bigint,
      behind_since timestamptz, rate float8, rebuild_state text, rebuild_reason text, rebuild_reached bigint,
      rebuild_rate float8)
    WHERE p.name = q.projection AND (p.owner = owner_ OR p.name = ANY (free));
  RETURN QUERY SELECT p.name, coalesce(t.position, 0),
      coalesce(t.event_id, '00000000-0000-0000-0000-000000000000'), coalesce(t.epoch, 0), p.paused,
      p.owner IS NOT DISTINCT FROM owner_, p.term,
      CASE WHEN p.owner IS DISTINCT FROM owner_ AND p.state IN ('failing', 'stopped') THEN p.reason END,
      CASE WHEN p.owner = owner_ THEN (SELECT jsonb_agg(jsonb_build_array(o.id, o.kind, o.argument) ORDER BY o.id)
        FROM {s}.projection_order o WHERE o.projection = p.name AND o.answered_at IS NULL) END,
      p.owner, p.origin, n.position, n.event_id, n.epoch
    FROM jsonb_to_recordset(reports_) AS q(projection text)
    JOIN {s}.projection p ON p.name = q.projection
    LEFT JOIN {s}.progress t ON t.projection = p.name
    LEFT JOIN {s}.progress n ON n.projection = split_part(p.name, '~', 1) || '~next';
END $$;

-- Stores a batch in one call, if what its writer took for granted is so; else stores nothing and answers false, and the
-- writer looks first. Taken for granted: checked streams are live and have these versions, no event has the id or the version
-- of another one, no other stream holds a value that is asked for, the proofs are there, no condition is hit. A stream that
-- begins needs no check: its first version is taken when it is not new.
-- Events count from the head. Plans and search path are those of the session.
CREATE FUNCTION {s}.append_v1(
  lock_timeout_ bigint, wake_ boolean,
  event_category text[], event_key text[], event_version bigint[], event_id uuid[], event_name text[],
  event_schema integer[], event_payload text[], event_metadata text[], event_tags text[],
  checked_category text[], checked_key text[], checked_version bigint[],
  rest_ jsonb,
  OUT stored boolean, OUT head bigint, OUT waited interval)
LANGUAGE plpgsql AS $$
DECLARE
  now_ timestamptz := clock_timestamp();
  ignored_ text;
  value_kind text[];
  value_scope text[];
  value_text text[];
  value_category text[];
  value_key text[];
BEGIN
  stored := false;
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RETURN;
  END IF;
  IF current_setting('synchronous_commit') = 'off' THEN
    ignored_ := set_config('synchronous_commit', 'on', true);
  END IF;
  ignored_ := set_config('lock_timeout', lock_timeout_::text, true);
  ignored_ := pg_advisory_xact_lock({lock});
  waited := clock_timestamp() - now_;
  -- A statement of its own: it sees what the last holder of the lock committed.
  SELECT e.position, e.recorded_at INTO head, now_ FROM {s}.event e ORDER BY e.position DESC LIMIT 1;
  head := coalesce(head, 0);
  now_ := greatest(clock_timestamp(), now_);

  -- Elements by number: a list of lists to unnest would be kept list by list first.
  IF cardinality(checked_category) > 0 THEN
    PERFORM FROM generate_series(1, cardinality(checked_category)) AS q(i)
      LEFT JOIN LATERAL (SELECT e.version FROM {s}.event e
        WHERE e.category = checked_category[q.i] AND e.key = checked_key[q.i]
        ORDER BY e.version DESC LIMIT 1) e ON true
      LEFT JOIN LATERAL (SELECT t.state FROM {s}.stream_state t
        WHERE t.category = checked_category[q.i] AND t.key = checked_key[q.i] LIMIT 1) t ON true
      WHERE coalesce(e.version, 0) <> checked_version[q.i] OR t.state <> 'live';
    IF FOUND THEN RETURN; END IF;
  END IF;
  IF rest_ ? 'refused' THEN
    -- What is stored already is answered with its receipt, whatever else is wrong with it now.
    PERFORM FROM jsonb_to_recordset(rest_ -> 'refused') AS q(id uuid)
      CROSS JOIN LATERAL (SELECT FROM {s}.event t WHERE t.id = q.id LIMIT 1) t;
    IF FOUND THEN RETURN; END IF;
  END IF;
  IF rest_ ? 'values' THEN
    SELECT array_agg(q.kind), array_agg(q.scope), array_agg(q.value), array_agg(q.category), array_agg(q.key)
      INTO value_kind, value_scope, value_text, value_category, value_key
      FROM jsonb_to_recordset(rest_ -> 'values') AS q(kind text, scope text, value text, category text, key text);
    PERFORM FROM generate_series(1, cardinality(value_kind)) AS q(i)
      CROSS JOIN LATERAL (SELECT t.category, t.key FROM {s}.claim t
        WHERE t.scope = value_scope[q.i] AND t.value = value_text[q.i] LIMIT 1) t
      WHERE value_kind[q.i] = 'ask' AND (t.category <> value_category[q.i] OR t.key <> value_key[q.i]);
    IF FOUND THEN RETURN; END IF;
  END IF;
  IF rest_ ? 'proofs' THEN
    -- Without an id only the place has to be there.
    PERFORM FROM jsonb_to_recordset(rest_ -> 'proofs') AS q(position bigint, id uuid)
      LEFT JOIN LATERAL (SELECT t.id FROM {s}.event t WHERE t.position = q.position LIMIT 1) t ON q.id IS NOT NULL
      WHERE CASE WHEN q.id IS NULL THEN q.position > append_v1.head ELSE t.id IS DISTINCT FROM q.id END;
    IF FOUND THEN RETURN; END IF;
  END IF;
  IF rest_ ? 'looks' THEN
    -- Most of them begin near the head.
    PERFORM FROM jsonb_to_recordset(rest_ -> 'looks') AS q(after bigint, names text[], categories text[],
        stream_categories text[], stream_keys text[], tags text[])
      CROSS JOIN LATERAL (SELECT FROM {s}.event e
        WHERE e.position > q.after AND e.position <= append_v1.head
          AND (q.names IS NULL OR e.name = ANY (q.names))
          AND (q.tags IS NULL OR e.tags @> q.tags)
          AND (q.categories IS NULL OR e.category = ANY (q.categories)
            OR (e.category, e.key) IN (SELECT * FROM unnest(q.stream_categories, q.stream_keys)))
        ORDER BY e.position LIMIT 1) t
      WHERE append_v1.head - q.after BETWEEN 1 AND 1000;
    IF FOUND THEN RETURN; END IF;
    PERFORM FROM jsonb_to_recordset(rest_ -> 'looks') AS q(after bigint, names text[], categories text[],
        stream_categories text[], stream_keys text[], tags text[])
      CROSS JOIN LATERAL {s}.hit_v1(q.after, append_v1.head, q.names, q.categories,
        q.stream_categories, q.stream_keys, q.tags) t
      WHERE append_v1.head - q.after > 1000;
    IF FOUND THEN RETURN; END IF;
  END IF;

  BEGIN
    IF 'remove' = ANY (value_kind) THEN
      DELETE FROM {s}.claim c WHERE c.ctid = ANY (ARRAY(
        SELECT t.ctid FROM generate_series(1, cardinality(value_kind)) AS q(i)
        CROSS JOIN LATERAL (SELECT x.ctid, x.value FROM {s}.claim x WHERE x.category = value_category[q.i]
          AND x.key = value_key[q.i] AND x.scope = value_scope[q.i] OFFSET 0) t
        WHERE value_kind[q.i] = 'remove' AND (value_text[q.i] IS NULL OR t.value = value_text[q.i])));
      DELETE FROM {s}.entry e WHERE e.ctid = ANY (ARRAY(
        SELECT t.ctid FROM generate_series(1, cardinality(value_kind)) AS q(i)
        CROSS JOIN LATERAL (SELECT x.ctid, x.value FROM {s}.entry x WHERE x.category = value_category[q.i]
          AND x.key = value_key[q.i] AND x.scope = value_scope[q.i] OFFSET 0) t
        WHERE value_kind[q.i] = 'remove' AND (value_text[q.i] IS NULL OR t.value = value_text[q.i])));
    END IF;
    IF 'claim' = ANY (value_kind) THEN
      INSERT INTO {s}.claim AS t (scope, value, category, key)
        SELECT value_scope[i], value_text[i], value_category[i], value_key[i]
        FROM generate_series(1, cardinality(value_kind)) AS i WHERE value_kind[i] = 'claim'
        ON CONFLICT (scope, value) DO UPDATE SET category = excluded.category, key = excluded.key
          WHERE t.category <> excluded.category OR t.key <> excluded.key;
    END IF;
    IF 'entry' = ANY (value_kind) THEN
      INSERT INTO {s}.entry (scope, value, category, key)
        SELECT value_scope[i], value_text[i], value_category[i], value_key[i]
        FROM generate_series(1, cardinality(value_kind)) AS i WHERE value_kind[i] = 'entry'
        ON CONFLICT (scope, value, category, key) DO NOTHING;
    END IF;
    IF cardinality(event_id) = 1 AND event_tags[1] = '[]' THEN
      -- As below; it takes two thirds of the time.
      INSERT INTO {s}.event
          (position, category, key, version, id, name, schema_version, payload, metadata, tags, recorded_at)
        VALUES (append_v1.head + 1, event_category[1], event_key[1], event_version[1], event_id[1], event_name[1],
          event_schema[1], event_payload[1]::jsonb, event_metadata[1]::jsonb, '{}', now_);
    ELSIF cardinality(event_id) > 0 THEN
      INSERT INTO {s}.event
          (position, category, key, version, id, name, schema_version, payload, metadata, tags, recorded_at)
        SELECT append_v1.head + i, event_category[i], event_key[i], event_version[i], event_id[i], event_name[i],
          event_schema[i], event_payload[i]::jsonb, event_metadata[i]::jsonb,
          CASE event_tags[i] WHEN '[]' THEN '{}' ELSE ARRAY(SELECT jsonb_array_elements_text(event_tags[i]::jsonb)) END,
          now_
        FROM generate_series(1, cardinality(event_id)) AS i;
    END IF;
  EXCEPTION WHEN integrity_constraint_violation OR data_exception OR program_limit_exceeded THEN
    -- A version or an id is taken; or the database refuses a row, which matters only if the append stands a look.
    RETURN;
  END;
  IF wake_ AND cardinality(event_id) > 0 THEN
    ignored_ := pg_notify({channel}, (head + cardinality(event_id))::text);
  END IF;
  stored := true;
END $$;
