//! What the attributes of an event type say, and what is wrong with them.

use std::collections::HashMap;

use proc_macro2::TokenStream;
use quote::quote;
use syn::{
    Attribute, DataEnum, DataStruct, DeriveInput, Ident, LitInt, LitStr, Member, Path, Token, Type,
    Variant, parenthesized, punctuated::Punctuated,
};

use crate::{
    attrs::{self, Errors},
    names::{refuse_name, refuse_prefix, snake_case},
    shape::shape,
    tags,
};

const ENUM_KEYS: &str = "an event enum has `prefix`, `upcasters`, `ignore` and `crate`";
const STRUCT_KEYS: &str =
    "an event struct has `name`, `version`, `upcasters`, `ignore` and `crate`";
const VARIANT_KEYS: &str = "a variant has `rename`, `name` and `version`";

/// One name on disk.
pub(super) struct Kind {
    /// What it matches: `Self::Added` or `Self`.
    pub(super) pattern: TokenStream,
    pub(super) name: String,
    pub(super) version: u32,
    pub(super) shape: String,
    pub(super) tags: Vec<(Member, Type, String)>,
}

/// `#[event(…)]` of the whole item.
#[derive(Default)]
pub(super) struct Head {
    pub(super) prefix: Option<LitStr>,
    pub(super) name: Option<LitStr>,
    pub(super) version: Option<LitInt>,
    pub(super) krate: Option<LitStr>,
    pub(super) upcasters: Option<Path>,
    pub(super) ignore: Vec<LitStr>,
}

fn read_head(attributes: &[Attribute], is_enum: bool, errors: &mut Errors) -> Head {
    let mut head = Head::default();
    let known = if is_enum { ENUM_KEYS } else { STRUCT_KEYS };
    attrs::read(attributes, "event", known, errors, |key, meta| match key {
        "prefix" if is_enum => attrs::value(&mut head.prefix, meta),
        "name" if !is_enum => attrs::value(&mut head.name, meta),
        "version" if !is_enum => attrs::value(&mut head.version, meta),
        "crate" => attrs::value(&mut head.krate, meta),
        "upcasters" => attrs::value(&mut head.upcasters, meta),
        "ignore" => {
            let names;
            parenthesized!(names in meta.input);
            let names = Punctuated::<LitStr, Token![,]>::parse_terminated(&names)?;
            head.ignore.extend(names);
            Ok(true)
        }
        _ => Ok(false),
    });
    head
}

pub(super) fn enumeration(
    input: &DeriveInput,
    data: &DataEnum,
    errors: &mut Errors,
) -> (Head, Vec<Kind>) {
    let head = read_head(&input.attrs, true, errors);
    match &head.prefix {
        Some(prefix) => {
            if let Some(reason) = refuse_prefix(&prefix.value()) {
                errors.at(prefix, format!("this prefix is refused: {reason}"));
            }
        }
        None => errors.at(
            &input.ident,
            format!(
                "`{}` needs a prefix: write `#[event(prefix = \"{}\")]`. It begins the names of \
                 these events on disk, which never follow Rust names, so that code can be renamed \
                 and moved while stored events stay readable",
                input.ident,
                suggestion(&input.ident),
            ),
        ),
    }
    if data.variants.is_empty() {
        errors.at(&input.ident, "an event enum needs at least one variant");
    }
    for (path, _) in attrs::serde_keys(&input.attrs) {
        let breaks = [
            "tag", "content", "untagged", "from", "into", "try_from", "remote",
        ];
        if breaks.iter().any(|key| path.is_ident(key)) {
            errors.at(
                &path,
                "an event enum keeps serde's default form: the name on disk tells variants apart, \
                 the payload holds their fields only",
            );
        }
    }
    let prefix = head.prefix.as_ref().map(LitStr::value);
    let all_fields = attrs::serde_text(&input.attrs, "rename_all_fields");
    let mut seen = HashMap::new();
    let kinds = data
        .variants
        .iter()
        .map(|variant| {
            let kind = read_variant(variant, prefix.as_deref(), all_fields.as_deref(), errors);
            if let Some(first) = seen.insert(kind.name.clone(), &variant.ident)
                && prefix.is_some()
            {
                errors.at(
                    &variant.ident,
                    format!(
                        "`{first}` and `{}` both have the name `{}` on disk: give one of them \
                         another with `#[event(rename = \"…\")]`",
                        variant.ident, kind.name
                    ),
                );
            }
            kind
        })
        .collect();
    (head, kinds)
}

