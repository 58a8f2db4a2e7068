//! The rows of all tables against the log: one statement a check, which gives the bad rows alone.

use backstory_event::{EventId, Payload, Position, StreamId, StreamVersion, Tag};
use backstory_store_kit::StreamRow;
use futures::TryStreamExt;
use sqlx::{AssertSqlSafe, Error, PgConnection, Row, postgres::PgRow};
use uuid::Uuid;

use super::{FindingKind, Report, Subject};
use crate::schema::Schema;

/// `{floor}` is up to where the log is trimmed.
const EVENTS: &str = "SELECT e.position, coalesce(e.before, {floor}), e.recorded_at < e.earlier, e.nil, e.transform, e.content, e.reason \
    FROM (SELECT e.position, e.recorded_at, \
        lag(e.position) OVER w AS before, lag(e.recorded_at) OVER w AS earlier, \
        e.id = '00000000-0000-0000-0000-000000000000' AS nil, \
        CASE WHEN e.erased_at IS NULL THEN e.transform END AS transform, \
        e.erased_at IS NOT NULL AND (e.payload <> '{}' OR e.metadata <> '{}' OR e.tags <> '{}') AS content, \
        CASE WHEN e.schema_version < 1 THEN 'its schema version is below 1' \
          WHEN jsonb_typeof(e.metadata) <> 'object' THEN 'its metadata is no JSON object' \
          WHEN array_position(e.tags, NULL) IS NOT NULL THEN 'one of its tags is NULL' \
          WHEN NOT isfinite(e.recorded_at) THEN 'its time is infinite' END AS reason \
      FROM {s}.event e WHERE e.position > {floor} WINDOW w AS (ORDER BY e.position)) e \
    WHERE e.position <> coalesce(e.before, {floor}) + 1 OR e.recorded_at < e.earlier OR e.nil \
      OR e.transform IS NOT NULL OR e.content OR e.reason IS NOT NULL \
    ORDER BY e.position";

const IDS: &str = "SELECT e.id, min(e.position), max(e.position) FROM {s}.event e \
    WHERE e.position > {floor} GROUP BY e.id HAVING count(*) > 1 ORDER BY 2";

// The first event behind the floor may have any version: those before it were trimmed.
const VERSIONS: &str = "SELECT e.category, e.key, e.position, e.version, e.before, e.earlier \
    FROM (SELECT e.category, e.key, e.position, e.version, \
        lag(e.version) OVER w AS before, lag(e.position) OVER w AS earlier \
      FROM {s}.event e WHERE e.position > {floor} \
      WINDOW w AS (PARTITION BY e.category, e.key ORDER BY e.version, e.position)) e \
    WHERE e.version <> e.before + 1 OR e.position < e.earlier \
      OR e.before IS NULL AND e.version <> 1 AND {floor} = 0 \
    ORDER BY e.position";

// Each stream that has or should have another state than the plain one, with its lifecycle. Of those that were trimmed it is
// not known.
const LIFECYCLES: &str = "SELECT s.category, s.key, t.state, t.tags, e.name, e.payload::text \
    FROM (SELECT e.category, e.key FROM {s}.event e WHERE e.name >= 'backstory.' AND e.name < 'backstory/' \
      UNION SELECT t.category, t.key FROM {s}.stream_state t) s \
    LEFT JOIN {s}.stream_state t ON t.category = s.category AND t.key = s.key \
    LEFT JOIN {s}.event e ON e.category = s.category AND e.key = s.key \
      AND e.name >= 'backstory.' AND e.name < 'backstory/' \
    WHERE {floor} = 0 OR EXISTS (SELECT FROM {s}.event f \
      WHERE f.category = s.category AND f.key = s.key AND f.version = 1 AND f.position > {floor}) \
    ORDER BY s.category, s.key, e.version";

const NOT_ERASED: &str = "SELECT e.position, e.category, e.key, t.version \
    FROM (SELECT e.category, e.key, max(e.version) AS version FROM {s}.event e \
      WHERE e.name = 'backstory.erased' GROUP BY e.category, e.key) t \
    JOIN {s}.event e ON e.category = t.category AND e.key = t.key AND e.version < t.version \
    WHERE e.erased_at IS NULL AND e.position > {floor} ORDER BY e.position";

const ERASED: &str = "SELECT e.position, e.category, e.key FROM {s}.event e \
    WHERE e.erased_at IS NOT NULL AND e.position > {floor} \
      AND NOT EXISTS (SELECT FROM {s}.event t WHERE t.category = e.category AND t.key = e.key \
        AND t.name = 'backstory.erased' AND t.version > e.version) \
    ORDER BY e.position";

