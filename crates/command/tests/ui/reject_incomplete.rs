use backstory_command::Reject;

#[derive(Debug, thiserror::Error, Reject)]
#[reject(crate = "backstory_command")]
enum TodoError {
    #[error("added before")]
    AlreadyAdded,
}

#[derive(Debug, Reject)]
#[reject(prefix = "list", crate = "backstory_command")]
enum ListError {
    Full,
}

fn main() {}
