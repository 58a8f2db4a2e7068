//! A query as text, for an order.

use backstory_event::{
    Checkpoint, EventFilter, EventQuery, FilterItem, Position, StreamId, StreamVersion, Tag,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// What of a query counts for a job that runs again.
#[derive(Serialize, Deserialize)]
struct Text {
    items: Vec<Item>,
    after: Checkpoint,
    up_to: Option<Position>,
    from_version: Option<StreamVersion>,
    to_version: Option<StreamVersion>,
    since: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
}

#[derive(Serialize, Deserialize)]
struct Item {
    names: Vec<String>,
    categories: Vec<String>,
    streams: Vec<(String, String)>,
    tags: Vec<String>,
}

/// The text, which is JSON; direction and limit are not in it.
pub(super) fn write(query: &EventQuery) -> String {
    let items = query.filter.items().iter().map(|item| Item {
        names: item.get_names().iter().cloned().collect(),
        categories: item.get_categories().iter().cloned().collect(),
        streams: (item.get_streams().iter())
            .map(|stream| (stream.category().to_owned(), stream.key().to_owned()))
            .collect(),
        tags: (item.get_tags().iter())
            .map(|tag| tag.as_str().to_owned())
            .collect(),
    });
    let text = Text {
        items: items.collect(),
        after: query.after,
        up_to: query.up_to,
        from_version: query.from_version,
        to_version: query.to_version,
        since: query.since,
        until: query.until,
    };
    // Nothing of this can fail to be JSON.
    serde_json::to_string(&text).unwrap_or_default()
}

/// The query of a text; nothing when it is none.
pub(super) fn read(text: &str) -> Option<EventQuery> {
    let text: Text = serde_json::from_str(text).ok()?;
    let items = text.items.into_iter().map(|item| {
        let mut read = FilterItem::new()
            .names(item.names)
            .tags(item.tags.into_iter().map(Tag::stored));
        for category in item.categories {
            read = read.category(category);
        }
        for (category, key) in item.streams {
            read = read.stream(StreamId::stored(category, key));
        }
        read
    });
    let mut query = EventQuery::new(items.fold(EventFilter::none(), EventFilter::or));
    query.after = text.after;
    query.up_to = text.up_to;
    query.from_version = text.from_version;
    query.to_version = text.to_version;
    query.since = text.since;
    query.until = text.until;
    Some(query)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_comes_back_from_its_text() {
        let time = DateTime::from_timestamp_micros(1_700_000_000_123_456).unwrap_or_default();
        let stream = StreamId::stored("to do", "a\"b/c");
        let item = FilterItem::new()
            .names(["todo.added", "todo.done"])
            .category("todo")
            .stream(stream)
            .tag(Tag::stored("list:7"));
        let filter = EventFilter::none().or(item).or(FilterItem::new());
        let full = EventQuery::new(filter)
            .after(Position::new(3))
            .up_to(Position::new(9))
            .from_version(StreamVersion::new(2))
            .to_version(StreamVersion::new(4))
            .since(time)
            .until(time);
        for query in [full, EventQuery::new(EventFilter::none())] {
            assert_eq!(read(&write(&query)), Some(query));
        }
        assert_eq!(read("all of it"), None);
    }
}
