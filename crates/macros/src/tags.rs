//! Tags from the fields of an event.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::{
    Field, Fields, GenericArgument, Ident, LitStr, Member, Path, PathArguments, Token, Type,
    ext::IdentExt,
};

use crate::{
    attrs::{self, Errors},
    names::refuse_name,
};

/// The fields that give tags, and the name before the colon of each.
pub(crate) fn read(fields: &Fields, errors: &mut Errors) -> Vec<(Member, Type, String)> {
    fields
        .members()
        .zip(fields)
        .filter_map(|(member, field)| {
            let name = tag_name(field, errors)?;
            Some((member, field.ty.clone(), name))
        })
        .collect()
}

fn tag_name(field: &Field, errors: &mut Errors) -> Option<String> {
    let mut tag: Option<Option<LitStr>> = None;
    let known = "a field has `tag` and `tag = \"…\"`";
    attrs::read(&field.attrs, "event", known, errors, |key, meta| {
        if key != "tag" {
            return Ok(false);
        }
        if tag.is_some() {
            return Err(attrs::twice(meta));
        }
        let mut name = None;
        if meta.input.peek(Token![=]) {
            attrs::value(&mut name, meta)?;
        }
        tag = Some(name);
        Ok(true)
    });
    match (tag?, &field.ident) {
        (Some(name), _) => {
            if let Some(reason) = refuse_name(&name.value()) {
                errors.at(&name, format!("this tag is refused: {reason}"));
            }
            Some(name.value())
        }
        (None, Some(ident)) => Some(ident.unraw().to_string()),
        (None, None) => {
            errors.at(
                field,
                "the field has no name: write `#[event(tag = \"list\")]` for the tag `list:value`",
            );
            None
        }
    }
}

/// One arm of the match over an event that pushes the tags of a variant.
pub(crate) fn arm(
    krate: &Path,
    pattern: &TokenStream,
    tags: &[(Member, Type, String)],
) -> TokenStream {
    let (fields, pushes): (Vec<_>, Vec<_>) = tags
        .iter()
        .enumerate()
        .map(|(at, (member, ty, name))| {
            let value = format_ident!("__tag{at}", span = attrs::place(ty));
            (quote!(#member: #value), push(krate, name, ty, &value))
        })
        .unzip();
    quote! {
        #pattern { #(#fields,)* .. } => { #(#pushes)* }
    }
}

fn push(krate: &Path, name: &str, ty: &Type, value: &Ident) -> TokenStream {
    if let Some(inner) = argument(ty, "Option") {
        let push = push(krate, name, inner, value);
        quote!(if let ::core::option::Option::Some(#value) = #value { #push })
    } else if let Some(inner) = argument(ty, "Vec") {
        let push = push(krate, name, inner, value);
        quote!(for #value in #value { #push })
    } else {
        quote_spanned!(attrs::place(ty)=> __tags.push(#krate::Tag::pair(#name, #value)?);)
    }
}

/// The `T` of `Option<T>` or `Vec<T>`, told by its last name.
fn argument<'a>(ty: &'a Type, name: &str) -> Option<&'a Type> {
    match ty {
        // A type that came through a `macro_rules!` macro.
        Type::Group(group) => argument(&group.elem, name),
        Type::Path(path) => {
            let last = path.path.segments.last()?;
            match &last.arguments {
                PathArguments::AngleBracketed(list) if last.ident == name => {
                    match list.args.first()? {
                        GenericArgument::Type(inner) => Some(inner),
                        _ => None,
                    }
                }
                _ => None,
            }
        }
        _ => None,
    }
}