fn read_variant(
    variant: &Variant,
    prefix: Option<&str>,
    all_fields: Option<&str>,
    errors: &mut Errors,
) -> Kind {
    let (mut rename, mut name, mut version) = (None::<LitStr>, None::<LitStr>, None);
    attrs::read(
        &variant.attrs,
        "event",
        VARIANT_KEYS,
        errors,
        |key, meta| match key {
            "rename" => attrs::value(&mut rename, meta),
            "name" => attrs::value(&mut name, meta),
            "version" => attrs::value(&mut version, meta),
            _ => Ok(false),
        },
    );
    for (path, _) in attrs::serde_keys(&variant.attrs) {
        let breaks = [
            "skip",
            "skip_serializing",
            "skip_deserializing",
            "other",
            "untagged",
        ];
        if breaks.iter().any(|key| path.is_ident(key)) {
            errors.at(
                &path,
                "every variant of an event enum is written and read: a name on disk that the \
                 program passes over goes into `#[event(ignore(\"…\"))]` of the enum",
            );
        }
    }
    if let (Some(_), Some(name)) = (&rename, &name) {
        errors.at(name, "`name` is the whole name: leave `rename` out");
    }
    // Without a prefix, which was said before, only what the user wrote can be checked.
    let prefix = prefix.unwrap_or("prefix");
    let full = match (&name, &rename) {
        (Some(name), _) => name.value(),
        (None, Some(rename)) => format!("{prefix}.{}", rename.value()),
        (None, None) => format!("{prefix}.{}", snake_case(&variant.ident)),
    };
    let given = name.as_ref().or(rename.as_ref());
    if let Some(given) = given
        && let Some(reason) = refuse_name(&given.value()).or_else(|| refuse_name(&full))
    {
        errors.at(given, format!("this name is refused: {reason}"));
    }
    let rename_all = attrs::serde_text(&variant.attrs, "rename_all");
    let ident = &variant.ident;
    Kind {
        pattern: quote!(Self::#ident),
        name: full,
        version: read_version(version, errors),
        shape: shape(&variant.fields, rename_all.as_deref().or(all_fields)),
        tags: tags::read(&variant.fields, errors),
    }
}

pub(super) fn structure(
    input: &DeriveInput,
    data: &DataStruct,
    errors: &mut Errors,
) -> (Head, Vec<Kind>) {
    let head = read_head(&input.attrs, false, errors);
    match &head.name {
        Some(name) => {
            if let Some(reason) = refuse_name(&name.value()) {
                errors.at(name, format!("this name is refused: {reason}"));
            }
        }
        None => errors.at(
            &input.ident,
            format!(
                "`{}` needs a name: write `#[event(name = \"{}\")]`, with a prefix of your choice. \
                 Names on disk never follow Rust names, so that code can be renamed and moved \
                 while stored events stay readable",
                input.ident,
                format_args!("prefix.{}", suggestion(&input.ident)),
            ),
        ),
    }
    let rename_all = attrs::serde_text(&input.attrs, "rename_all");
    let kind = Kind {
        pattern: quote!(Self),
        name: head.name.as_ref().map(LitStr::value).unwrap_or_default(),
        version: read_version(head.version.clone(), errors),
        shape: shape(&data.fields, rename_all.as_deref()),
        tags: tags::read(&data.fields, errors),
    };
    (head, vec![kind])
}

fn read_version(given: Option<LitInt>, errors: &mut Errors) -> u32 {
    let Some(given) = given else { return 1 };
    match given.base10_parse::<u32>() {
        Ok(version) if version >= 1 && i32::try_from(version).is_ok() => version,
        Ok(_) => {
            errors.at(&given, "schema versions are 1, 2, 3 …");
            1
        }
        Err(error) => {
            errors.push(error);
            1
        }
    }
}

pub(super) fn refuse_ignored(ignore: &[LitStr], kinds: &[Kind], errors: &mut Errors) {
    for name in ignore {
        if let Some(reason) = refuse_name(&name.value()) {
            errors.at(name, format!("this name is refused: {reason}"));
        }
        if kinds.iter().any(|kind| kind.name == name.value()) {
            errors.at(name, "a name of this type cannot be ignored as well");
        }
    }
}

fn suggestion(ident: &Ident) -> String {
    let name = snake_case(ident);
    name.strip_suffix("_event").unwrap_or(&name).to_owned()
}
