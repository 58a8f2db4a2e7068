//! `#[derive(Command)]`.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::{Data, DeriveInput, Field, Fields, Ident, LitStr, Member, Type, ext::IdentExt};

use crate::{
    attrs::{self, Errors},
    names::{refuse_name, snake_case},
};

pub(crate) fn expand(input: DeriveInput) -> syn::Result<TokenStream> {
    let mut errors = Errors::default();
    attrs::refuse_generics(&input, "a command", &mut errors);
    let (mut name, mut aggregate, mut id, mut krate) =
        (None::<LitStr>, None::<Type>, None::<Member>, None);
    let mut creates = false;
    let known = "a command has `name`, `aggregate`, `id`, `creates` and `crate`";
    attrs::read(
        &input.attrs,
        "command",
        known,
        &mut errors,
        |key, meta| match key {
            "name" => attrs::value(&mut name, meta),
            "aggregate" => attrs::value(&mut aggregate, meta),
            "id" => attrs::value(&mut id, meta),
            "creates" => attrs::flag(&mut creates, meta),
            "crate" => attrs::value(&mut krate, meta),
            _ => Ok(false),
        },
    );
    let ident = &input.ident;
    match &name {
        Some(name) => {
            if let Some(reason) = refuse_name(&name.value()) {
                errors.at(name, format!("this name is refused: {reason}"));
            }
        }
        None => errors.at(
            ident,
            format!(
                "`{ident}` needs a name: write `#[command(name = \"prefix.{}\")]`, with a prefix \
                 of your choice. It stays when Rust names change",
                snake_case(ident)
            ),
        ),
    }
    if aggregate.is_none() {
        errors.at(
            ident,
            format!("`{ident}` needs to know who decides: write `#[command(aggregate = Todo)]`"),
        );
    }
    let body = match &input.data {
        Data::Struct(data) => {
            let field = find(&data.fields, ident, id.as_ref(), &mut errors);
            field.map(|(member, field)| quote_spanned!(attrs::place(&field.ty)=> &self.#member))
        }
        Data::Enum(data) => {
            let arms: Vec<_> = data
                .variants
                .iter()
                .filter_map(|variant| {
                    let name = &variant.ident;
                    let (member, field) = find(&variant.fields, name, id.as_ref(), &mut errors)?;
                    let value = quote_spanned!(attrs::place(&field.ty)=> __id);
                    Some(quote!(Self::#name { #member: __id, .. } => #value,))
                })
                .collect();
            if data.variants.is_empty() {
                errors.at(ident, "a command enum needs at least one variant");
            }
            Some(quote!(match self { #(#arms)* }))
        }
        Data::Union(_) => {
            errors.at(ident, "a command is a struct or an enum, not a union");
            None
        }
    };
    let krate = attrs::krate(krate, "::backstory::command", &mut errors);

    errors.finish(quote! {
        #[automatically_derived]
        impl #krate::Command for #ident {
            const NAME: &'static str = #name;
            type Aggregate = #aggregate;
            const CREATES: bool = #creates;

            fn aggregate_id(&self) -> &<#aggregate as #krate::Aggregate>::Id {
                #body
            }
        }
    })
}

/// The field with the aggregate's id: the one that is named, else `id`, else the first of a tuple.
fn find<'a>(
    fields: &'a Fields,
    owner: &Ident,
    wanted: Option<&Member>,
    errors: &mut Errors,
) -> Option<(Member, &'a Field)> {
    let is_wanted = |member: &Member| match (wanted, member) {
        (Some(wanted), _) => wanted == member,
        (None, Member::Named(name)) => name.unraw() == "id",
        (None, Member::Unnamed(index)) => index.index == 0,
    };
    let found = fields
        .members()
        .zip(fields)
        .find(|(member, _)| is_wanted(member));
    if found.is_none() {
        let missing = match wanted {
            Some(Member::Named(name)) => format!("no field `{name}`"),
            Some(Member::Unnamed(index)) => format!("no field {}", index.index),
            None => "no field `id`".to_owned(),
        };
        errors.at(
            owner,
            format!(
                "`{owner}` has {missing} with the aggregate's id: add it, or name the field with \
                 `#[command(id = …)]`"
            ),
        );
    }
    found
}
