//! Which events somebody means: pure, the same in memory and in SQL.

use std::collections::BTreeSet;

use crate::{DecodeEvent, RecordedEvent, StreamId, Tag};

/// Which events somebody means: any of its items.
///
/// An item means events with **any** of its names, **any** of its categories or streams, and
/// **all** of its tags; what an item does not name does not restrict it. A filter without items
/// means nothing, [`EventFilter::all`] means everything.
///
/// ```
/// use backstory_event::{EventFilter, FilterItem, Tag};
///
/// let filter = EventFilter::all(); // every event
/// let filter = EventFilter::category("todo").or(FilterItem::new().name("list.opened"));
/// assert!(EventFilter::all().covers(&filter));
/// ```
#[derive(Debug, Default, Clone, PartialEq, Eq, Hash)]
pub struct EventFilter {
    items: Vec<FilterItem>,
}

/// One alternative of an [`EventFilter`].
#[derive(Debug, Default, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilterItem {
    names: BTreeSet<String>,
    categories: BTreeSet<String>,
    streams: BTreeSet<StreamId>,
    tags: BTreeSet<Tag>,
}

impl FilterItem {
    /// An item that means every event.
    pub fn new() -> Self {
        Self::default()
    }

    /// Also this stored name. See [`EventFilter::named`] for names that were renamed.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.names.insert(name.into());
        self
    }

    /// Also these stored names.
    #[must_use]
    pub fn names(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.names.extend(names.into_iter().map(Into::into));
        self
    }

    /// Also events of this category.
    #[must_use]
    pub fn category(mut self, category: impl Into<String>) -> Self {
        self.categories.insert(category.into());
        self
    }

    /// Also events of this stream.
    #[must_use]
    pub fn stream(mut self, stream: StreamId) -> Self {
        self.streams.insert(stream);
        self
    }

    /// Only events that also have this tag.
    #[must_use]
    pub fn tag(mut self, tag: Tag) -> Self {
        self.tags.insert(tag);
        self
    }

    /// Only events that also have these tags.
    #[must_use]
    pub fn tags(mut self, tags: impl IntoIterator<Item = Tag>) -> Self {
        self.tags.extend(tags);
        self
    }

    /// The names, any of which; none: every name.
    pub fn get_names(&self) -> &BTreeSet<String> {
        &self.names
    }

    /// The categories, any of which or of the streams; none of both: every stream.
    pub fn get_categories(&self) -> &BTreeSet<String> {
        &self.categories
    }

    /// The streams, any of which or of the categories.
    pub fn get_streams(&self) -> &BTreeSet<StreamId> {
        &self.streams
    }

    /// The tags, all of which.
    pub fn get_tags(&self) -> &BTreeSet<Tag> {
        &self.tags
    }

    /// True when the item means an event with these properties.
    pub fn matches_parts(&self, name: &str, stream: &StreamId, tags: &[Tag]) -> bool {
        (self.names.is_empty() || self.names.contains(name))
            && (self.everywhere()
                || self.categories.contains(stream.category())
                || self.streams.contains(stream))
            && self.tags.iter().all(|tag| tags.contains(tag))
    }

    /// True when it restricts nothing.
    pub fn is_all(&self) -> bool {
        self.names.is_empty() && self.everywhere() && self.tags.is_empty()
    }

    fn everywhere(&self) -> bool {
        self.categories.is_empty() && self.streams.is_empty()
    }

    /// True when this item means at least all that the other means.
    fn covers(&self, other: &Self) -> bool {
        let names = self.names.is_empty()
            || (!other.names.is_empty() && other.names.is_subset(&self.names));
        let places = self.everywhere()
            || (!other.everywhere()
                && other.categories.is_subset(&self.categories)
                && other.streams.iter().all(|stream| {
                    self.streams.contains(stream) || self.categories.contains(stream.category())
                }));
        names && places && self.tags.is_subset(&other.tags)
    }
}

impl EventFilter {
    /// Every event.
    pub fn all() -> Self {
        FilterItem::new().into()
    }

    /// No event.
    pub fn none() -> Self {
        Self::default()
    }

    /// The events that `E` decodes, under all names they were ever stored with.
    pub fn of<E: DecodeEvent>() -> Self {
        FilterItem::new().names(E::stored_names()).into()
    }

    /// Events of `E` with these current names, under all names they were ever stored with.
    pub fn named<E: DecodeEvent>(names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let names = names.into_iter().map(Into::into).collect();
        FilterItem::new().names(E::stored_as(names)).into()
    }

    /// Events of a category.
    pub fn category(category: impl Into<String>) -> Self {
        FilterItem::new().category(category).into()
    }

    /// Events of a stream.
    pub fn stream(stream: StreamId) -> Self {
        FilterItem::new().stream(stream).into()
    }

    /// Events with a tag.
    pub fn tag(tag: Tag) -> Self {
        FilterItem::new().tag(tag).into()
    }

    /// Also what the item means.
    #[must_use]
    pub fn or(mut self, item: FilterItem) -> Self {
        self.push(item);
        self
    }

    /// What one or the other filter means.
    #[must_use]
    pub fn merge(mut self, other: &Self) -> Self {
        for item in &other.items {
            self.push(item.clone());
        }
        self
    }

    /// Each alternative restricted to events that also have this tag.
    #[must_use]
    pub fn and_tag(mut self, tag: &Tag) -> Self {
        for item in &mut self.items {
            item.tags.insert(tag.clone());
        }
        self
    }

    /// The alternatives.
    pub fn items(&self) -> &[FilterItem] {
        &self.items
    }

    /// True when it means the event.
    pub fn matches(&self, event: &RecordedEvent) -> bool {
        self.matches_parts(event.name(), event.stream(), event.tags())
    }

    /// True when it means an event with these properties.
    pub fn matches_parts(&self, name: &str, stream: &StreamId, tags: &[Tag]) -> bool {
        self.items
            .iter()
            .any(|item| item.matches_parts(name, stream, tags))
    }

    /// True when it surely means at least all that the other means.
    pub fn covers(&self, other: &Self) -> bool {
        other
            .items
            .iter()
            .all(|theirs| self.items.iter().any(|ours| ours.covers(theirs)))
    }

    /// True when it means every event.
    pub fn is_all(&self) -> bool {
        self.items.iter().any(FilterItem::is_all)
    }

    fn push(&mut self, item: FilterItem) {
        if !self.items.iter().any(|ours| ours.covers(&item)) {
            self.items.retain(|ours| !item.covers(ours));
            self.items.push(item);
        }
    }
}

impl From<FilterItem> for EventFilter {
    fn from(item: FilterItem) -> Self {
        Self { items: vec![item] }
    }
}

impl FromIterator<FilterItem> for EventFilter {
    fn from_iter<I: IntoIterator<Item = FilterItem>>(items: I) -> Self {
        items.into_iter().fold(Self::none(), Self::or)
    }
}
