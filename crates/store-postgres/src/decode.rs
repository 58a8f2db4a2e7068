//! Events of rows.

use std::{collections::HashSet, sync::Arc};

use backstory_event::{
    EventId, Metadata, Payload, Position, Recorded, RecordedEvent, StoreError, StoreErrorKind,
    StreamId, StreamVersion, Tag,
};
use sqlx::{
    Error, Row,
    postgres::{PgRow, PgValueFormat},
};
use uuid::Uuid;

use crate::error::store_error;

/// Makes events of rows. Texts that repeat within a page are kept once.
///
/// The types of the columns are not asked for: the statements that it reads name them.
#[derive(Default)]
pub(crate) struct Decoder {
    texts: HashSet<Arc<str>>,
    // Of the row before: mostly they are the same again.
    category: Arc<str>,
    key: Arc<str>,
    name: Arc<str>,
}

impl Decoder {
    fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        let new: Arc<str> = text.into();
        self.texts.insert(new.clone());
        new
    }

    /// The event of a row; nothing for the row that says only how far the log reaches.
    pub(crate) fn decode(&mut self, row: &PgRow) -> Result<Option<RecordedEvent>, StoreError> {
        let position: Option<i64> = row.try_get_unchecked(1).map_err(store_error)?;
        let Some(position) = position else {
            return Ok(None);
        };
        let recorded = self
            .fields(row, Position::new(position))
            .map_err(|error| damaged(position, error))?;
        // No transform is known yet. Of an erased event nothing is left that has a form.
        let transform: Option<String> = row.try_get_unchecked(13).map_err(store_error)?;
        match transform {
            Some(transform) if recorded.erased_at.is_none() => {
                Err(StoreError::new(StoreErrorKind::UnknownTransform {
                    position: recorded.position,
                    event_id: recorded.id,
                    transform,
                }))
            }
            _ => Ok(Some(RecordedEvent::new(recorded))),
        }
    }

    fn tags(&mut self, row: &PgRow) -> Result<Vec<Tag>, Error> {
        let value = row.try_get_raw(10)?;
        if value.format() == PgValueFormat::Text {
            let tags: Vec<String> = row.try_get_unchecked(10)?;
            return Ok(tags.iter().map(|tag| Tag::stored(self.text(tag))).collect());
        }
        let bytes = value.as_bytes().map_err(Error::Decode)?;
        let mut tags = Vec::new();
        each_element(bytes, |tag| tags.push(Tag::stored(self.text(tag))))
            .ok_or_else(|| Error::Decode("a damaged list of tags".into()))?;
        Ok(tags)
    }

    fn fields(&mut self, row: &PgRow, position: Position) -> Result<Recorded, Error> {
        let category: &str = row.try_get_unchecked(2)?;
        if *self.category != *category {
            self.category = self.text(category);
        }
        let key: &str = row.try_get_unchecked(3)?;
        if *self.key != *key {
            self.key = key.into();
        }
        let id: Uuid = row.try_get_unchecked(5)?;
        let name: &str = row.try_get_unchecked(6)?;
        if *self.name != *name {
            self.name = self.text(name);
        }
        let schema_version: i32 = row.try_get_unchecked(7)?;
        let payload = json(row, 8)?;
        let metadata = match json(row, 9)? {
            "{}" => Metadata::default(),
            text => serde_json::from_str(text).map_err(|error| Error::Decode(error.into()))?,
        };
        let tags = self.tags(row)?;
        Ok(Recorded {
            position,
            stream: StreamId::stored(self.category.clone(), self.key.clone()),
            version: StreamVersion::new(row.try_get_unchecked(4)?),
            id: EventId::from_uuid(id),
            name: self.name.clone(),
            schema_version: u32::try_from(schema_version)
                .map_err(|error| Error::Decode(error.into()))?,
            payload: Payload::stored(payload),
            metadata,
            tags,
            recorded_at: row.try_get_unchecked(11)?,
            erased_at: row.try_get_unchecked(12)?,
        })
    }
}

/// The text of a `jsonb`. In its binary form it stands behind a version.
fn json(row: &PgRow, column: usize) -> Result<&str, Error> {
    let value = row.try_get_raw(column)?;
    match value.format() {
        PgValueFormat::Text => value.as_str().map_err(Error::Decode),
        PgValueFormat::Binary => match value.as_bytes().map_err(Error::Decode)? {
            [1, text @ ..] => str::from_utf8(text).map_err(|error| Error::Decode(error.into())),
            _ => Err(Error::Decode("an unknown form of jsonb".into())),
        },
    }
}

/// Takes the texts of an array in its binary form: dimensions, a flag for nulls, the type; length
/// and lower bound of each dimension; then the length of each element and its bytes.
fn each_element<'a>(bytes: &'a [u8], mut take: impl FnMut(&'a str)) -> Option<()> {
    let (dimensions, rest) = number(bytes)?;
    let mut left = rest.get(8 + 8 * dimensions..)?;
    while !left.is_empty() {
        let (length, rest) = number(left)?;
        let (text, rest) = rest.split_at_checked(length)?;
        take(str::from_utf8(text).ok()?);
        left = rest;
    }
    Some(())
}

fn number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    let number = usize::try_from(i32::from_be_bytes(*number)).ok()?;
    Some((number, rest))
}

fn damaged(position: i64, error: Error) -> StoreError {
    StoreError::new(StoreErrorKind::Corrupt {
        reason: format!("the event at position {position} cannot be read"),
    })
    .with_source(error)
}
