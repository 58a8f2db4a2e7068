-- Which programs can work with this file.
CREATE TABLE backstory_schema (
    id            INTEGER PRIMARY KEY CHECK (id = 1),
    version       INTEGER NOT NULL,
    readable_from INTEGER NOT NULL
) STRICT;

-- The log. Rows are added and never removed; erasing takes the content and leaves the skeleton.
CREATE TABLE backstory_event (
    position       INTEGER PRIMARY KEY,
    category       TEXT    NOT NULL,
    key            TEXT    NOT NULL,
    version        INTEGER NOT NULL,
    id             BLOB    NOT NULL,
    name           TEXT    NOT NULL,
    schema_version INTEGER NOT NULL,
    recorded_at    INTEGER NOT NULL, -- microseconds since 1970
    erased_at      INTEGER,
    tags           TEXT    NOT NULL, -- a JSON array
    metadata       TEXT    NOT NULL,
    payload        TEXT    NOT NULL
) STRICT;

-- Each of them ends with the position, as every index of SQLite does with the primary key.
CREATE UNIQUE INDEX backstory_event_stream ON backstory_event (category, key, version);
CREATE UNIQUE INDEX backstory_event_id ON backstory_event (id);
CREATE INDEX backstory_event_name ON backstory_event (name);

-- REPLACE removes rows without asking triggers of DELETE, so INSERT has to look itself.
CREATE TRIGGER backstory_event_insert BEFORE INSERT ON backstory_event
WHEN NEW.position IS NOT (SELECT coalesce(max(position), 0) + 1 FROM backstory_event)
    OR EXISTS (SELECT 1 FROM backstory_event WHERE id = NEW.id)
    OR NEW.version IS NOT (
        SELECT coalesce(max(version), 0) + 1 FROM backstory_event
        WHERE category = NEW.category AND key = NEW.key
    )
BEGIN
    SELECT RAISE(ABORT, 'backstory: events are only added at the end');
END;

CREATE TRIGGER backstory_event_delete BEFORE DELETE ON backstory_event
BEGIN
    SELECT RAISE(ABORT, 'backstory: events are never deleted');
END;

CREATE TRIGGER backstory_event_update BEFORE UPDATE ON backstory_event
WHEN (
    OLD.erased_at IS NULL AND NEW.erased_at IS NOT NULL
    AND NEW.payload = '{}' AND NEW.metadata = '{}' AND NEW.tags = '[]'
    AND NEW.position = OLD.position AND NEW.id = OLD.id
    AND NEW.category = OLD.category AND NEW.key = OLD.key AND NEW.version = OLD.version
    AND NEW.name = OLD.name AND NEW.schema_version = OLD.schema_version
    AND NEW.recorded_at = OLD.recorded_at
    AND OLD.version < (
        SELECT version FROM backstory_event
        WHERE category = OLD.category AND key = OLD.key AND name = 'backstory.erased'
        ORDER BY version DESC LIMIT 1
    )
) IS NOT TRUE
BEGIN
    SELECT RAISE(ABORT, 'backstory: events are never changed');
END;

