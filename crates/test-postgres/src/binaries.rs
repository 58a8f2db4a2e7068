//! Where the installed Postgres server binaries are.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const NOT_FOUND: &str = "no Postgres server binaries (initdb, postgres) found in PG_BIN, pg_config --bindir, \
/usr/lib/postgresql/*/bin or PATH.
Install them:
  Debian, Ubuntu: apt-get install postgresql
  Fedora:         dnf install postgresql-server
  macOS:          brew install postgresql@17, then export PG_BIN=\"$(brew --prefix postgresql@17)/bin\"
or, for all tests but those that kill their server, set TEST_DATABASE_URL to a server to create databases on.";

/// The folder with `initdb` and `postgres`; `PG_BIN` wins and must be right when it is set.
pub(crate) fn find() -> Result<PathBuf, String> {
    if let Some(folder) = env::var_os("PG_BIN").filter(|folder| !folder.is_empty()) {
        let folder = PathBuf::from(folder);
        return if is_complete(&folder) {
            Ok(folder)
        } else {
            Err(format!(
                "PG_BIN={} has no initdb and postgres; correct or unset it",
                folder.display()
            ))
        };
    }
    let path = env::var_os("PATH").unwrap_or_default();
    pg_config()
        .into_iter()
        .chain(packaged(Path::new("/usr/lib/postgresql")))
        .chain(env::split_paths(&path))
        .find(|folder| is_complete(folder))
        .ok_or_else(|| NOT_FOUND.to_owned())
}

fn is_complete(folder: &Path) -> bool {
    ["initdb", "postgres"]
        .iter()
        .all(|name| folder.join(name).is_file())
}

fn pg_config() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    let folder = String::from_utf8(output.stdout).ok()?;
    Some(PathBuf::from(folder.trim()))
}

/// The folders of Debian's packages, newest version first.
fn packaged(root: &Path) -> Vec<PathBuf> {
    let mut versions: Vec<u32> = std::fs::read_dir(root)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    versions
        .into_iter()
        .map(|version| root.join(version.to_string()).join("bin"))
        .collect()
}
