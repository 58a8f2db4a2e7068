//! The text of a payload's shape, for the golden file.

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};
use quote::ToTokens;
use syn::{Field, Fields, ext::IdentExt};

use crate::{
    attrs::{serde_keys, serde_text},
    names::rename_field,
};

/// `{ title: String, list: Option<Uuid> }`, `(String, u32)`, `String` or `{}`: fields as serde
/// names them, types as they are written.
pub(crate) fn shape(fields: &Fields, rename_all: Option<&str>) -> String {
    let stored: Vec<String> = fields
        .iter()
        .filter(|field| {
            !serde_keys(&field.attrs)
                .iter()
                .any(|(key, _)| key.is_ident("skip") || key.is_ident("skip_serializing"))
        })
        .map(|field| field_shape(field, rename_all))
        .collect();
    let list = stored.join(", ");
    match fields {
        Fields::Unit => "{}".to_owned(),
        Fields::Named(_) if stored.is_empty() => "{}".to_owned(),
        Fields::Named(_) => format!("{{ {list} }}"),
        Fields::Unnamed(_) if stored.len() == 1 => list,
        Fields::Unnamed(_) => format!("({list})"),
    }
}

fn field_shape(field: &Field, rename_all: Option<&str>) -> String {
    let mut ty = spelled(field.ty.to_token_stream());
    for key in ["with", "serialize_with"] {
        if let Some(path) = serde_text(&field.attrs, key) {
            ty = format!("{ty} with {path}");
        }
    }
    let Some(ident) = &field.ident else {
        return ty;
    };
    let flat = |key: &syn::Path| key.is_ident("flatten");
    if serde_keys(&field.attrs).iter().any(|(key, _)| flat(key)) {
        return format!("..{ty}");
    }
    let key = serde_text(&field.attrs, "rename")
        .unwrap_or_else(|| rename_field(rename_all, &ident.unraw().to_string()));
    format!("{key}: {ty}")
}

/// Tokens with the spaces that rustfmt would put: the compiler's own spacing may change.
fn spelled(tokens: TokenStream) -> String {
    let mut text = String::new();
    spell(tokens, &mut text);
    text
}

fn spell(tokens: TokenStream, text: &mut String) {
    let mut after_word = false;
    let mut before = None;
    for token in tokens {
        let mut word = false;
        let mut punct = None;
        match token {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::None => ("", ""),
                };
                text.push_str(open);
                spell(group.stream(), text);
                text.truncate(text.trim_end().len());
                text.push_str(close);
                word = true;
            }
            TokenTree::Ident(_) | TokenTree::Literal(_) => {
                if after_word {
                    text.push(' ');
                }
                text.push_str(&token.to_string());
                word = true;
            }
            TokenTree::Punct(p) => {
                punct = Some((p.as_char(), p.spacing()));
                match (before, p.as_char()) {
                    (_, ',' | ';') => text.push_str(&format!("{} ", p.as_char())),
                    (_, '+' | '=') => text.push_str(&format!(" {} ", p.as_char())),
                    (_, '-') => text.push_str(" -"),
                    (Some(('-', Spacing::Joint)), '>') => text.push_str("> "),
                    (_, '>') => {
                        text.truncate(text.trim_end().len());
                        text.push('>');
                        word = true;
                    }
                    (_, '\'') => {
                        if after_word {
                            text.push(' ');
                        }
                        text.push('\'');
                    }
                    (_, other) => text.push(other),
                }
            }
        }
        after_word = word;
        before = punct;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_spelled_as_rustfmt_does() {
        for ty in [
            "String",
            "Option<Uuid>",
            "std::collections::BTreeMap<String, Vec<u8>>",
            "(String, u32)",
            "(String,)",
            "[u8; 16]",
            "<Todo as Aggregate>::Id",
            "<Vec<u8> as Trait>::Id",
            "Box<dyn Fn(&str) -> u32 + Send>",
            "Cow<'static, str>",
            "&'static mut str",
        ] {
            assert_eq!(spelled(syn::parse_str(ty).unwrap()), ty);
        }
    }
}
