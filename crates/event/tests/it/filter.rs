//! The algebra of filters, over every event of a small world.

use backstory_event::{EventFilter, FilterItem, NewEvent, Payload, RecordedEvent, StreamId, Tag};
use proptest::{prelude::*, sample::subsequence};

use crate::recorded_in;

const NAMES: [&str; 3] = ["a.x", "a.y", "b.x"];
const CATEGORIES: [&str; 2] = ["a", "b"];
const KEYS: [u8; 2] = [1, 2];
const TAGS: [&str; 2] = ["t:1", "t:2"];

fn streams() -> Vec<StreamId> {
    let stream = |category, key| StreamId::new(category, key).unwrap();
    CATEGORIES
        .into_iter()
        .flat_map(|category| KEYS.map(|key| stream(category, key)))
        .collect()
}

fn tags(texts: &[&str]) -> Vec<Tag> {
    texts.iter().map(|text| Tag::new(text).unwrap()).collect()
}

/// Each event that can be told apart: name × stream × set of tags.
fn world() -> Vec<RecordedEvent> {
    let mut events = Vec::new();
    for name in NAMES {
        for stream in streams() {
            for texts in [&[][..], &TAGS[..1], &TAGS[1..], &TAGS[..]] {
                let mut new = NewEvent::raw(name, Payload::empty());
                new.tags = tags(texts);
                let position = events.len() as i64 + 1;
                events.push(recorded_in(stream.clone(), position, new));
            }
        }
    }
    events
}

fn item() -> impl Strategy<Value = FilterItem> {
    (
        subsequence(NAMES.to_vec(), 0..=3),
        subsequence(CATEGORIES.to_vec(), 0..=2),
        subsequence(streams(), 0..=2),
        subsequence(tags(&TAGS), 0..=2),
    )
        .prop_map(|(names, categories, streams, tags)| {
            let item = FilterItem::new().names(names).tags(tags);
            let item = categories.into_iter().fold(item, FilterItem::category);
            streams.into_iter().fold(item, FilterItem::stream)
        })
}

fn filter() -> impl Strategy<Value = EventFilter> {
    prop::collection::vec(item(), 0..4).prop_map(|items| items.into_iter().collect())
}

proptest! {
    #[test]
    fn what_a_filter_covers_it_matches(one in filter(), two in filter()) {
        if one.covers(&two) {
            for event in world() {
                prop_assert!(!two.matches(&event) || one.matches(&event), "{event:?}");
            }
        }
    }

    #[test]
    fn to_merge_is_to_match_one_or_the_other(one in filter(), two in filter()) {
        let both = one.clone().merge(&two);
        prop_assert!(both.covers(&one) && both.covers(&two));
        for event in world() {
            prop_assert_eq!(both.matches(&event), one.matches(&event) || two.matches(&event));
        }
    }

    /// Items that another one covers are left out, which nobody may notice.
    #[test]
    fn a_filter_matches_what_any_of_its_items_matches(items in prop::collection::vec(item(), 0..4)) {
        let filter: EventFilter = items.iter().cloned().collect();
        for event in world() {
            let any = items
                .iter()
                .any(|item| item.matches_parts(event.name(), event.stream(), event.tags()));
            prop_assert_eq!(filter.matches(&event), any);
        }
    }

    #[test]
    fn an_item_means_any_name_any_place_and_all_tags(item in item()) {
        for event in world() {
            let named = item.get_names().iter().any(|name| name == event.name());
            let placed = item.get_streams().contains(event.stream())
                || item.get_categories().contains(event.stream().category());
            let everywhere = item.get_streams().is_empty() && item.get_categories().is_empty();
            let expected = (named || item.get_names().is_empty())
                && (placed || everywhere)
                && item.get_tags().iter().all(|tag| event.tags().contains(tag));
            let filter = EventFilter::from(item.clone());
            prop_assert_eq!(filter.matches(&event), expected);
        }
    }

    #[test]
    fn all_covers_everything_and_everything_covers_nothing(filter in filter()) {
        prop_assert!(EventFilter::all().covers(&filter));
        prop_assert!(filter.covers(&EventFilter::none()));
        prop_assert!(filter.covers(&filter));
        prop_assert_eq!(filter.is_all(), filter.covers(&EventFilter::all()));
        prop_assert_eq!(filter.is_all(), world().iter().all(|event| filter.matches(event)) && filter.is_all());
    }

    #[test]
    fn a_further_tag_restricts_every_item(filter in filter()) {
        let tag = Tag::new(TAGS[0]).unwrap();
        let tagged = filter.clone().and_tag(&tag);
        prop_assert!(filter.covers(&tagged));
        for event in world() {
            let expected = filter.matches(&event) && event.tags().contains(&tag);
            prop_assert_eq!(tagged.matches(&event), expected);
        }
    }
}

#[test]
fn covering_sees_streams_within_categories() {
    let stream = EventFilter::stream(StreamId::new("a", 1).unwrap());
    let category = EventFilter::category("a");
    assert!(category.covers(&stream));
    assert!(!stream.covers(&category));
    assert!(!EventFilter::category("b").covers(&stream));
    assert!(!category.covers(&EventFilter::all()));
    assert!(!EventFilter::none().covers(&stream));
}

#[test]
fn a_covered_item_is_left_out() {
    let filter = EventFilter::category("a").or(FilterItem::new().category("a").name("a.x"));
    assert_eq!(filter.items().len(), 1);
    assert_eq!(
        filter.or(FilterItem::new()).items(),
        EventFilter::all().items()
    );
}
