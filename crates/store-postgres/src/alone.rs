//! A single event is stored by a plain statement as long as nobody else appends: it takes the end of
//! the log for granted and proves it by the position of the next event, which must be free.

use backstory_event::{Checkpoint, Position};
use backstory_store_kit::EventRow;
use sqlx::{Error, PgConnection};

use crate::{
    append::{Outcomes, column, schema_version},
    error::{Class, class},
    sql::Statements,
};

/// What the writer knows of the end of the log, and how often it was right.
#[derive(Debug, Default)]
pub(crate) struct Alone {
    end: Option<Checkpoint>,
    // How many batches in a row found the log to end where it was expected to.
    right: u32,
}

impl Alone {
    /// So many: with others that append a plain statement would be in vain most of the time.
    const ENOUGH: u32 = 4;

    /// A batch was stored, or refused, and now the log ends here.
    pub(crate) fn saw(&mut self, outcomes: &Outcomes, end: Position, expected: bool) {
        let receipts = outcomes.iter().flatten().map(|receipt| receipt.checkpoint);
        self.end = receipts.rev().find(|last| last.position == end);
        self.right = if expected {
            self.right.saturating_add(1)
        } else {
            0
        };
    }

    /// True when others that append are not to be expected.
    pub(crate) fn is_proved(&self) -> bool {
        self.right >= Self::ENOUGH
    }

    /// Stores an event that was decided on the end that is known. False: it is not stored, and
    /// needs more than this.
    pub(crate) async fn store(
        &mut self,
        connection: &mut PgConnection,
        sql: &Statements,
        event: &EventRow,
        wake: bool,
    ) -> Result<bool, Error> {
        let row = &event.recorded;
        let end = self.end.filter(|end| end.position.next() == row.position);
        let Some(end) = end.filter(|_| self.is_proved()) else {
            return Ok(false);
        };
        let statement = match row.version.get() {
            1 => &sql.append_first,
            _ => &sql.append_next,
        };
        let stored = statement
            .query()
            .bind(end.position.get())
            .bind(end.event_id.as_uuid())
            .bind(row.stream.category())
            .bind(row.stream.key())
            .bind(row.version.get())
            .bind(row.id.as_uuid())
            .bind(&*row.name)
            .bind(schema_version(event))
            .bind(row.payload.as_str())
            .bind(event.metadata.as_str())
            .bind(column(&row.tags, |tag| tag.as_str()))
            .bind(wake)
            .execute(connection)
            .await;
        let stored = match stored {
            Ok(result) => result.rows_affected() == 1,
            Err(error) if class(&error) == Class::Data => false,
            Err(error) => return Err(error),
        };
        if !stored {
            self.right = 0;
        }
        Ok(stored)
    }
}
