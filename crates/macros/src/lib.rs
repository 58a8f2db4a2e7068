//! Derive macros of Backstory: [`Event`], [`DecodeEvent`], [`Command`] and [`Reject`].
//!
//! Each writes what could be written by hand in a few lines. Without `crate = "…"` they name the
//! facade (`::backstory::event`, `::backstory::command`).

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

mod attrs;
mod command;
mod event;
mod names;
mod reject;
mod shape;
mod tags;
mod view;

/// Derives `Event` and `DecodeEvent` for an enum or a struct that serde can write and read.
///
/// On the enum, in `#[event(…)]`:
///
/// | key | meaning |
/// |---|---|
/// | `prefix = "todo"` | required: the first part of the names on disk; the second is the variant's name in snake case |
/// | `upcasters = path` | a function `fn() -> Upcasters`, called once |
/// | `ignore("todo.old", …)` | stored names that this type once had and now passes over |
/// | `crate = "path"` | where the event crate is; `::backstory::event` without it |
///
/// On a struct: `name = "todo.added"` instead of `prefix`, and `version = 2`.
///
/// On a variant: `rename = "finished"` for another second part, or `name = "todo.finished"` for
/// the whole name, and `version = 2`, the schema version of the payload (1 without it).
///
/// On a field: `tag` for the tag `field:value`, `tag = "list"` for `list:value`. The field's type
/// needs `Display`; an `Option` gives one tag or none, a `Vec` one per item. Both are known by
/// their names, an alias is not.
///
/// In snake case, `HTTPMoved2Done` is `http_moved2_done`.
#[proc_macro_derive(Event, attributes(event))]
pub fn derive_event(input: TokenStream) -> TokenStream {
    run(event::expand, parse_macro_input!(input))
}

/// Derives `DecodeEvent` for an enum whose variants each hold one event type: a view.
///
/// It can be read but not appended. Names come from the variants' types; when two of them know
/// the same name, the first one decodes it. The only key is `#[event(crate = "path")]`.
#[proc_macro_derive(DecodeEvent, attributes(event))]
pub fn derive_decode_event(input: TokenStream) -> TokenStream {
    run(view::expand, parse_macro_input!(input))
}

/// Derives `Command` for a struct, or for an enum whose variants all have the id.
///
/// In `#[command(…)]`: `name = "todo.add"` and `aggregate = Todo` are required; `id = todo` names
/// the field with the aggregate's id, which is `id`, or the first one of a tuple, without it;
/// `crate = "path"` says where the command crate is, `::backstory::command` without it.
#[proc_macro_derive(Command, attributes(command))]
pub fn derive_command(input: TokenStream) -> TokenStream {
    run(command::expand, parse_macro_input!(input))
}

/// Derives `Reject` for an error type: each variant gets a stable code.
///
/// On the enum, in `#[reject(…)]`: `prefix = "todo"`; the code is the prefix and the variant's name
/// in snake case (see [`Event`]), or `code = "todo.gone"` of the variant. A struct has `code`.
/// `crate = "path"` says where the command crate is, `::backstory::command` without it.
#[proc_macro_derive(Reject, attributes(reject))]
pub fn derive_reject(input: TokenStream) -> TokenStream {
    run(reject::expand, parse_macro_input!(input))
}

fn run(
    expand: fn(DeriveInput) -> syn::Result<proc_macro2::TokenStream>,
    input: DeriveInput,
) -> TokenStream {
    expand(input)
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}
