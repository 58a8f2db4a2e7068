//! `#[derive(Event)]`.

use std::collections::HashMap;

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::{
    Attribute, Data, DataEnum, DataStruct, DeriveInput, Fields, Ident, LitInt, LitStr, Member,
    Path, Token, Type, Variant, parenthesized, punctuated::Punctuated,
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
struct Kind {
    /// What it matches: `Self::Added` or `Self`.
    pattern: TokenStream,
    name: String,
    version: u32,
    shape: String,
    tags: Vec<(Member, Type, String)>,
}

/// `#[event(…)]` of the whole item.
#[derive(Default)]
struct Head {
    prefix: Option<LitStr>,
    name: Option<LitStr>,
    version: Option<LitInt>,
    krate: Option<LitStr>,
    upcasters: Option<Path>,
    ignore: Vec<LitStr>,
}

pub(crate) fn expand(input: DeriveInput) -> syn::Result<TokenStream> {
    let mut errors = Errors::default();
    attrs::refuse_generics(&input, "an event type", &mut errors);
    let kinds = match &input.data {
        Data::Enum(data) => read_enum(&input, data, &mut errors),
        Data::Struct(data) => read_struct(&input, data, &mut errors),
        Data::Union(_) => {
            errors.at(&input.ident, "an event is an enum or a struct, not a union");
            return errors.finish(TokenStream::new());
        }
    };
    let (head, kinds) = kinds;
    let krate = attrs::krate(head.krate, "::backstory::event", &mut errors);
    refuse_ignored(&head.ignore, &kinds, &mut errors);

    let ident = &input.ident;
    let types = types(&krate, ident, &kinds);
    let coding = match &input.data {
        Data::Struct(data) => code_struct(&krate, &kinds, matches!(data.fields, Fields::Unit)),
        _ => code_enum(&krate, &kinds),
    };
    let (decode, encode) = coding;
    let upcasters = head.upcasters.map(|path| upcasters(&krate, &path));
    let ignored = ignored(&head.ignore);
    let name = matched(&kinds, |kind| {
        let name = &kind.name;
        quote!(#name)
    });
    let version = kinds.iter().any(|kind| kind.version != 1).then(|| {
        let version = matched(&kinds, |kind| {
            let version = kind.version;
            quote!(#version)
        });
        quote!(fn version(&self) -> u32 { #version })
    });
    let tags = tags_method(&krate, &kinds);

    errors.finish(quote! {
        #[automatically_derived]
        impl #krate::DecodeEvent for #ident {
            #types
            #decode
            #upcasters
            #ignored
        }

        #[automatically_derived]
        impl #krate::Event for #ident {
            fn name(&self) -> &'static str { #name }
            #version
            #encode
            #tags
        }
    })
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

fn read_enum(input: &DeriveInput, data: &DataEnum, errors: &mut Errors) -> (Head, Vec<Kind>) {
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

fn read_struct(input: &DeriveInput, data: &DataStruct, errors: &mut Errors) -> (Head, Vec<Kind>) {
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

fn refuse_ignored(ignore: &[LitStr], kinds: &[Kind], errors: &mut Errors) {
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

fn types(krate: &Path, ident: &Ident, kinds: &[Kind]) -> TokenStream {
    let rust_type = ident.to_string();
    let types = kinds.iter().map(|kind| {
        let Kind {
            name,
            version,
            shape,
            ..
        } = kind;
        quote! {
            #krate::EventType {
                name: #name,
                version: #version,
                shape: #shape,
                rust_type: ::core::concat!(::core::module_path!(), "::", #rust_type),
            }
        }
    });
    quote! {
        fn types() -> ::std::vec::Vec<#krate::EventType> {
            ::std::vec::Vec::from([#(#types),*])
        }
    }
}

/// `decode` and `encode` of an enum: the payload is the content of the variant.
fn code_enum(krate: &Path, kinds: &[Kind]) -> (TokenStream, TokenStream) {
    let names = kinds.iter().map(|kind| &kind.name);
    let indices = 0..kinds.len() as u32;
    let decode = quote! {
        #krate::variant::decode(
            match name {
                #(#names => #indices,)*
                _ => return ::core::result::Result::Ok(::core::option::Option::None),
            },
            payload,
        )
        .map(::core::option::Option::Some)
    };
    let encode = quote!(#krate::variant::encode(self));
    coding(krate, decode, encode)
}

/// `decode` and `encode` of a struct: the payload is the struct as serde has it, `{}` for a unit.
fn code_struct(krate: &Path, kinds: &[Kind], unit: bool) -> (TokenStream, TokenStream) {
    let names = kinds.iter().map(|kind| &kind.name);
    let (read, encode) = if unit {
        (
            quote!(
                payload
                    .to_value()
                    .map(|_| ::core::option::Option::Some(Self))
            ),
            quote!(::core::result::Result::Ok(#krate::Payload::empty())),
        )
    } else {
        (
            quote!(payload.decode().map(::core::option::Option::Some)),
            quote!(#krate::Payload::encode(self)),
        )
    };
    let decode = quote! {
        match name {
            #(#names => #read,)*
            _ => ::core::result::Result::Ok(::core::option::Option::None),
        }
    };
    coding(krate, decode, encode)
}

fn coding(krate: &Path, decode: TokenStream, encode: TokenStream) -> (TokenStream, TokenStream) {
    let decode = quote! {
        fn decode(
            name: &str,
            payload: &#krate::Payload,
        ) -> ::core::result::Result<::core::option::Option<Self>, #krate::variant::Error> {
            #decode
        }
    };
    let encode = quote! {
        fn encode(&self) -> ::core::result::Result<#krate::Payload, #krate::Invalid> {
            #encode
        }
    };
    (decode, encode)
}

fn upcasters(krate: &Path, path: &Path) -> TokenStream {
    let init = quote_spanned!(attrs::place(path)=> get_or_init(#path));
    quote! {
        fn upcasters() -> &'static #krate::Upcasters {
            static __UPCASTERS: ::std::sync::OnceLock<#krate::Upcasters> =
                ::std::sync::OnceLock::new();
            __UPCASTERS.#init
        }
    }
}

fn ignored(names: &[LitStr]) -> Option<TokenStream> {
    (!names.is_empty()).then(|| {
        quote! {
            fn ignored() -> &'static [&'static str] {
                &[#(#names),*]
            }
        }
    })
}

/// A match over the event with one value per kind.
fn matched(kinds: &[Kind], value: impl Fn(&Kind) -> TokenStream) -> TokenStream {
    let arms = kinds.iter().map(|kind| {
        let pattern = &kind.pattern;
        let value = value(kind);
        quote!(#pattern { .. } => #value)
    });
    quote!(match *self { #(#arms,)* })
}

fn tags_method(krate: &Path, kinds: &[Kind]) -> Option<TokenStream> {
    let (with, without): (Vec<_>, Vec<_>) = kinds.iter().partition(|kind| !kind.tags.is_empty());
    if with.is_empty() {
        return None;
    }
    let arms = with
        .iter()
        .map(|kind| tags::arm(krate, &kind.pattern, &kind.tags));
    let rest = (!without.is_empty()).then(|| quote!(_ => {}));
    Some(quote! {
        fn tags(&self) -> ::core::result::Result<::std::vec::Vec<#krate::Tag>, #krate::Invalid> {
            let mut __tags = ::std::vec::Vec::new();
            match self {
                #(#arms)*
                #rest
            }
            ::core::result::Result::Ok(__tags)
        }
    })
}
