//! `#[derive(Event)]`.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::{Data, DeriveInput, Fields, Ident, LitStr, Path};

use crate::{
    attrs::{self, Errors},
    tags,
};

mod read;

use read::Kind;

pub(crate) fn expand(input: DeriveInput) -> syn::Result<TokenStream> {
    let mut errors = Errors::default();
    attrs::refuse_generics(&input, "an event type", &mut errors);
    let (head, kinds) = match &input.data {
        Data::Enum(data) => read::enumeration(&input, data, &mut errors),
        Data::Struct(data) => read::structure(&input, data, &mut errors),
        Data::Union(_) => {
            errors.at(&input.ident, "an event is an enum or a struct, not a union");
            return errors.finish(TokenStream::new());
        }
    };
    let krate = attrs::krate(head.krate, "::backstory::event", &mut errors);
    read::refuse_ignored(&head.ignore, &kinds, &mut errors);

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
