//! Where a command's name and id come from.

use backstory_macros::Command;

use crate::port;
use crate::port::Command as _;

struct Todo;

impl port::Aggregate for Todo {
    type Id = u64;
}

mod elsewhere {
    pub(super) struct List;

    impl crate::port::Aggregate for List {
        type Id = String;
    }
}

#[derive(Command)]
#[command(name = "todo.add", aggregate = Todo, creates, crate = "crate::port")]
struct Add {
    id: u64,
    #[expect(dead_code, reason = "no command needs its data here")]
    title: String,
}

#[derive(Command)]
#[command(name = "list.open", aggregate = elsewhere::List)]
#[command(id = list, crate = "port")]
struct Open {
    #[expect(dead_code, reason = "it is not the id that is named")]
    id: u64,
    list: String,
}

#[derive(Command)]
#[command(name = "todo.done", aggregate = Todo, crate = "port")]
struct Done(u64);

#[derive(Command)]
#[command(name = "todo.move", aggregate = Todo, id = 1, crate = "port")]
struct Move(
    #[expect(dead_code, reason = "it is not the id that is named")] u8,
    u64,
);

#[derive(Command)]
#[command(name = "todo.change", aggregate = Todo, crate = "port")]
#[expect(dead_code, reason = "only the id is read")]
enum Change {
    Rename { title: String, id: u64 },
    Remove { id: u64 },
    Finish(u64, bool),
}

macro_rules! simple {
    ($command:ident, $name:literal, $aggregate:ty, $field:ident: $id:ty) => {
        #[derive(Command)]
        #[command(name = $name, aggregate = $aggregate, id = $field, crate = "port")]
        struct $command {
            $field: $id,
        }
    };
}

simple!(Written, "todo.written", Todo, r#type: u64);

#[test]
fn a_struct_names_its_id_or_has_one() {
    let add = Add {
        id: 7,
        title: String::new(),
    };
    assert_eq!((Add::NAME, *add.aggregate_id()), ("todo.add", 7));
    let open = Open {
        id: 7,
        list: "home".into(),
    };
    assert_eq!(
        (Open::NAME, open.aggregate_id().as_str()),
        ("list.open", "home")
    );
    assert_eq!(*Done(8).aggregate_id(), 8);
    assert_eq!(*Move(1, 9).aggregate_id(), 9);
    assert_eq!(*Written { r#type: 10 }.aggregate_id(), 10);
}

#[test]
fn every_variant_of_an_enum_has_the_id() {
    let rename = Change::Rename {
        title: String::new(),
        id: 1,
    };
    assert_eq!(Change::NAME, "todo.change");
    assert_eq!(*rename.aggregate_id(), 1);
    assert_eq!(*Change::Remove { id: 2 }.aggregate_id(), 2);
    assert_eq!(*Change::Finish(3, true).aggregate_id(), 3);
}

#[test]
fn only_what_says_so_creates() {
    const { assert!(Add::CREATES && !Done::CREATES) }
}
