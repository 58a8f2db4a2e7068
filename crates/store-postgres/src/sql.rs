//! All fixed statements. Their plans do not depend on statistics: each look-up is a LATERAL with
//! LIMIT, which no planner turns into a scan of the table.
//!
//! Those that are asked all day outside of transactions hide from the planner what would make a plan
//! for the values of one call look cheaper than one for all: or the server plans them again each
//! time, which takes as long as running them. A list is a `(SELECT $1)`, a small limit a number.

use std::sync::Arc;

use sqlx::{AssertSqlSafe, Postgres, postgres::PgArguments, query::Query};

use crate::schema::Schema;

macro_rules! statements {
    ($($name:ident = $text:expr;)*) => {
        /// The statements of one schema.
        #[derive(Debug)]
        pub(crate) struct Statements {
            $(pub(crate) $name: Statement,)*
        }

        impl Statements {
            /// `named`: whether a connection may remember its statements by name.
            pub(crate) fn new(schema: &Schema, named: bool) -> Self {
                Self { $($name: Statement { text: schema.sql($text), named },)* }
            }
        }
    };
}

/// The text of a statement.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    text: Arc<str>,
    named: bool,
}

impl Statement {
    /// The text for sqlx: it consists of our own words and a checked schema name.
    pub(crate) fn text(&self) -> AssertSqlSafe<Arc<str>> {
        AssertSqlSafe(self.text.clone())
    }

    /// For a connection of the caller: behind a pooler nothing may stay prepared on it.
    pub(crate) fn query(&self) -> Query<'static, Postgres, PgArguments> {
        sqlx::query(self.text()).persistent(self.named)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }
}

/// Short transactions of our own: look-ups by index also while the server has no statistics, one
/// plan for all batches, and durable commits.
macro_rules! settings {
    () => {
        "set_config('enable_seqscan', 'off', true), set_config('enable_hashjoin', 'off', true), \
         set_config('enable_mergejoin', 'off', true), \
         set_config('plan_cache_mode', 'force_generic_plan', true), set_config('jit', 'off', true), \
         set_config('synchronous_commit', CASE current_setting('synchronous_commit') \
           WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, true)"
    };
}

/// Near the end of the log so many positions are looked at, whatever a filter is.
macro_rules! near {
    () => {
        128
    };
}
pub(crate) const NEAR: i64 = near!();

/// The columns of an event `e`, as a reader decodes them behind a first one. To cast the JSON to text
/// would copy it twice more.
macro_rules! event {
    () => {
        "e.position, e.category, e.key, e.version, e.id, e.name, e.schema_version, \
         e.payload, e.metadata, e.tags, e.recorded_at, e.erased_at, e.transform"
    };
}

/// The newest event without its content.
macro_rules! end {
    () => {
        "(SELECT 0, e.position, '', '', 0, e.id, '', 0, NULL, NULL, '{}', e.recorded_at, NULL, NULL \
          FROM {s}.event e ORDER BY e.position DESC LIMIT 1)"
    };
}

/// The columns of a binary COPY of events, in the order in which a chunk of an import encodes them:
/// first those of which only the log knows the values.
macro_rules! import_columns {
    () => {
        "position, version, recorded_at, category, key, id, name, schema_version, payload, metadata, tags"
    };
}

/// What the events and lifecycle events of the streams `$1`, `$2` say, by number.
macro_rules! streams {
    () => {
        "(SELECT json_agg(json_build_array(q.n, e.version, coalesce(t.state, 'live'), coalesce(t.tags, '{}'))) \
          FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS q(category, key, n) \
          CROSS JOIN LATERAL (SELECT e.version FROM {s}.event e \
            WHERE e.category = q.category AND e.key = q.key ORDER BY e.version DESC LIMIT 1) e \
          LEFT JOIN LATERAL (SELECT t.state, t.tags FROM {s}.stream_state t \
            WHERE t.category = q.category AND t.key = q.key LIMIT 1) t ON true)"
    };
}

