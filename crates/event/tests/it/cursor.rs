//! The text forms of receipts and cursors: passed on unchanged they work, all else is refused.

use backstory_event::{Appended, Checkpoint, EventId, Position, StreamCursor, StreamId};
use proptest::prelude::*;
use uuid::Uuid;

proptest! {
    #[test]
    fn a_checkpoint_comes_back_from_its_text(position in 0..=i64::MAX, id in any::<u128>()) {
        let checkpoint = Checkpoint {
            position: Position::new(position),
            event_id: EventId::from_uuid(Uuid::from_u128(id)),
        };
        let text = checkpoint.to_string();
        prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'));
        prop_assert_eq!(text.parse::<Checkpoint>().unwrap(), checkpoint);
    }

    #[test]
    fn a_cursor_comes_back_from_its_text(category in "[^\\p{C}\\s]{1,20}", key in "[^\\p{C}\\s]{1,20}") {
        prop_assume!(!category.starts_with("backstory."));
        let cursor = StreamCursor::behind(StreamId::new(&category, &key).unwrap());
        let text = cursor.to_string();
        prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        prop_assert_eq!(text.parse::<StreamCursor>().unwrap(), cursor);
    }

    #[test]
    fn no_text_makes_them_panic(text in any::<String>()) {
        let _ = text.parse::<Checkpoint>();
        let _ = text.parse::<StreamCursor>();
    }
}

#[test]
fn a_receipt_and_its_checkpoint_have_one_text() {
    let checkpoint = Checkpoint {
        position: Position::new(255),
        event_id: EventId::from_uuid(Uuid::from_u128(0xabc)),
    };
    let text = Appended::nothing(checkpoint).to_string();
    assert_eq!(text, "b1-ff-00000000000000000000000000000abc");
    assert_eq!(text.parse(), Ok(checkpoint));
}

#[test]
fn what_is_no_checkpoint_is_refused_with_its_text() {
    for text in [
        "",
        "b1-",
        "b1-1",
        "b1-1-",
        "b2-1-00000000000000000000000000000abc",
        "b1--1-00000000000000000000000000000abc",
        "b1-+1-00000000000000000000000000000abc",
        "b1-01-00000000000000000000000000000abc",
        "b1-8000000000000000-00000000000000000000000000000abc",
        "b1-1-00000000000000000000000000000ABC",
        "b1-1-00000000000000000000000000000abc ",
        "b1-1-00000000000000000000000000000ab",
    ] {
        let error = text.parse::<Checkpoint>().unwrap_err();
        assert_eq!(error.what(), "receipt", "{text}");
        assert!(error.to_string().contains(text));
    }
}

#[test]
fn what_is_no_cursor_is_refused() {
    // No zero in between, odd length, upper case, signs, no hex, an empty key, two zeros.
    for text in [
        "", "6162", "61006", "6A006B", "+10061", "zz", "6100", "61006200", "ä1",
    ] {
        assert!(text.parse::<StreamCursor>().is_err(), "{text}");
    }
    assert!("610062".parse::<StreamCursor>().is_ok());
}