-- The tags of the log, by tag.
CREATE TABLE backstory_event_tag (
    tag      TEXT    NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (tag, position)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER backstory_event_tagged AFTER INSERT ON backstory_event
WHEN NEW.tags <> '[]'
BEGIN
    INSERT INTO backstory_event_tag (tag, position)
    SELECT value, NEW.position FROM json_each(NEW.tags);
END;

CREATE TRIGGER backstory_event_untagged AFTER UPDATE ON backstory_event
WHEN OLD.tags <> '[]'
BEGIN
    DELETE FROM backstory_event_tag
    WHERE position = OLD.position AND tag IN (SELECT value FROM json_each(OLD.tags));
END;

CREATE TRIGGER backstory_event_tag_update BEFORE UPDATE ON backstory_event_tag
BEGIN
    SELECT RAISE(ABORT, 'backstory: events are never changed');
END;

CREATE TRIGGER backstory_event_tag_delete BEFORE DELETE ON backstory_event_tag
WHEN (SELECT erased_at IS NULL FROM backstory_event WHERE position = OLD.position)
BEGIN
    SELECT RAISE(ABORT, 'backstory: events are never changed');
END;

-- What the log has made of each stream; it can be rebuilt from the log.
CREATE TABLE backstory_stream (
    category       TEXT    NOT NULL,
    key            TEXT    NOT NULL,
    version        INTEGER NOT NULL,
    state          TEXT    NOT NULL,
    tags           TEXT    NOT NULL, -- a JSON array
    first_position INTEGER NOT NULL,
    last_position  INTEGER NOT NULL,
    PRIMARY KEY (category, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE backstory_stream_tag (
    tag      TEXT NOT NULL,
    category TEXT NOT NULL,
    key      TEXT NOT NULL,
    PRIMARY KEY (tag, category, key)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER backstory_stream_tagged AFTER INSERT ON backstory_stream
WHEN NEW.tags <> '[]'
BEGIN
    INSERT INTO backstory_stream_tag (tag, category, key)
    SELECT value, NEW.category, NEW.key FROM json_each(NEW.tags);
END;

CREATE TRIGGER backstory_stream_retagged AFTER UPDATE ON backstory_stream
WHEN NEW.tags <> OLD.tags
BEGIN
    DELETE FROM backstory_stream_tag
    WHERE category = OLD.category AND key = OLD.key
        AND tag IN (SELECT value FROM json_each(OLD.tags));
    INSERT INTO backstory_stream_tag (tag, category, key)
    SELECT value, NEW.category, NEW.key FROM json_each(NEW.tags);
END;

-- Unique values and the stream that holds each.
CREATE TABLE backstory_claim (
    scope    TEXT NOT NULL,
    value    TEXT NOT NULL,
    category TEXT NOT NULL,
    key      TEXT NOT NULL,
    PRIMARY KEY (scope, value)
) STRICT, WITHOUT ROWID;

CREATE INDEX backstory_claim_owner ON backstory_claim (category, key);

-- Values that many streams may have.
CREATE TABLE backstory_entry (
    scope    TEXT NOT NULL,
    value    TEXT NOT NULL,
    category TEXT NOT NULL,
    key      TEXT NOT NULL,
    PRIMARY KEY (scope, value, category, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX backstory_entry_owner ON backstory_entry (category, key);

CREATE TABLE backstory_snapshot (
    category TEXT    NOT NULL,
    key      TEXT    NOT NULL,
    version  INTEGER NOT NULL,
    event_id BLOB    NOT NULL,
    shape    INTEGER NOT NULL,
    state    TEXT    NOT NULL,
    PRIMARY KEY (category, key, version)
) STRICT;

CREATE TABLE backstory_progress (
    projection TEXT    NOT NULL PRIMARY KEY,
    position   INTEGER NOT NULL,
    event_id   BLOB    NOT NULL,
    epoch      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Which process leads each projection, how it is doing there, and what is wanted of it. Times are
-- microseconds since 1970.
CREATE TABLE backstory_projection (
    name         TEXT    NOT NULL PRIMARY KEY,
    paused       INTEGER NOT NULL DEFAULT 0,
    owner        BLOB,
    process      TEXT,
    origin       TEXT, -- where that process runs
    term         INTEGER NOT NULL DEFAULT 0, -- how often the leader has changed
    leased_until INTEGER,
    state        TEXT    NOT NULL DEFAULT 'idle',
    reason       TEXT,
    reached      INTEGER NOT NULL DEFAULT 0,
    head         INTEGER NOT NULL DEFAULT 0,
    behind_since INTEGER,
    rate         REAL    NOT NULL DEFAULT 0,
    seen_at      INTEGER,
    -- The read model that is being built beside the live one.
    rebuild_state   TEXT,
    rebuild_reason  TEXT,
    rebuild_reached INTEGER,
    rebuild_rate    REAL
) STRICT, WITHOUT ROWID;

-- Which processes run a projection in parts: they share them.
CREATE TABLE backstory_replica (
    projection  TEXT    NOT NULL,
    owner       BLOB    NOT NULL,
    until       INTEGER NOT NULL,
    PRIMARY KEY (projection, owner)
) STRICT, WITHOUT ROWID;

CREATE TABLE backstory_projection_order (
    id          INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    projection  TEXT    NOT NULL,
    kind        TEXT    NOT NULL,
    argument    TEXT,
    given_at    INTEGER NOT NULL,
    answered_at INTEGER,
    process     TEXT,
    failure     TEXT,
    note        TEXT -- what came of it
) STRICT;

-- The events that projections left out. Those of a key with a parked one wait for it.
CREATE TABLE backstory_dead_letter (
    projection TEXT    NOT NULL,
    position   INTEGER NOT NULL,
    event_id   BLOB    NOT NULL,
    name       TEXT    NOT NULL,
    category   TEXT    NOT NULL,
    stream_key TEXT    NOT NULL,
    key        TEXT    NOT NULL,
    reason     TEXT    NOT NULL,
    attempts   INTEGER NOT NULL,
    at         INTEGER NOT NULL, -- microseconds since 1970
    parked     INTEGER NOT NULL,
    PRIMARY KEY (projection, position)
) STRICT;

CREATE INDEX backstory_dead_letter_key ON backstory_dead_letter (projection, key, position);
CREATE INDEX backstory_dead_letter_stream ON backstory_dead_letter (category, stream_key);

-- The documents of a collection are those of its generation: another generation can be filled
-- beside it and take its place by a change of this one row.
CREATE TABLE backstory_collection (
    name       TEXT    NOT NULL PRIMARY KEY,
    projection TEXT    NOT NULL,
    generation INTEGER NOT NULL UNIQUE
) STRICT, WITHOUT ROWID;

CREATE TABLE backstory_document (
    generation     INTEGER NOT NULL,
    key            TEXT    NOT NULL,
    body           TEXT    NOT NULL,
    indexed        TEXT    NOT NULL, -- a JSON array of pairs: field, value
    owner_category TEXT,
    owner_key      TEXT,
    PRIMARY KEY (generation, key)
) STRICT;

CREATE INDEX backstory_document_owner ON backstory_document (owner_category, owner_key)
WHERE owner_category IS NOT NULL;

CREATE TABLE backstory_document_index (
    generation INTEGER NOT NULL,
    field      TEXT    NOT NULL,
    value      TEXT    NOT NULL,
    key        TEXT    NOT NULL,
    PRIMARY KEY (generation, field, value, key)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER backstory_document_insert AFTER INSERT ON backstory_document
WHEN NEW.indexed <> '[]'
BEGIN
    INSERT OR IGNORE INTO backstory_document_index (generation, field, value, key)
    SELECT NEW.generation, value ->> 0, value ->> 1, NEW.key FROM json_each(NEW.indexed);
END;

CREATE TRIGGER backstory_document_update AFTER UPDATE ON backstory_document
WHEN NEW.indexed <> OLD.indexed
BEGIN
    DELETE FROM backstory_document_index
    WHERE generation = OLD.generation AND key = OLD.key
        AND field IN (SELECT value ->> 0 FROM json_each(OLD.indexed))
        AND value IN (SELECT value ->> 1 FROM json_each(OLD.indexed));
    INSERT OR IGNORE INTO backstory_document_index (generation, field, value, key)
    SELECT NEW.generation, value ->> 0, value ->> 1, NEW.key FROM json_each(NEW.indexed);
END;

CREATE TRIGGER backstory_document_delete AFTER DELETE ON backstory_document
WHEN OLD.indexed <> '[]'
BEGIN
    DELETE FROM backstory_document_index
    WHERE generation = OLD.generation AND key = OLD.key
        AND field IN (SELECT value ->> 0 FROM json_each(OLD.indexed))
        AND value IN (SELECT value ->> 1 FROM json_each(OLD.indexed));
END;