// A nil id claims nothing.
const PROGRESS: &str = "SELECT p.projection, p.position, p.event_id, h.head, e.id, p.position < {floor} \
    FROM {s}.progress p \
    CROSS JOIN (SELECT coalesce(max(e.position), {floor}) AS head FROM {s}.event e) h \
    LEFT JOIN {s}.event e ON e.position = p.position \
    WHERE p.position > h.head OR p.position > 0 AND p.position < {floor} \
      OR p.position > {floor} AND e.id IS DISTINCT FROM p.event_id \
        AND p.event_id <> '00000000-0000-0000-0000-000000000000' \
    ORDER BY p.projection";

// Those of trimmed events stay: they stand for them.
const SNAPSHOTS: &str = "SELECT t.category, t.key, t.version, t.event_id, e.id, e.erased_at IS NOT NULL \
    FROM {s}.snapshot t \
    LEFT JOIN {s}.event e ON e.category = t.category AND e.key = t.key AND e.version = t.version \
    WHERE e.erased_at IS NOT NULL OR e.id <> t.event_id OR e.id IS NULL AND ({floor} = 0 \
      OR EXISTS (SELECT FROM {s}.event f WHERE f.category = t.category AND f.key = t.key \
        AND f.version < t.version)) \
    ORDER BY t.category, t.key, t.version";

// An owner without events may hold a claim.
const CLAIMS: &str = "SELECT t.scope, t.value, t.category, t.key FROM {s}.claim t \
    JOIN {s}.stream_state s ON s.category = t.category AND s.key = t.key AND s.state = 'erased' \
    ORDER BY t.scope, t.value";

const ENTRIES: &str = "SELECT t.scope, t.value, t.category, t.key FROM {s}.entry t \
    JOIN {s}.stream_state s ON s.category = t.category AND s.key = t.key AND s.state = 'erased' \
    ORDER BY t.scope, t.value, t.category, t.key";

const DOCUMENTS: &str = "SELECT c.name, d.key, d.owner_category, d.owner_key \
    FROM {s}.document d \
    JOIN {s}.stream_state s ON s.category = d.owner_category AND s.key = d.owner_key AND s.state = 'erased' \
    LEFT JOIN {s}.collection c ON c.generation = d.generation \
    WHERE d.owner_key IS NOT NULL ORDER BY c.name, d.key";

// Those of trimmed events stay.
const LETTERS: &str = "SELECT t.projection, t.position, t.event_id, e.id, e.erased_at IS NOT NULL \
    FROM {s}.dead_letter t LEFT JOIN {s}.event e ON e.position = t.position \
    WHERE t.position > {floor} AND (e.id IS DISTINCT FROM t.event_id OR e.erased_at IS NOT NULL) \
    ORDER BY t.projection, t.position";

/// Runs the checks inside the transaction of a connection.
#[derive(Debug)]
pub(super) struct Rows<'a> {
    pub(super) connection: &'a mut PgConnection,
    pub(super) schema: &'a Schema,
    pub(super) floor: i64,
    pub(super) report: &'a mut Report,
}

impl Rows<'_> {
    pub(super) async fn check(mut self) -> Result<(), Error> {
        self.each(EVENTS, event).await?;
        self.each(IDS, id).await?;
        self.each(VERSIONS, version).await?;
        self.lifecycles().await?;
        self.each(NOT_ERASED, not_erased).await?;
        self.each(ERASED, erased).await?;
        self.each(PROGRESS, progress).await?;
        self.each(SNAPSHOTS, snapshot).await?;
        self.each(CLAIMS, claim).await?;
        self.each(ENTRIES, entry).await?;
        self.each(DOCUMENTS, document).await?;
        self.each(LETTERS, letter).await
    }

    /// One row in memory at a time.
    async fn each(
        &mut self,
        text: &str,
        mut see: impl FnMut(&PgRow, &mut Report) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let text = self
            .schema
            .sql(&text.replace("{floor}", &self.floor.to_string()));
        let mut rows = sqlx::query(AssertSqlSafe(text))
            .persistent(false)
            .fetch(&mut *self.connection);
        while let Some(row) = rows.try_next().await? {
            see(&row, self.report)?;
        }
        Ok(())
    }

    /// State and tags of the streams, by the rules that the append goes by.
    async fn lifecycles(&mut self) -> Result<(), Error> {
        let mut current: Option<Lifecycle> = None;
        self.each(LIFECYCLES, |row, report| {
            let stream = stream_id(row, 0, 1)?;
            if current.as_ref().is_none_or(|known| known.stream != stream) {
                if let Some(complete) = current.take() {
                    complete.compare(report);
                }
                current = Some(Lifecycle {
                    stream,
                    state: row.try_get(2)?,
                    tags: row.try_get::<Option<_>, _>(3)?.unwrap_or_default(),
                    derived: StreamRow::empty(),
                });
            }
            let (name, payload): (Option<&str>, Option<&str>) = (row.try_get(4)?, row.try_get(5)?);
            if let (Some(current), Some(name)) = (&mut current, name) {
                let payload = Payload::stored(payload.unwrap_or("{}"));
                current.derived.follow(name, &payload);
            }
            Ok(())
        })
        .await?;
        if let Some(complete) = current {
            complete.compare(self.report);
        }
        Ok(())
    }
}

