//! Where a process runs, so that others on the same machine see at once that it has ended, and need
//! not wait for its leases to run out. On Linux; elsewhere they wait.

use std::fs;

/// This machine since its start, this space of process numbers (a container has its own), and the
/// number of this process.
pub(super) fn own() -> Option<String> {
    Some(format!("{}/{}", place()?, std::process::id()))
}

/// True when it is known that the process is gone.
pub(super) fn has_ended(origin: &str) -> bool {
    let Some((there, process)) = origin.rsplit_once('/') else {
        return false;
    };
    let number = process.parse::<u32>();
    let (Ok(number), Some(here)) = (number, place()) else {
        return false;
    };
    // The number of one that has ended and that nobody has asked for yet is still taken.
    let stat = fs::read_to_string(format!("/proc/{number}/stat"));
    let ended = match &stat {
        Ok(stat) => stat
            .rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with(['Z', 'X'])),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    };
    there == here && ended
}

fn place() -> Option<String> {
    let machine = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let space = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{}/{}", machine.trim(), space.display()))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn only_what_ran_here_and_is_gone_has_ended() {
        let own = own().unwrap();
        assert!(!has_ended(&own));
        let (place, _) = own.rsplit_once('/').unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let number = child.id();
        child.wait().unwrap();
        assert!(has_ended(&format!("{place}/{number}")));
        for elsewhere in [
            format!("another/pid:[1]/{number}"),
            format!("{place}/x"),
            String::new(),
            place.to_owned(),
        ] {
            assert!(!has_ended(&elsewhere), "{elsewhere}");
        }
    }
}
