//! `Command` and `Reject`, with traits that stand in for those of the command crate. The other two
//! derives are tested in the event crate.

mod command;
mod reject;

/// What the expansions name.
mod port {
    pub(crate) trait Aggregate {
        type Id;
    }

    pub(crate) trait Command {
        const NAME: &'static str;
        type Aggregate: Aggregate;
        const CREATES: bool = false;
        fn aggregate_id(&self) -> &<Self::Aggregate as Aggregate>::Id;
    }

    pub(crate) trait Reject {
        fn code(&self) -> &str;
    }
}
