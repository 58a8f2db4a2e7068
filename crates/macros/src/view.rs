//! `#[derive(DecodeEvent)]`: an enum of event types.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Attribute, Data, DataEnum, DeriveInput, Fields, Ident, LitStr, Type};

use crate::attrs::{self, Errors};

pub(crate) fn expand(input: DeriveInput) -> syn::Result<TokenStream> {
    let mut errors = Errors::default();
    attrs::refuse_generics(&input, "a view", &mut errors);
    let mut krate = None::<LitStr>;
    let known = "a view has `crate` only; names come from its variants' types, for events of its \
                 own derive `Event`";
    attrs::read(
        &input.attrs,
        "event",
        known,
        &mut errors,
        |key, meta| match key {
            "crate" => attrs::value(&mut krate, meta),
            _ => Ok(false),
        },
    );
    let Data::Enum(data) = &input.data else {
        errors.at(
            &input.ident,
            "a view is an enum with one event type per variant; derive `Event` for an event struct",
        );
        return errors.finish(TokenStream::new());
    };
    let (variants, parts): (Vec<_>, Vec<_>) =
        read_parts(&input, data, &mut errors).into_iter().unzip();
    let krate = attrs::krate(krate, "::backstory::event", &mut errors);
    let ident = &input.ident;

    errors.finish(quote! {
        #[automatically_derived]
        impl #krate::DecodeEvent for #ident {
            fn types() -> ::std::vec::Vec<#krate::EventType> {
                let mut __types = ::std::vec::Vec::new();
                #(__types.extend(<#parts as #krate::DecodeEvent>::types());)*
                __types
            }

            fn decode(
                name: &str,
                payload: &#krate::Payload,
            ) -> ::core::result::Result<::core::option::Option<Self>, #krate::variant::Error> {
                #(
                    if let ::core::option::Option::Some(__event) =
                        <#parts as #krate::DecodeEvent>::decode(name, payload)?
                    {
                        return ::core::result::Result::Ok(::core::option::Option::Some(
                            Self::#variants(__event),
                        ));
                    }
                )*
                ::core::result::Result::Ok(::core::option::Option::None)
            }

            fn stored_as(
                current: ::std::vec::Vec<::std::string::String>,
            ) -> ::std::vec::Vec<::std::string::String> {
                #krate::variant::stored_as(
                    current,
                    &[#((
                        <#parts as #krate::DecodeEvent>::types,
                        <#parts as #krate::DecodeEvent>::stored_as,
                    )),*],
                )
            }

            fn decode_stored(
                name: &str,
                version: u32,
                payload: &#krate::Payload,
            ) -> ::core::result::Result<#krate::Decoded<Self>, ::std::string::String> {
                #(
                    match <#parts as #krate::DecodeEvent>::decode_stored(name, version, payload)? {
                        #krate::Decoded::Unknown => {}
                        __known => {
                            return ::core::result::Result::Ok(__known.map(Self::#variants));
                        }
                    }
                )*
                ::core::result::Result::Ok(#krate::Decoded::Unknown)
            }
        }
    })
}

fn read_parts<'a>(
    input: &DeriveInput,
    data: &'a DataEnum,
    errors: &mut Errors,
) -> Vec<(&'a Ident, &'a Type)> {
    let mut parts = Vec::new();
    if data.variants.is_empty() {
        errors.at(&input.ident, "a view needs at least one variant");
    }
    for variant in &data.variants {
        refuse_keys(&variant.attrs, errors);
        for field in &variant.fields {
            refuse_keys(&field.attrs, errors);
        }
        match &variant.fields {
            Fields::Unnamed(fields) if fields.unnamed.len() == 1 => {
                parts.push((&variant.ident, &fields.unnamed[0].ty));
            }
            _ => errors.at(
                variant,
                format!(
                    "a variant of a view holds one event type: write `{0}({0}Event)`. Variants \
                     with data of their own are events: derive `Event` for them",
                    variant.ident
                ),
            ),
        }
    }
    parts
}

fn refuse_keys(attributes: &[Attribute], errors: &mut Errors) {
    let known = "the variants of a view have none; their types say what is on disk";
    attrs::read(attributes, "event", known, errors, |_, _| Ok(false));
}
