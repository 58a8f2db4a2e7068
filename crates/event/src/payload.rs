//! JSON that every store can hold and give back unchanged.

use std::{fmt, sync::Arc};

use serde::{
    Deserialize, Serialize,
    de::{
        DeserializeOwned, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor,
    },
};
use serde_json::{Map, Number, Value};

use crate::error::Invalid;

mod storable;

/// A JSON value as text, checked so that every store gives back the same value.
///
/// Refused are: NUL characters, lone surrogates, duplicate keys, NaN and infinite numbers, and
/// integers beyond 64 bits. Numbers are written without exponent, -0.0 as 0.
#[derive(Clone)]
pub struct Payload {
    text: Arc<str>,
    // Its text was made by `canonical`: it need not be checked again.
    checked: bool,
}

impl Payload {
    /// Checks JSON text and brings it into canonical form.
    ///
    /// # Errors
    /// [`Invalid`] when it is not JSON or holds something that a store cannot keep.
    pub fn parse(json: &str) -> Result<Self, Invalid> {
        let value = serde_json::from_str::<Strict>(json)
            .map_err(|error| Invalid::new("payload", json, error.to_string()))?;
        Self::canonical(&value.0)
    }

    /// Encodes a value.
    ///
    /// # Errors
    /// [`Invalid`] when it cannot be JSON or holds something that a store cannot keep.
    pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Self, Invalid> {
        storable::check(value).map_err(|reason| Invalid::new("payload", "", reason))?;
        let json = serde_json::to_string(value)
            .map_err(|error| Invalid::new("payload", "", error.to_string()))?;
        Self::parse(&json)
    }

    /// The JSON object without keys.
    pub fn empty() -> Self {
        Self {
            text: "{}".into(),
            checked: true,
        }
    }

    /// JSON text as a store has it, unchecked until it is appended.
    pub fn stored(json: impl Into<Arc<str>>) -> Self {
        Self {
            text: json.into(),
            checked: false,
        }
    }

    /// The JSON text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Decodes it.
    ///
    /// # Errors
    /// When the JSON does not fit `T`.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.text)
    }

    /// The value as a tree.
    ///
    /// # Errors
    /// When the text is not JSON.
    pub fn to_value(&self) -> Result<Value, serde_json::Error> {
        self.decode()
    }

    /// Refuses what [`Payload::parse`] would refuse or change: text that was never checked.
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        if self.checked || Self::parse(&self.text)? == *self {
            return Ok(());
        }
        let reason = "its numbers are not in the stored form: use Payload::parse";
        Err(Invalid::new("payload", &self.text, reason))
    }

    fn canonical(value: &Value) -> Result<Self, Invalid> {
        let mut text = Vec::new();
        let mut serializer = serde_json::Serializer::with_formatter(&mut text, PlainNumbers);
        value
            .serialize(&mut serializer)
            .map_err(|error| Invalid::new("payload", "", error.to_string()))?;
        let text = String::from_utf8(text)
            .map_err(|error| Invalid::new("payload", "", error.to_string()))?;
        Ok(Self {
            text: text.into(),
            checked: true,
        })
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Equal as JSON values: the order of keys and white space do not count.
impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
            || matches!((self.to_value(), other.to_value()), (Ok(one), Ok(two)) if one == two)
    }
}

/// Numbers as `jsonb` prints them, so that text, `jsonb` and memory hold the same value.
struct PlainNumbers;

impl serde_json::ser::Formatter for PlainNumbers {
    fn write_f64<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        value: f64,
    ) -> std::io::Result<()> {
        // `+ 0.0` turns -0.0 into 0.0; `Display` never writes an exponent.
        write!(writer, "{}", value + 0.0)
    }
}

/// A JSON value whose reading refuses what a database would refuse or change silently.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(StrictValue.deserialize(deserializer)?))
    }
}

#[derive(Clone, Copy)]
struct StrictValue;

impl<'de> DeserializeSeed<'de> for StrictValue {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

fn no_nul<E: serde::de::Error>(text: String) -> Result<String, E> {
    if text.contains('\0') {
        return Err(E::custom(
            "a text holds the NUL character, which databases refuse",
        ));
    }
    Ok(text)
}

impl<'de> Visitor<'de> for StrictValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number is not finite, which JSON cannot hold"))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
        no_nul(text.to_owned()).map(Value::String)
    }

    fn visit_string<E: serde::de::Error>(self, text: String) -> Result<Value, E> {
        no_nul(text).map(Value::String)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(self)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let key = no_nul(key)?;
            let value = access.next_value_seed(self)?;
            if map.contains_key(&key) {
                return Err(A::Error::custom(format!("the key {key:?} occurs twice")));
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_take_one_form() {
        for (json, stored) in [
            ("1e2", "100"),
            ("-0.0", "0"),
            ("1e16", "10000000000000000"),
            ("0.1", "0.1"),
            ("1e-7", "0.0000001"),
            ("18446744073709551615", "18446744073709551615"),
        ] {
            assert_eq!(Payload::parse(json).unwrap().as_str(), stored);
        }
    }

    #[test]
    fn what_a_database_would_change_is_refused() {
        for json in [
            r#""a\u0000b""#,
            r#"{"a\u0000":1}"#,
            r#""\ud800""#,
            r#"{"a":1,"a":2}"#,
            "[1",
            "",
            "NaN",
            "1e999",
        ] {
            assert!(Payload::parse(json).is_err(), "{json}");
        }
    }

    #[test]
    fn what_json_would_change_is_refused() {
        assert!(Payload::encode(&f64::NAN).is_err());
        assert!(Payload::encode(&Some(f32::INFINITY)).is_err());
        assert!(Payload::encode(&vec![(1, f64::NEG_INFINITY)]).is_err());
        assert!(Payload::encode(&u128::MAX).is_err());
        assert!(Payload::encode(&Some(1.5)).is_ok());
        assert!(Payload::encode(&u128::from(u64::MAX)).is_ok());
    }

    #[test]
    fn equality_ignores_order_and_space() {
        let one = Payload::stored(r#"{"b": 1, "a": [true, null]}"#);
        assert_eq!(one, Payload::parse(r#"{"a":[true,null],"b":1}"#).unwrap());
        assert_ne!(one, Payload::parse(r#"{"a":[true],"b":1}"#).unwrap());
    }
}