struct Lifecycle {
    stream: StreamId,
    // `None`: it has no row.
    state: Option<String>,
    tags: Vec<Option<String>>,
    derived: StreamRow,
}

impl Lifecycle {
    fn compare(self, report: &mut Report) {
        let expected = self.derived.state.as_str();
        let plain = StreamRow::empty();
        let plain = self.derived.state == plain.state && self.derived.tags == plain.tags;
        let subject = || Subject::Stream(self.stream.clone());
        let derived: Vec<_> = self.derived.tags.iter().map(Tag::as_str).collect();
        let tags = self.tags.iter().map(|tag| tag.as_deref());
        let stored: Vec<_> = tags.clone().map(|tag| tag.unwrap_or("NULL")).collect();
        let state = match self.state {
            None if plain => return,
            None => {
                let detail = format!("by its events it is {expected}, its tags are {derived:?}");
                return report.add(FindingKind::StateMissing, subject(), detail);
            }
            Some(state) if plain => {
                let detail = format!("it is {state} with tags {stored:?}, by its events neither");
                return report.add(FindingKind::StateSuperfluous, subject(), detail);
            }
            Some(state) => state,
        };
        if state != expected {
            let detail = format!("its state is {state}, by its events {expected}");
            report.add(FindingKind::StateDiffers, subject(), detail);
        }
        if !tags.eq(derived.iter().copied().map(Some)) {
            let detail = format!("its tags are {stored:?}, by its events {derived:?}");
            report.add(FindingKind::StateDiffers, subject(), detail);
        }
    }
}

fn stream_id(row: &PgRow, category: usize, key: usize) -> Result<StreamId, Error> {
    let (category, key): (&str, &str) = (row.try_get(category)?, row.try_get(key)?);
    Ok(StreamId::stored(category, key))
}

fn position(row: &PgRow, column: usize) -> Result<Position, Error> {
    row.try_get(column).map(Position::new)
}

fn event(row: &PgRow, report: &mut Report) -> Result<(), Error> {
    let place: i64 = row.try_get(0)?;
    let before: i64 = row.try_get(1)?;
    let mut add = |kind, detail: String| {
        report.add(kind, Subject::Event(Position::new(place)), detail);
    };
    let expected = before.saturating_add(1);
    if before == place {
        add(FindingKind::PositionRepeated, "another event has it".into());
    } else if place != expected {
        let detail = match place - 1 {
            last if last == expected => format!("position {expected} before it is missing"),
            last => format!("positions {expected} to {last} before it are missing"),
        };
        add(FindingKind::PositionGap, detail);
    }
    if row.try_get::<Option<bool>, _>(2)? == Some(true) {
        let detail = "it was recorded before the event in front of it".to_owned();
        add(FindingKind::TimeDecreased, detail);
    }
    if row.try_get(3)? {
        add(FindingKind::IdNil, "its id is nil".into());
    }
    if let Some(transform) = row.try_get::<Option<&str>, _>(4)? {
        let detail = format!("its payload is stored as `{transform}`");
        add(FindingKind::TransformUnknown, detail);
    }
    if row.try_get(5)? {
        let detail = "it is erased and has payload, metadata or tags".to_owned();
        add(FindingKind::ErasedContent, detail);
    }
    if let Some(reason) = row.try_get::<Option<&str>, _>(6)? {
        add(FindingKind::EventUnreadable, reason.to_owned());
    }
    Ok(())
}

fn id(row: &PgRow, report: &mut Report) -> Result<(), Error> {
    let id: Uuid = row.try_get(0)?;
    let detail = format!(
        "the events at positions {} and {} have it",
        position(row, 1)?,
        position(row, 2)?
    );
    let subject = Subject::Id(EventId::from_uuid(id));
    report.add(FindingKind::IdRepeated, subject, detail);
    Ok(())
}

fn version(row: &PgRow, report: &mut Report) -> Result<(), Error> {
    let (stream, place) = (stream_id(row, 0, 1)?, position(row, 2)?);
    let version: i64 = row.try_get(3)?;
    let before: Option<i64> = row.try_get(4)?;
    let earlier: Option<i64> = row.try_get(5)?;
    let mut add = |kind, detail: String| {
        let detail = format!("version {version} of stream {stream}: {detail}");
        report.add(kind, Subject::Event(place), detail);
    };
    if before == Some(version) {
        let detail = "another event of the stream has it".to_owned();
        add(FindingKind::VersionRepeated, detail);
    } else if version != before.unwrap_or(0).saturating_add(1) {
        let detail = match before {
            Some(before) => format!("the version before it is {before}"),
            None => "it is the first one of the stream".to_owned(),
        };
        add(FindingKind::VersionGap, detail);
    }
    if let Some(earlier) = earlier.filter(|earlier| *earlier > place.get()) {
        let detail = format!("the version before it is at position {earlier}");
        add(FindingKind::VersionDisordered, detail);
    }
    Ok(())
}

