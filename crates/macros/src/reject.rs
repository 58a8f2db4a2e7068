//! `#[derive(Reject)]`.

use std::collections::HashMap;

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DataEnum, DeriveInput, Ident, LitStr};

use crate::{
    attrs::{self, Errors},
    names::{refuse_name, refuse_prefix, snake_case},
};

pub(crate) fn expand(input: DeriveInput) -> syn::Result<TokenStream> {
    let mut errors = Errors::default();
    attrs::refuse_generics(&input, "a rejection", &mut errors);
    let is_enum = matches!(input.data, Data::Enum(_));
    let (mut prefix, mut code, mut krate) = (None::<LitStr>, None::<LitStr>, None);
    let known = if is_enum {
        "a rejection enum has `prefix` and `crate`"
    } else {
        "a rejection struct has `code` and `crate`"
    };
    attrs::read(
        &input.attrs,
        "reject",
        known,
        &mut errors,
        |key, meta| match key {
            "prefix" if is_enum => attrs::value(&mut prefix, meta),
            "code" if !is_enum => attrs::value(&mut code, meta),
            "crate" => attrs::value(&mut krate, meta),
            _ => Ok(false),
        },
    );
    let ident = &input.ident;
    let body = match &input.data {
        Data::Enum(data) => read_enum(ident, data, prefix.as_ref(), &mut errors),
        Data::Struct(_) => {
            match &code {
                Some(code) => refuse_code(code, &mut errors),
                None => errors.at(
                    ident,
                    format!(
                        "`{ident}` needs a code: write `#[reject(code = \"prefix.{}\")]`, with a \
                         prefix of your choice. Callers in other programs know the rejection by it",
                        snake_case(ident)
                    ),
                ),
            }
            quote!(#code)
        }
        Data::Union(_) => {
            errors.at(ident, "a rejection is an enum or a struct, not a union");
            TokenStream::new()
        }
    };
    let krate = attrs::krate(krate, "::backstory::command", &mut errors);

    errors.finish(quote! {
        #[automatically_derived]
        impl #krate::Reject for #ident {
            fn code(&self) -> &str {
                #body
            }
        }
    })
}

fn read_enum(
    ident: &Ident,
    data: &DataEnum,
    prefix: Option<&LitStr>,
    errors: &mut Errors,
) -> TokenStream {
    match prefix {
        Some(prefix) => {
            if let Some(reason) = refuse_prefix(&prefix.value()) {
                errors.at(prefix, format!("this prefix is refused: {reason}"));
            }
        }
        None => {
            let name = snake_case(ident);
            errors.at(
                ident,
                format!(
                    "`{ident}` needs a prefix: write `#[reject(prefix = \"{}\")]`. It begins the \
                     codes by which callers in other programs know the rejections; they stay when \
                     Rust names change",
                    name.strip_suffix("_error").unwrap_or(&name)
                ),
            );
        }
    }
    let prefix = prefix.map(LitStr::value).unwrap_or_default();
    let mut seen = HashMap::new();
    let mut arms = Vec::new();
    for variant in &data.variants {
        let mut given = None::<LitStr>;
        let known = "a variant has `code`";
        attrs::read(
            &variant.attrs,
            "reject",
            known,
            errors,
            |key, meta| match key {
                "code" => attrs::value(&mut given, meta),
                _ => Ok(false),
            },
        );
        let name = &variant.ident;
        let code = match &given {
            Some(given) => {
                refuse_code(given, errors);
                given.value()
            }
            None => format!("{prefix}.{}", snake_case(name)),
        };
        if let Some(first) = seen.insert(code.clone(), name) {
            errors.at(
                name,
                format!(
                    "`{first}` and `{name}` both have the code `{code}`: give one of them another \
                     with `#[reject(code = \"…\")]`"
                ),
            );
        }
        arms.push(quote!(Self::#name { .. } => #code,));
    }
    quote!(match *self { #(#arms)* })
}

fn refuse_code(code: &LitStr, errors: &mut Errors) {
    if let Some(reason) = refuse_name(&code.value()) {
        errors.at(code, format!("this code is refused: {reason}"));
    }
}
