//! Values of indexed fields as text whose byte order is their order, the same on every store.
//!
//! The first byte is the type, in the order null, boolean, number, string. A number is its `f64`
//! as sixteen hex digits that sort; integers that an `f64` does not tell apart get a second part.

use backstory_event::{Invalid, Payload};
use serde::Serialize;
use serde_json::{Map, Number, Value};

/// The longest encoded value, in bytes: below what a database can hold in an index.
const MAX_VALUE: usize = 1_000;

/// Integers from here on are not all different as `f64`.
const EXACT: i128 = 1 << 53;

/// Encodes a value that somebody looks for, as [`fields`] would have encoded it.
pub(crate) fn value<T: Serialize + ?Sized>(field: &str, value: &T) -> Result<String, Invalid> {
    let canonical = Payload::encode(value)?
        .to_value()
        .map_err(|error| Invalid::new("indexed field", field, error.to_string()))?;
    encode(field, &canonical)
}

/// The values of these fields of a document. Fields that it does not have are left out.
pub(crate) fn fields(
    document: &Payload,
    names: impl Iterator<Item = &'static str>,
) -> Result<Vec<(String, String)>, Invalid> {
    let mut names = names.peekable();
    let Some(first) = names.peek().copied() else {
        return Ok(Vec::new());
    };
    let fields: Map<String, Value> = document.decode().map_err(|_| {
        let reason = "the document is not a JSON object, so it has no fields to index";
        Invalid::new("indexed field", first, reason)
    })?;
    names
        .filter_map(|name| Some((name, fields.get(name)?)))
        .map(|(name, value)| Ok((name.to_owned(), encode(name, value)?)))
        .collect()
}

fn encode(field: &str, value: &Value) -> Result<String, Invalid> {
    let text = match value {
        Value::Null => "0".to_owned(),
        Value::Bool(false) => "1f".to_owned(),
        Value::Bool(true) => "1t".to_owned(),
        Value::Number(number) => encode_number(number),
        Value::String(text) => format!("3{text}"),
        Value::Array(_) | Value::Object(_) => {
            let reason = "an indexed field is null, a boolean, a number or a string";
            return Err(Invalid::new("indexed field", field, reason));
        }
    };
    if text.len() > MAX_VALUE {
        let reason = format!("its value is longer than {MAX_VALUE} bytes");
        return Err(Invalid::new("indexed field", field, reason));
    }
    Ok(text)
}

fn encode_number(number: &Number) -> String {
    let float = number.as_f64().unwrap_or_default();
    let bits = float.to_bits();
    // Positive numbers sort by their bits; negative ones the other way round, before them.
    let sortable = if bits >> 63 == 0 {
        bits | 1 << 63
    } else {
        !bits
    };
    let exact = number
        .as_i128()
        .unwrap_or(float as i128)
        .clamp(-(1 << 64), 1 << 64);
    if exact.abs() < EXACT {
        return format!("2{sortable:016x}");
    }
    format!("2{sortable:016x}{:017x}", exact + (1 << 64))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn encoded(value: &Value) -> String {
        super::value("field", value).unwrap()
    }

    #[test]
    fn the_order_of_bytes_is_the_order_of_values() {
        let ascending = [
            json!(null),
            json!(false),
            json!(true),
            json!(-1e300),
            json!(i64::MIN),
            json!(i64::MIN + 1),
            json!(-9_007_199_254_740_993_i64),
            json!(-9_007_199_254_740_992_i64),
            json!(-10),
            json!(-9.5),
            json!(-0.25),
            json!(0),
            json!(1e-300),
            json!(0.25),
            json!(1),
            json!(2),
            json!(10),
            json!(10.5),
            json!(9_007_199_254_740_991_i64),
            json!(9_007_199_254_740_992_i64),
            json!(9_007_199_254_740_993_i64),
            json!(i64::MAX),
            json!(u64::MAX - 1),
            json!(u64::MAX),
            json!(1e300),
            json!(""),
            json!("\""),
            json!("%"),
            json!("B"),
            json!("_"),
            json!("a"),
            json!("a "),
            json!("aa"),
            json!("ä"),
            json!("😀"),
        ];
        for pair in ascending.windows(2) {
            let (one, two) = (encoded(&pair[0]), encoded(&pair[1]));
            assert!(one < two, "{} {one} < {} {two}", pair[0], pair[1]);
        }
    }

    #[test]
    fn equal_values_are_encoded_alike() {
        assert_eq!(encoded(&json!(100)), encoded(&json!(1e2)));
        assert_eq!(encoded(&json!(0)), encoded(&json!(-0.0)));
        let stored = Payload::encode(&json!({ "at": 1e2, "more": [1] })).unwrap();
        let fields = fields(&stored, ["at", "missing"].into_iter()).unwrap();
        assert_eq!(fields, [("at".to_owned(), encoded(&json!(100)))]);
    }

    #[test]
    fn what_has_no_order_is_refused() {
        assert!(value("field", &json!([1])).is_err());
        assert!(value("field", &json!({})).is_err());
        assert!(value("field", &"x".repeat(1_000)).is_err());
        let text = Payload::encode("no object").unwrap();
        assert!(fields(&text, ["at"].into_iter()).is_err());
        assert!(fields(&text, [].into_iter()).unwrap().is_empty());
    }
}