fn not_erased(row: &PgRow, report: &mut Report) -> Result<(), Error> {
    let version: i64 = row.try_get(3)?;
    let detail = format!(
        "stream {} was erased at version {version}",
        stream_id(row, 1, 2)?
    );
    let subject = Subject::Event(position(row, 0)?);
    report.add(FindingKind::NotErased, subject, detail);
    Ok(())
}

fn erased(row: &PgRow, report: &mut Report) -> Result<(), Error> {
    let detail = format!(
        "no later event of stream {} is `backstory.erased`",
        stream_id(row, 1, 2)?
    );
    let subject = Subject::Event(position(row, 0)?);
    report.add(FindingKind::ErasedWithoutCause, subject, detail);
    Ok(())
}

fn progress(row: &PgRow, report: &mut Report) -> Result<(), Error> {
    let subject = Subject::Projection(row.try_get(0)?);
    let (place, head): (i64, i64) = (row.try_get(1)?, row.try_get(3)?);
    let (expected, found): (Uuid, Option<Uuid>) = (row.try_get(2)?, row.try_get(4)?);
    if place > head {
        let detail = format!("it is at position {place}, the log ends at {head}");
        report.add(FindingKind::ProgressBeyondLog, subject, detail);
    } else if row.try_get(5)? {
        let detail = format!("it is at position {place}, events behind it were trimmed");
        report.add(FindingKind::ProgressTrimmed, subject, detail);
    } else {
        let found = found.map_or_else(|| "nothing".to_owned(), |found| found.to_string());
        let detail = format!("at position {place} it saw {expected}, the log holds {found}");
        report.add(FindingKind::ProgressDiverged, subject, detail);
    }
    Ok(())
}

fn snapshot(row: &PgRow, report: &mut Report) -> Result<(), Error> {
    let stream = stream_id(row, 0, 1)?;
    let version = StreamVersion::new(row.try_get(2)?);
    let subject = Subject::Snapshot { stream, version };
    let (expected, found): (Uuid, Option<Uuid>) = (row.try_get(3)?, row.try_get(4)?);
    if found == Some(expected) {
        let detail = "the event is erased".to_owned();
        report.add(FindingKind::SnapshotErased, subject, detail);
    } else {
        let found = found.map_or_else(|| "nothing".to_owned(), |found| found.to_string());
        let detail = format!("it was taken at event {expected}, the log holds {found}");
        report.add(FindingKind::SnapshotDiverged, subject, detail);
    }
    Ok(())
}

fn claim(row: &PgRow, report: &mut Report) -> Result<(), Error> {
    let (scope, value) = (row.try_get(0)?, row.try_get(1)?);
    let detail = format!("its owner {} is erased", stream_id(row, 2, 3)?);
    let subject = Subject::Claim { scope, value };
    report.add(FindingKind::ClaimOfErased, subject, detail);
    Ok(())
}

fn entry(row: &PgRow, report: &mut Report) -> Result<(), Error> {
    let (scope, value) = (row.try_get(0)?, row.try_get(1)?);
    let owner = stream_id(row, 2, 3)?;
    let detail = format!("its owner {owner} is erased");
    let subject = Subject::Entry {
        scope,
        value,
        owner,
    };
    report.add(FindingKind::EntryOfErased, subject, detail);
    Ok(())
}

fn document(row: &PgRow, report: &mut Report) -> Result<(), Error> {
    let (collection, key) = (row.try_get(0)?, row.try_get(1)?);
    let detail = format!("its owner {} is erased", stream_id(row, 2, 3)?);
    let subject = Subject::Document { collection, key };
    report.add(FindingKind::DocumentOfErased, subject, detail);
    Ok(())
}

fn letter(row: &PgRow, report: &mut Report) -> Result<(), Error> {
    let subject = Subject::DeadLetter {
        projection: row.try_get(0)?,
        position: position(row, 1)?,
    };
    let (expected, found): (Uuid, Option<Uuid>) = (row.try_get(2)?, row.try_get(3)?);
    if found == Some(expected) {
        let detail = "the event is erased".to_owned();
        report.add(FindingKind::LetterOfErased, subject, detail);
    } else {
        let found = found.map_or_else(|| "nothing".to_owned(), |found| found.to_string());
        let detail = format!("it is of event {expected}, the log holds {found} there");
        report.add(FindingKind::LetterDiverged, subject, detail);
    }
    Ok(())
}
