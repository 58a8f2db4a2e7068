use backstory_event::{Aggregate, DecodeEvent};

struct Plain;

#[derive(Default)]
struct Todo;

impl Aggregate for Todo {
    const CATEGORY: &'static str = "todo";
    type Id = u64;
    type Event = Plain;
    fn apply(&mut self, _: &Plain) {}
}

#[derive(DecodeEvent)]
#[event(crate = "backstory_event")]
enum Feed {
    Plain(Plain),
}

fn main() {}
