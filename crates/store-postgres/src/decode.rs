//! Events of rows.

use std::{collections::HashMap, sync::Arc};

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
#[derive(Default)]
pub(crate) struct Decoder {
    texts: HashMap<String, Arc<str>>,
}

impl Decoder {
    fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        let new: Arc<str> = text.into();
        self.texts.insert(text.to_owned(), new.clone());
        new
    }

    /// The event of a row; nothing for the row that says only how far the log reaches.
    pub(crate) fn decode(&mut self, row: &PgRow) -> Result<Option<RecordedEvent>, StoreError> {
        let position: Option<i64> = row.try_get(1).map_err(store_error)?;
        let Some(position) = position else {
            return Ok(None);
        };
        let recorded = self
            .fields(row, Position::new(position))
            .map_err(|error| damaged(position, error))?;
        // No transform is known yet. Of an erased event nothing is left that has a form.
        let transform: Option<String> = row.try_get(13).map_err(store_error)?;
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

    /// Tags repeat, too.
    fn tags(&mut self, row: &PgRow) -> Result<Vec<Tag>, Error> {
        let value = row.try_get_raw(10)?;
        if value.format() == PgValueFormat::Text {
            let tags: Vec<String> = row.try_get(10)?;
            return Ok(tags.iter().map(|tag| Tag::stored(self.text(tag))).collect());
        }
        let bytes = value.as_bytes().map_err(Error::Decode)?;
        let texts =
            elements(bytes).ok_or_else(|| Error::Decode("a damaged list of tags".into()))?;
        Ok(texts.map(|tag| Tag::stored(self.text(tag))).collect())
    }

    fn fields(&mut self, row: &PgRow, position: Position) -> Result<Recorded, Error> {
        let category = self.text(row.try_get(2)?);
        let key: &str = row.try_get(3)?;
        let id: Uuid = row.try_get(5)?;
        let schema_version: i32 = row.try_get(7)?;
        let payload: &str = row.try_get(8)?;
        let metadata = match row.try_get(9)? {
            "{}" => Metadata::default(),
            text => serde_json::from_str(text).map_err(|error| Error::Decode(error.into()))?,
        };
        let tags = self.tags(row)?;
        Ok(Recorded {
            position,
            stream: StreamId::stored(category, key),
            version: StreamVersion::new(row.try_get(4)?),
            id: EventId::from_uuid(id),
            name: self.text(row.try_get(6)?),
            schema_version: u32::try_from(schema_version)
                .map_err(|error| Error::Decode(error.into()))?,
            payload: Payload::stored(payload),
            metadata,
            tags,
            recorded_at: row.try_get(11)?,
            erased_at: row.try_get(12)?,
        })
    }
}

/// The texts of an array in its binary form: dimensions, a flag for nulls, the type; length and
/// lower bound of each dimension; then the length of each element and its bytes.
fn elements(bytes: &[u8]) -> Option<impl Iterator<Item = &str>> {
    let (dimensions, rest) = number(bytes)?;
    let rest = rest.get(8 + 8 * dimensions..)?;
    let mut texts = Vec::new();
    let mut left = rest;
    while !left.is_empty() {
        let (length, rest) = number(left)?;
        let (text, rest) = rest.split_at_checked(length)?;
        texts.push(str::from_utf8(text).ok()?);
        left = rest;
    }
    Some(texts.into_iter())
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
