//! What the derives call. For `Event`: a serde enum without its tag, because the tag is the event's
//! name.
//!
//! `TodoEvent::Added { title }` becomes `{"title": …}`, a tuple variant of one field becomes that
//! field, of several an array, a unit variant `{}`. Variants are told apart by their index, so
//! serde names of variants do not matter.

use serde::{
    Serialize, Serializer,
    de::{self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, Visitor},
    ser::{Error as _, Impossible},
};

use crate::{EventType, Payload, error::Invalid};

/// Why a payload does not fit a type.
pub use serde_json::Error;

/// Encodes the content of an enum's variant.
///
/// # Errors
/// [`Invalid`] when it is no enum in serde's default form, or holds what a store cannot keep.
pub fn encode<E: Serialize>(event: &E) -> Result<Payload, Invalid> {
    Payload::encode(&Content(event))
}

/// Decodes the content of the variant with this index into the enum.
///
/// # Errors
/// When the payload does not fit.
pub fn decode<E: DeserializeOwned>(index: u32, payload: &Payload) -> Result<E, serde_json::Error> {
    let mut json = serde_json::Deserializer::from_str(payload.as_str());
    let event = E::deserialize(Variant {
        index,
        json: &mut json,
    })?;
    json.end()?;
    Ok(event)
}

/// `types` and `stored_as` of one event type of a view.
pub type Part = (fn() -> Vec<EventType>, fn(Vec<String>) -> Vec<String>);

/// For a view: current names, and all names that the events of its parts were ever stored with.
pub fn stored_as(current: Vec<String>, parts: &[Part]) -> Vec<String> {
    let mut stored = current.clone();
    for (types, stored_as) in parts {
        let types = types();
        let ours: Vec<_> = current
            .iter()
            .filter(|name| types.iter().any(|kind| kind.name == *name))
            .cloned()
            .collect();
        if !ours.is_empty() {
            stored.extend(stored_as(ours));
        }
    }
    stored.sort();
    stored.dedup();
    stored
}

struct Content<'a, E>(&'a E);

impl<E: Serialize> Serialize for Content<'_, E> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(Untagged(serializer))
    }
}

/// Passes the content of a variant on to another serializer, without the variant's name.
struct Untagged<S>(S);

fn no_enum<E: serde::ser::Error>() -> E {
    E::custom("an event enum must keep serde's default form: no tag, content, untagged or into")
}

macro_rules! refuse {
    ($($method:ident($($type:ty),*) $(-> $ok:ty)?;)*) => {
        $(fn $method(self, $(_: $type),*) -> Result<refuse!(@ $($ok)?), S::Error> { Err(no_enum()) })*
    };
    (@ $ok:ty) => { $ok };
    (@) => { S::Ok };
}

impl<S: Serializer> Serializer for Untagged<S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Impossible<S::Ok, S::Error>;
    type SerializeTuple = Impossible<S::Ok, S::Error>;
    type SerializeTupleStruct = Impossible<S::Ok, S::Error>;
    type SerializeTupleVariant = TupleVariant<S::SerializeTuple>;
    type SerializeMap = Impossible<S::Ok, S::Error>;
    type SerializeStruct = Impossible<S::Ok, S::Error>;
    type SerializeStructVariant = StructVariant<S::SerializeStruct>;

    fn serialize_unit_variant(
        self,
        name: &'static str,
        _: u32,
        _: &'static str,
    ) -> Result<S::Ok, S::Error> {
        serde::ser::SerializeStruct::end(self.0.serialize_struct(name, 0)?)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        value.serialize(self.0)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleVariant, S::Error> {
        Ok(TupleVariant(self.0.serialize_tuple(len)?))
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        _: u32,
        _: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        Ok(StructVariant(self.0.serialize_struct(name, len)?))
    }

    fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<S::Ok, S::Error> {
        Err(S::Error::custom("an event cannot be an Option"))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: &T,
    ) -> Result<S::Ok, S::Error> {
        Err(no_enum())
    }

    refuse! {
        serialize_bool(bool);
        serialize_i8(i8); serialize_i16(i16); serialize_i32(i32); serialize_i64(i64);
        serialize_u8(u8); serialize_u16(u16); serialize_u32(u32); serialize_u64(u64);
        serialize_f32(f32); serialize_f64(f64);
        serialize_char(char); serialize_str(&str); serialize_bytes(&[u8]);
        serialize_none(); serialize_unit(); serialize_unit_struct(&'static str);
        serialize_seq(Option<usize>) -> Self::SerializeSeq;
        serialize_tuple(usize) -> Self::SerializeTuple;
        serialize_tuple_struct(&'static str, usize) -> Self::SerializeTupleStruct;
        serialize_map(Option<usize>) -> Self::SerializeMap;
        serialize_struct(&'static str, usize) -> Self::SerializeStruct;
    }
}

struct TupleVariant<T>(T);

impl<T: serde::ser::SerializeTuple> serde::ser::SerializeTupleVariant for TupleVariant<T> {
    type Ok = T::Ok;
    type Error = T::Error;

    fn serialize_field<V: Serialize + ?Sized>(&mut self, value: &V) -> Result<(), T::Error> {
        self.0.serialize_element(value)
    }

    fn end(self) -> Result<T::Ok, T::Error> {
        self.0.end()
    }
}

struct StructVariant<T>(T);

impl<T: serde::ser::SerializeStruct> serde::ser::SerializeStructVariant for StructVariant<T> {
    type Ok = T::Ok;
    type Error = T::Error;

    fn serialize_field<V: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        value: &V,
    ) -> Result<(), T::Error> {
        self.0.serialize_field(key, value)
    }

    fn skip_field(&mut self, key: &'static str) -> Result<(), T::Error> {
        self.0.skip_field(key)
    }

    fn end(self) -> Result<T::Ok, T::Error> {
        self.0.end()
    }
}

/// An enum value whose variant is known and whose content is JSON.
struct Variant<D> {
    index: u32,
    json: D,
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Variant<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        visitor.visit_enum(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier
        ignored_any
    }
}

impl<'de, D: Deserializer<'de>> de::EnumAccess<'de> for Variant<D> {
    type Error = D::Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), D::Error> {
        let index: de::value::U64Deserializer<D::Error> = u64::from(self.index).into_deserializer();
        Ok((seed.deserialize(index)?, self))
    }
}

impl<'de, D: Deserializer<'de>> de::VariantAccess<'de> for Variant<D> {
    type Error = D::Error;

    fn unit_variant(self) -> Result<(), D::Error> {
        // Fields that an older program wrote are passed over, as serde does for structs.
        serde::Deserialize::deserialize(self.json).map(|_: de::IgnoredAny| ())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, D::Error> {
        seed.deserialize(self.json)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, D::Error> {
        self.json.deserialize_tuple(len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.json.deserialize_struct("", fields, visitor)
    }
}