/// One event behind `$1`, the newest one. That it is the newest is proved by the position of the
/// next, which is free: so everything that this statement sees of the log is as it will be. Without
/// the lock, or when anything is otherwise, nothing is stored.
macro_rules! alone {
    ($stream:literal) => {
        concat!(
            "INSERT INTO {s}.event \
               (position, category, key, version, id, name, schema_version, payload, metadata, tags, recorded_at) \
             SELECT h.position + 1, $3, $4, $5, $6, $7, $8, $9::jsonb, $10::jsonb, $11::text[], \
               greatest(clock_timestamp(), h.recorded_at) \
             FROM {s}.event h \
             WHERE h.position = $1 AND h.id = $2 AND current_setting('synchronous_commit') <> 'off' ",
            $stream,
            "AND pg_try_advisory_xact_lock({lock}) \
             ON CONFLICT DO NOTHING \
             RETURNING CASE WHEN $12 THEN pg_notify({channel}, position::text) END"
        )
    };
}

statements! {
    // Stands behind BEGIN and the timeouts. The lock is taken by a statement of its own, so that
    // the next one sees what its last holder committed.
    lock_append = concat!("SELECT ", settings!(), "; SELECT pg_advisory_xact_lock({lock})");

    // An append within a transaction of the caller: $1 and $2 are its lock and idle timeouts in
    // milliseconds; smaller ones of the caller are kept.
    settle_append = "SELECT current_setting('transaction_isolation'), \
        set_config('backstory.append', 'open', true), \
        set_config('synchronous_commit', CASE current_setting('synchronous_commit') \
          WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, true), \
        set_config('lock_timeout', CASE \
          WHEN extract(epoch FROM current_setting('lock_timeout')::interval) * 1000 \
            BETWEEN 1 AND $1 THEN current_setting('lock_timeout') ELSE $1::bigint::text END, true), \
        set_config('idle_in_transaction_session_timeout', CASE \
          WHEN extract(epoch FROM current_setting('idle_in_transaction_session_timeout')::interval) * 1000 \
            BETWEEN 1 AND $2 THEN current_setting('idle_in_transaction_session_timeout') \
          ELSE $2::bigint::text END, true)";

    // The settings of `settle_append` are gone when it was not in a transaction.
    lock_within = "SELECT coalesce(current_setting('backstory.append', true), '') = 'open', \
        current_setting('enable_seqscan'), set_config('enable_seqscan', 'off', true), \
        pg_advisory_xact_lock({lock})";

    restore = "SELECT set_config('enable_seqscan', $1, true), pg_current_xact_id()::text";

    append = "SELECT t.stored, t.head, t.waited FROM {s}.append_v1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, \
        $13, $14, $15::jsonb) t";

    append_first = alone!("");

    append_next = alone!("AND EXISTS (SELECT FROM {s}.event e \
          WHERE e.category = $3 AND e.key = $4 AND e.version = $5 - 1 OFFSET 0) \
        AND NOT EXISTS (SELECT FROM {s}.stream_state t \
          WHERE t.category = $3 AND t.key = $4 AND t.state <> 'live' OFFSET 0) ");

    // What a batch needs to know. Lists are JSON, numbered as the parameters are.
    facts = concat!("SELECT coalesce(h.position, 0), h.recorded_at, clock_timestamp(), \
        ", streams!(), ", \
        (SELECT json_agg(json_build_array(q.n, t.position, t.category, t.key, t.version, t.name)) \
          FROM unnest($3::uuid[]) WITH ORDINALITY AS q(id, n) \
          CROSS JOIN LATERAL (SELECT * FROM {s}.event t WHERE t.id = q.id LIMIT 1) t), \
        (SELECT json_agg(json_build_array(q.n, t.category, t.key)) \
          FROM unnest($4::text[], $5::text[]) WITH ORDINALITY AS q(scope, value, n) \
          CROSS JOIN LATERAL (SELECT * FROM {s}.claim t \
            WHERE t.scope = q.scope AND t.value = q.value LIMIT 1) t), \
        (SELECT json_agg(json_build_array(t.position, t.id)) \
          FROM unnest($6::bigint[]) AS q(position) \
          CROSS JOIN LATERAL (SELECT * FROM {s}.event t WHERE t.position = q.position LIMIT 1) t), \
        (SELECT json_agg(json_build_array(q.append, q.number, t.hit_position, t.hit_name, t.hit_id)) \
          FROM jsonb_to_recordset($7::jsonb) AS q(append int, number int, after bigint, names text[], \
            categories text[], stream_categories text[], stream_keys text[], tags text[]) \
          CROSS JOIN LATERAL {s}.hit_v1(q.after, coalesce(h.position, 0), q.names, q.categories, \
            q.stream_categories, q.stream_keys, q.tags) t) \
        FROM (SELECT 1) AS one LEFT JOIN LATERAL \
          (SELECT e.position, e.recorded_at FROM {s}.event e ORDER BY e.position DESC LIMIT 1) h ON true");

    // Checks conditions before they wait for the lock: the head that all answers speak of, the
    // events at the proofs, and where each condition is hit first: $2 are those without tags, $3
    // those with.
    ahead = "SELECT coalesce(h.position, 0), h.id, \
        (SELECT json_agg(json_build_array(t.position, t.id)) \
          FROM unnest((SELECT $1::bigint[])) AS q(position) \
          CROSS JOIN LATERAL (SELECT * FROM {s}.event t WHERE t.position = q.position LIMIT 1) t), \
        (SELECT json_agg(json_build_array(t.append, t.hit_position)) FROM ( \
          SELECT q.append, t.hit_position \
            FROM jsonb_to_recordset((SELECT $2::jsonb)) AS q(append int, after bigint, names text[], \
              categories text[], stream_categories text[], stream_keys text[]) \
            CROSS JOIN LATERAL {s}.hit_v1(q.after, coalesce(h.position, 0), q.names, q.categories, \
              q.stream_categories, q.stream_keys, NULL) t \
          UNION ALL SELECT t.append, t.hit_position FROM {s}.tag_hits_v1((SELECT $3::jsonb)) t) t) \
        FROM (SELECT 1) AS one LEFT JOIN LATERAL \
          (SELECT e.position, e.id FROM {s}.event e ORDER BY e.position DESC LIMIT 1) h ON true";

    // Up to where nothing between $1 and $2 can match, the event there, and the one at $1: its proof.
    reach = "SELECT r.reach, (SELECT e.id FROM {s}.event e WHERE e.position = r.reach), \
        (SELECT e.id FROM {s}.event e WHERE e.position = $1) FROM {s}.reach_v1($1, $2, $3) AS r(reach)";

    // The events of a batch, and one notification. Tags travel as JSON, never as an array literal.
    store = "WITH events AS (INSERT INTO {s}.event \
          (position, category, key, version, id, name, schema_version, payload, metadata, tags, recorded_at, erased_at) \
        SELECT q.position, q.category, q.key, q.version, q.id, q.name, q.schema_version, \
          q.payload::jsonb, q.metadata::jsonb, \
          CASE q.tags WHEN '[]' THEN '{}' ELSE ARRAY(SELECT jsonb_array_elements_text(q.tags::jsonb)) END, \
          $11, CASE WHEN q.erased THEN $11 END \
        FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::uuid[], $6::text[], \
            $7::int[], $8::text[], $9::text[], $10::text[], $12::boolean[]) \
          AS q(position, category, key, version, id, name, schema_version, payload, metadata, tags, erased)) \
        SELECT pg_notify({channel}, $13)";

    // What lifecycle events have made of streams. Plain ones have no row.
    put_states = "WITH states AS MATERIALIZED (SELECT q.category, q.key, q.state, \
            CASE q.tags WHEN '[]' THEN '{}' ELSE ARRAY(SELECT jsonb_array_elements_text(q.tags::jsonb)) END AS tags, \
            q.state = 'live' AND q.tags = '[]' AS plain \
          FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS q(category, key, state, tags)), \
        gone AS (DELETE FROM {s}.stream_state t WHERE t.ctid = ANY (ARRAY(SELECT d.ctid FROM states q \
          CROSS JOIN LATERAL (SELECT x.ctid FROM {s}.stream_state x \
            WHERE x.category = q.category AND x.key = q.key LIMIT 1) d WHERE q.plain))) \
        INSERT INTO {s}.stream_state AS t (category, key, state, tags) \
        SELECT q.category, q.key, q.state, q.tags FROM states q WHERE NOT q.plain \
        ON CONFLICT (category, key) DO UPDATE SET state = excluded.state, tags = excluded.tags";

    // What a chunk of an import needs to know. Its ids can be stored only up to the largest stored.
    import_facts = concat!("SELECT coalesce(h.position, 0), h.recorded_at, clock_timestamp(), \
        ", streams!(), ", \
        (SELECT json_agg(json_build_array(t.id, t.position, t.category, t.key, t.name)) \
          FROM unnest($3::uuid[]) AS q(id) \
          CROSS JOIN LATERAL (SELECT * FROM {s}.event t WHERE t.id = q.id LIMIT 1) t \
          WHERE q.id <= (SELECT e.id FROM {s}.event e ORDER BY e.id DESC LIMIT 1)) \
        FROM (SELECT 1) AS one LEFT JOIN LATERAL \
          (SELECT e.position, e.recorded_at FROM {s}.event e ORDER BY e.position DESC LIMIT 1) h ON true");

    import_events = concat!("COPY {s}.event (", import_columns!(), ") FROM STDIN (FORMAT binary)");

    notify = "SELECT pg_notify({channel}, $1)";

    erase = "SELECT {s}.erase_v1($1, $2)";

    // By their owners, of whom each has few. A join with the table could be planned the wrong way round.
    remove_values = "WITH gone AS MATERIALIZED (SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) \
          AS q(scope, value, category, key)), \
        claims AS (DELETE FROM {s}.claim c WHERE c.ctid = ANY (ARRAY(SELECT t.ctid FROM gone q \
          CROSS JOIN LATERAL (SELECT x.ctid, x.value FROM {s}.claim x \
            WHERE x.category = q.category AND x.key = q.key AND x.scope = q.scope OFFSET 0) t \
          WHERE q.value IS NULL OR t.value = q.value))) \
        DELETE FROM {s}.entry e WHERE e.ctid = ANY (ARRAY(SELECT t.ctid FROM gone q \
          CROSS JOIN LATERAL (SELECT x.ctid, x.value FROM {s}.entry x \
            WHERE x.category = q.category AND x.key = q.key AND x.scope = q.scope OFFSET 0) t \
          WHERE q.value IS NULL OR t.value = q.value))";

    take_claims = "INSERT INTO {s}.claim AS t (scope, value, category, key) \
        SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) \
        ON CONFLICT (scope, value) DO UPDATE SET category = excluded.category, key = excluded.key \
          WHERE t.category <> excluded.category OR t.key <> excluded.key";

    make_entries = "INSERT INTO {s}.entry (scope, value, category, key) \
        SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) \
        ON CONFLICT (scope, value, category, key) DO NOTHING";

    // Each part comes in order and bounded, so the sum is.
    values = "(SELECT t.value, t.category, t.key, true FROM {s}.claim t \
          WHERE t.scope = $1 AND t.value >= $2 AND t.value < $3 AND (t.value, t.category, t.key) > ($4, $5, $6) \
          ORDER BY t.scope, t.value LIMIT $7) \
        UNION ALL (SELECT t.value, t.category, t.key, false FROM {s}.entry t \
          WHERE t.scope = $1 AND t.value >= $2 AND t.value < $3 AND (t.value, t.category, t.key) > ($4, $5, $6) \
          ORDER BY t.scope, t.value, t.category, t.key LIMIT $7) \
        ORDER BY 1, 2, 3, 4 LIMIT $7";

    values_of = "(SELECT t.value, t.category, t.key, true FROM {s}.claim t \
          WHERE t.category = $2 AND t.key = $3 AND t.scope = $1 AND t.value > $4) \
        UNION ALL (SELECT t.value, t.category, t.key, false FROM {s}.entry t \
          WHERE t.category = $2 AND t.key = $3 AND t.scope = $1 AND t.value > $4) \
        ORDER BY 1, 4 LIMIT $5";

    // Who holds the lock of the log, a session or a prepared transaction, and how many wait for it.
    lock_holder = "WITH locks AS (SELECT * FROM pg_locks l \
          WHERE l.locktype = 'advisory' AND l.objsubid = 1 \
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
            AND l.classid = (({lock} >> 32) & 4294967295)::oid AND l.objid = ({lock} & 4294967295)::oid) \
        SELECT l.pid, a.application_name, a.state, p.gid, \
          (extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared)) * 1000000)::bigint, \
          (SELECT count(*) FROM locks w WHERE NOT w.granted) \
        FROM locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid \
        LEFT JOIN pg_locks x ON l.pid IS NULL AND x.pid IS NULL \
          AND x.virtualtransaction = l.virtualtransaction AND x.locktype = 'transactionid' \
        LEFT JOIN pg_prepared_xacts p ON p.transaction = x.transactionid \
        WHERE l.granted LIMIT 1";

    // The first events of a stream; behind the columns of each, or of none, the end of the log.
    load = concat!("SELECT 1::bigint, f.*, h.position, h.id \
        FROM (SELECT e.position, e.id FROM {s}.event e ORDER BY e.position DESC LIMIT 1) h \
        LEFT JOIN LATERAL (SELECT ", event!(), " FROM {s}.event e \
          WHERE e.category = $1 AND e.key = $2 AND e.version >= $3 AND e.version <= $4 \
          ORDER BY e.version LIMIT $5) f ON true");

    // Those behind the event at $6, which is their proof, as number -1, and the end of the log, as
    // number 0. A page begins where the one before ended: that event tells the version; it is found by
    // its position, not by going through its stream, hence the CASE. `+ 0`: the index of positions is
    // no way to them in the order of versions.
    load_on = concat!("(SELECT 1::bigint, ", event!(), " FROM {s}.event e \
          WHERE e.category = $1 AND e.key = $2 AND e.version >= $3 AND e.version <= $4 \
            AND e.position + 0 > $6 AND e.version > coalesce((SELECT CASE WHEN b.category = $1 AND b.key = $2 THEN b.version END \
              FROM {s}.event b WHERE b.position = $6), 0) \
          ORDER BY e.version LIMIT $5) \
        UNION ALL (SELECT -1, e.position, '', '', 0, e.id, '', 0, NULL, NULL, '{}', e.recorded_at, NULL, NULL \
          FROM {s}.event e WHERE e.position = $6 LIMIT 1) UNION ALL ", end!());

    // All that lies behind a position near the end of the log, and the event there. The last row is
    // the end, unless there are more.
    tail = concat!("SELECT e.position, ", event!(), " FROM {s}.event e WHERE e.position >= $1 \
        ORDER BY e.position LIMIT ", near!());

    // The same anywhere in the log, with where it ends.
    run = concat!("SELECT (SELECT max(h.position) FROM {s}.event h), ", event!(), " FROM {s}.event e \
        WHERE e.position >= $1 ORDER BY e.position LIMIT $2");

    // The first events of streams, by number, and the end of the log, as number 0.
    load_many = concat!("SELECT q.n, f.* FROM unnest((SELECT $1::text[]), (SELECT $2::text[]), \
            (SELECT $3::bigint[]), (SELECT $4::bigint[]), (SELECT $5::bigint[])) \
          WITH ORDINALITY AS q(category, key, low, high, rows, n) \
        CROSS JOIN LATERAL (SELECT ", event!(), " FROM {s}.event e \
          WHERE e.category = q.category AND e.key = q.key AND e.version >= q.low AND e.version <= q.high \
          ORDER BY e.version LIMIT q.rows) f UNION ALL ", end!());

    head = "SELECT coalesce(max(e.position), 0) FROM {s}.event e";

    positions_at = "SELECT {s}.position_at_v1($1), {s}.position_at_v1($2)";

    // Where an event is, and what became of the transaction that appended it.
    pending = "SELECT (SELECT e.position FROM {s}.event e WHERE e.id = $1), \
        pg_xact_status($2::text::xid8)";

    save_snapshot = "SELECT {s}.save_snapshot_v1($1, $2, $3, $4, $5, $6::text::jsonb)";

    latest_snapshot = "SELECT t.version, t.event_id, t.shape, t.state::text FROM {s}.snapshot t \
        WHERE t.category = $1 AND t.key = $2 AND t.version <= $3 ORDER BY t.version DESC LIMIT 1";

    delete_snapshots = "DELETE FROM {s}.snapshot t WHERE t.category = $1 AND t.key = $2";

    progress = "SELECT t.projection, t.position, t.event_id, t.epoch FROM {s}.progress t \
        WHERE $1::text IS NULL OR t.projection = $1 ORDER BY t.projection";

    beat = "SELECT t.name_, t.position_, t.event_id_, t.epoch_, t.paused_, t.leads_, t.term_, t.trouble_, t.orders_, \
          t.leader_, t.leader_origin_, t.next_position_, t.next_event_id_, t.next_epoch_ \
        FROM {s}.beat_v1($1, $2, $3, $4 * interval '1 microsecond', $5::jsonb, $6::jsonb) t";

    // Replicas that have fallen silent go by the way.
    leave = "WITH gone AS (DELETE FROM {s}.replica r WHERE r.owner = $1 OR r.until < clock_timestamp() - interval '1 day') \
        UPDATE {s}.projection p SET owner = NULL, leased_until = NULL WHERE p.owner = $1";

    projections = "SELECT p.name, coalesce(t.position, 0), \
          coalesce(t.event_id, '00000000-0000-0000-0000-000000000000'), coalesce(t.epoch, 0), p.paused, p.reason, \
          p.reached, p.head, p.behind_since, p.seen_at, \
          CASE WHEN l.led THEN p.state ELSE 'idle' END, CASE WHEN l.led THEN p.rate ELSE 0 END, \
          CASE WHEN l.led THEN p.process END, n.position, n.event_id, n.epoch, o.position, o.event_id, o.epoch, \
          CASE WHEN l.led THEN p.rebuild_state END, p.rebuild_reason, p.rebuild_reached, p.rebuild_rate \
        FROM {s}.projection p LEFT JOIN {s}.progress t ON t.projection = p.name \
        LEFT JOIN {s}.progress n ON n.projection = split_part(p.name, '~', 1) || '~next' \
        LEFT JOIN {s}.progress o ON o.projection = p.name || '~previous' \
        CROSS JOIN LATERAL (SELECT coalesce(p.leased_until > clock_timestamp(), false) AS led) l ORDER BY p.name";

    // A pause and its end hold from now on; answered orders are kept for a day.
    order = "WITH known AS (UPDATE {s}.projection p \
          SET paused = CASE $2 WHEN 'pause' THEN true WHEN 'resume' THEN false ELSE p.paused END \
          WHERE p.name = $1 RETURNING p.name), \
        gone AS (DELETE FROM {s}.projection_order o WHERE o.given_at < clock_timestamp() - interval '1 day') \
        INSERT INTO {s}.projection_order (projection, kind, argument) SELECT k.name, $2, $3 FROM known k RETURNING id";

    order_outcome = "SELECT o.answered_at IS NOT NULL, o.process, o.failure, o.note FROM {s}.projection_order o WHERE o.id = $1";

    // Says what had become of it.
    withdraw_order = "WITH gone AS (DELETE FROM {s}.projection_order o WHERE o.id = $1 AND o.answered_at IS NULL) \
        SELECT o.answered_at IS NOT NULL, o.process, o.failure, o.note FROM {s}.projection_order o WHERE o.id = $1";

    // All parts and read models of a projection, locked. No name of a projection holds a `~`.
    parts = "SELECT t.projection, t.position, t.event_id, t.epoch FROM {s}.progress t \
        WHERE t.projection = $1 OR starts_with(t.projection, $1 || '~') ORDER BY t.projection FOR UPDATE";

    put_progress = "INSERT INTO {s}.progress AS t (projection, position, event_id, epoch) VALUES ($1, $2, $3, $4) \
        ON CONFLICT (projection) DO UPDATE \
        SET position = excluded.position, event_id = excluded.event_id, epoch = excluded.epoch";

    remove_progress = "DELETE FROM {s}.progress t WHERE t.projection = $1";

    // Collections change their projection and the end of their name: $1 and $2 before, $3 and $4 after.
    rename_collections = "UPDATE {s}.collection t SET projection = $3, \
          name = left(t.name, length(t.name) - length($2)) || $4 WHERE t.projection = $1";

    rename_letters = "UPDATE {s}.dead_letter t SET projection = $2 WHERE t.projection = $1";

    // A collection of $1, whose names end with $2, that has the name of another projection's.
    taken_collection = "SELECT l.name FROM {s}.collection c \
        JOIN {s}.collection l ON l.name = left(c.name, length(c.name) - length($2)) \
        WHERE c.projection = $1 AND l.projection <> $3 LIMIT 1";

    settle = concat!("SELECT ", settings!());

    // Where inline projections are: progress, pause, and whether there may be parked keys.
    inline_places = "SELECT q.name, coalesce(t.position, 0), \
          coalesce(t.event_id, '00000000-0000-0000-0000-000000000000'), coalesce(t.epoch, 0), \
          coalesce(p.paused, false), d.projection IS NOT NULL \
        FROM unnest($1::text[]) AS q(name) \
        LEFT JOIN LATERAL (SELECT * FROM {s}.progress t WHERE t.projection = q.name LIMIT 1) t ON true \
        LEFT JOIN LATERAL (SELECT p.paused FROM {s}.projection p WHERE p.name = q.name LIMIT 1) p ON true \
        LEFT JOIN LATERAL (SELECT d.projection FROM {s}.dead_letter d WHERE d.projection = q.name LIMIT 1) d ON true";

    // The statements of the user are planned as in any session.
    unsettle = "SET LOCAL enable_seqscan TO DEFAULT; SET LOCAL enable_hashjoin TO DEFAULT; \
        SET LOCAL enable_mergejoin TO DEFAULT; SET LOCAL plan_cache_mode TO DEFAULT; SET LOCAL jit TO DEFAULT";

    // The first step of a projection: its row may not be there yet.
    first_step = "INSERT INTO {s}.progress AS t (projection, position, event_id, epoch) \
        VALUES ($1, $2, $3, $4) ON CONFLICT (projection) DO UPDATE \
        SET position = excluded.position, event_id = excluded.event_id, epoch = excluded.epoch \
        WHERE t.position = $5 AND t.event_id = $6 AND t.epoch = $7";

    step = "UPDATE {s}.progress t SET position = $2, event_id = $3, epoch = $4 \
        WHERE t.projection = $1 AND t.position = $5 AND t.event_id = $6 AND t.epoch = $7";

    // The owners are locked by now: an erasure that comes later finds these letters.
    put_letters = "INSERT INTO {s}.dead_letter \
          (projection, position, event_id, name, category, stream_key, key, reason, attempts, at, parked) \
        SELECT $1, q.* FROM unnest($2::bigint[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], \
          $8::text[], $9::int[], $10::timestamptz[], $11::boolean[]) \
          AS q(position, event_id, name, category, stream_key, key, reason, attempts, at, parked) \
        LEFT JOIN LATERAL (SELECT e.erased_at FROM {s}.event e WHERE e.position = q.position LIMIT 1) e ON true \
        WHERE e.erased_at IS NULL \
        ON CONFLICT (projection, position) DO UPDATE SET event_id = excluded.event_id, name = excluded.name, \
          category = excluded.category, stream_key = excluded.stream_key, key = excluded.key, \
          reason = excluded.reason, attempts = excluded.attempts, at = excluded.at, parked = excluded.parked";

    remove_letters = "DELETE FROM {s}.dead_letter t WHERE t.ctid = ANY (ARRAY(SELECT d.ctid \
        FROM unnest($2::bigint[]) AS q(position) CROSS JOIN LATERAL (SELECT x.ctid FROM {s}.dead_letter x \
          WHERE x.projection = $1 AND x.position = q.position LIMIT 1) d))";

    rewind_letters = "DELETE FROM {s}.dead_letter t WHERE t.projection = $1 AND t.position > $2";

    empty_letters = "DELETE FROM {s}.dead_letter t WHERE t.projection = $1";

    letters = "SELECT t.projection, t.position, t.event_id, t.name, t.category, t.stream_key, t.key, t.reason, \
          t.attempts, t.at, t.parked FROM {s}.dead_letter t \
        WHERE t.projection = $1 AND t.position > $2 ORDER BY t.position LIMIT $3";

    letters_of_key = "SELECT t.projection, t.position, t.event_id, t.name, t.category, t.stream_key, t.key, t.reason, \
          t.attempts, t.at, t.parked FROM {s}.dead_letter t \
        WHERE t.projection = $1 AND t.key = $4 AND t.position > $2 ORDER BY t.key, t.position LIMIT $3";

    count_letters = "SELECT count(*), count(DISTINCT t.key) FILTER (WHERE t.parked) FROM {s}.dead_letter t \
        WHERE t.projection = $1";

    parked_keys = "SELECT q.key FROM unnest($2::text[]) AS q(key) \
        CROSS JOIN LATERAL (SELECT FROM {s}.dead_letter t \
          WHERE t.projection = $1 AND t.key = q.key AND t.parked LIMIT 1) t";

    empty_collections = "WITH gone AS \
          (DELETE FROM {s}.collection t WHERE t.projection = $1 RETURNING t.generation), \
        entries AS (DELETE FROM {s}.document_index i USING gone WHERE i.generation = gone.generation) \
        DELETE FROM {s}.document d USING gone WHERE d.generation = gone.generation";

    make_collections = "INSERT INTO {s}.collection (name, projection) \
        SELECT q.name, $2 FROM unnest($1::text[]) AS q(name) \
        WHERE NOT EXISTS (SELECT FROM {s}.collection t WHERE t.name = q.name) \
        ORDER BY q.name ON CONFLICT (name) DO NOTHING";

    lock_owners = "SELECT t.category_, t.key_ FROM {s}.lock_owners_v1($1, $2) t";

    put_documents = "INSERT INTO {s}.document AS d (generation, key, body, owner_category, owner_key) \
        SELECT c.generation, q.key, q.body::jsonb, q.owner_category, q.owner_key \
        FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) \
          AS q(collection, key, body, owner_category, owner_key) \
        JOIN {s}.collection c ON c.name = q.collection \
        ORDER BY c.generation, q.key \
        ON CONFLICT (generation, key) DO UPDATE SET body = excluded.body, \
          owner_category = excluded.owner_category, owner_key = excluded.owner_key";

    // OFFSET 0: as one relation the keys meet the index with all its columns.
    delete_documents = "DELETE FROM {s}.document d USING (SELECT c.generation, q.key \
          FROM unnest($1::text[], $2::text[]) AS q(collection, key) \
          JOIN {s}.collection c ON c.name = q.collection OFFSET 0) q \
        WHERE d.generation = q.generation AND d.key = q.key";

    // $1, $2: the documents written or deleted; $3 …: all index entries that they have now. Joined
    // with the documents, the table might be read whole; its entries never change, so ctid serves.
    index_documents = "WITH entries AS MATERIALIZED (SELECT c.generation, q.key, q.field, q.value \
          FROM unnest($3::text[], $4::text[], $5::text[], $6::text[]) AS q(collection, key, field, value) \
          JOIN {s}.collection c ON c.name = q.collection), \
        gone AS (DELETE FROM {s}.document_index i WHERE i.ctid = ANY (ARRAY(SELECT t.ctid \
          FROM (SELECT c.generation, q.key FROM unnest($1::text[], $2::text[]) AS q(collection, key) \
            JOIN {s}.collection c ON c.name = q.collection OFFSET 0) q \
          CROSS JOIN LATERAL (SELECT x.ctid, x.* FROM {s}.document_index x \
            WHERE x.generation = q.generation AND x.key = q.key OFFSET 0) t \
          WHERE (t.generation, t.key, t.field, t.value) NOT IN \
            (SELECT e.generation, e.key, e.field, e.value FROM entries e)))) \
        INSERT INTO {s}.document_index (generation, field, value, key) \
        SELECT e.generation, e.field, e.value, e.key FROM entries e \
        ORDER BY e.generation, e.field, e.value, e.key ON CONFLICT DO NOTHING";

    get_documents = "SELECT q.n, d.body::text \
        FROM unnest((SELECT $1::text[]), (SELECT $2::text[])) WITH ORDINALITY AS q(collection, key, n) \
        CROSS JOIN LATERAL (SELECT t.generation FROM {s}.collection t WHERE t.name = q.collection LIMIT 1) c \
        CROSS JOIN LATERAL (SELECT t.body FROM {s}.document t \
          WHERE t.generation = c.generation AND t.key = q.key LIMIT 1) d";
}
