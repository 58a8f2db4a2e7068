//! Reading attributes, and collecting all that is wrong with them.

use std::fmt::Display;

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::ToTokens;
use syn::{
    Attribute, DeriveInput, Expr, ExprLit, Lit, LitStr, Meta, Path, Token, meta::ParseNestedMeta,
    parse::Parse, punctuated::Punctuated, spanned::Spanned,
};

/// All errors of one derive, so that the user sees them at once.
#[derive(Default)]
pub(crate) struct Errors(Option<syn::Error>);

impl Errors {
    pub(crate) fn push(&mut self, error: syn::Error) {
        match &mut self.0 {
            Some(errors) => errors.combine(error),
            None => self.0 = Some(error),
        }
    }

    pub(crate) fn at(&mut self, place: impl ToTokens, message: impl Display) {
        self.push(syn::Error::new_spanned(place, message));
    }

    /// The expansion, if nothing was wrong.
    pub(crate) fn finish(self, expansion: TokenStream) -> syn::Result<TokenStream> {
        self.0.map_or(Ok(expansion), Err)
    }
}

/// Reads the keys of all `#[namespace(…)]` attributes. `key` says whether it knows a key; `known`
/// tells the user which keys there are.
pub(crate) fn read(
    attributes: &[Attribute],
    namespace: &str,
    known: &str,
    errors: &mut Errors,
    mut key: impl FnMut(&str, &ParseNestedMeta) -> syn::Result<bool>,
) {
    for attribute in attributes {
        if !attribute.path().is_ident(namespace) {
            continue;
        }
        let outcome = attribute.parse_nested_meta(|meta| {
            let name = meta.path.to_token_stream().to_string();
            match key(&name, &meta) {
                Ok(true) => return Ok(()),
                Ok(false) => errors.push(meta.error(format!("unknown key `{name}`: {known}"))),
                Err(error) => errors.push(error),
            }
            // Go on behind the next comma.
            while !meta.input.is_empty() && !meta.input.peek(Token![,]) {
                meta.input.parse::<TokenTree>()?;
            }
            Ok(())
        });
        if let Err(error) = outcome {
            errors.push(error);
        }
    }
}

pub(crate) fn twice(meta: &ParseNestedMeta) -> syn::Error {
    meta.error("this key is given twice")
}

/// Reads `key = value`, once.
pub(crate) fn value<T: Parse>(slot: &mut Option<T>, meta: &ParseNestedMeta) -> syn::Result<bool> {
    let value = meta.value()?.parse()?;
    if slot.replace(value).is_some() {
        return Err(twice(meta));
    }
    Ok(true)
}

/// A key without a value.
pub(crate) fn flag(slot: &mut bool, meta: &ParseNestedMeta) -> syn::Result<bool> {
    if std::mem::replace(slot, true) {
        return Err(twice(meta));
    }
    Ok(true)
}

/// Where the generated code finds the crate.
pub(crate) fn krate(given: Option<LitStr>, default: &str, errors: &mut Errors) -> Path {
    let parsed = match given {
        Some(given) => given.parse(),
        None => syn::parse_str(default),
    };
    parsed.unwrap_or_else(|error| {
        errors.push(error);
        Path::from(quote::format_ident!("backstory"))
    })
}

/// The place of some tokens for messages, with the hygiene of the derive.
pub(crate) fn place(tokens: &impl Spanned) -> Span {
    Span::call_site().located_at(tokens.span())
}

/// Names on disk belong to one concrete type.
pub(crate) fn refuse_generics(input: &DeriveInput, what: &str, errors: &mut Errors) {
    if !input.generics.params.is_empty() {
        errors.at(
            &input.generics,
            format!("{what} cannot be generic: what is stored has one concrete type"),
        );
    }
}

/// The keys of `#[serde(…)]` with their texts. What serde itself would refuse is passed over.
pub(crate) fn serde_keys(attributes: &[Attribute]) -> Vec<(Path, Option<LitStr>)> {
    attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("serde"))
        .filter_map(|attribute| {
            attribute
                .parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated)
                .ok()
        })
        .flatten()
        .map(|meta| (meta.path().clone(), text(&meta)))
        .collect()
}

/// The text of one key of `#[serde(…)]`.
pub(crate) fn serde_text(attributes: &[Attribute], key: &str) -> Option<String> {
    serde_keys(attributes)
        .into_iter()
        .find(|(path, _)| path.is_ident(key))
        .and_then(|(_, text)| Some(text?.value()))
}

fn text(meta: &Meta) -> Option<LitStr> {
    match meta {
        Meta::NameValue(pair) => match &pair.value {
            Expr::Lit(ExprLit {
                lit: Lit::Str(text),
                ..
            }) => Some(text.clone()),
            _ => None,
        },
        // `rename(serialize = "…", deserialize = "…")`: what is written counts.
        Meta::List(list) => list
            .parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated)
            .ok()?
            .iter()
            .find(|inner| inner.path().is_ident("serialize"))
            .and_then(text),
        Meta::Path(_) => None,
    }
}
