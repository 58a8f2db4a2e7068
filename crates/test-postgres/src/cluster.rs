use std::ffi::{OsStr, OsString};
use std::fs;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::binaries;
use crate::database::TestDatabase;
use crate::supervisor::{Program, Signal, Supervisor, start_on_free_port};

const INITDB: &str = r#""$1/initdb" --pgdata=data --username=postgres --auth=trust --encoding=UTF8 --locale=C --no-sync"#;
const COPY: &str = r#"cp -pR "$2/data" data"#;
const POSTGRES: &str = r#"binaries=$1; shift 2; exec "$binaries/postgres" -D data -p "$port" "$@""#;

const BASEBACKUP: &str = r#""$1/pg_basebackup" --host=127.0.0.1 --port="$2" --username=postgres --pgdata=data --write-recovery-conf --checkpoint=fast --no-sync"#;

/// For speed: the data only has to outlive the server, not the machine. May be overridden.
const SETTINGS: &[(&str, &str)] = &[
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("max_connections", "300"),
    ("max_wal_size", "256MB"),
    ("listen_addresses", "127.0.0.1"),
    ("unix_socket_directories", ""),
];

/// A throwaway Postgres server on 127.0.0.1 with its superuser `postgres` and no password.
///
/// It is removed, data and all, when this value is dropped or the process ends in whatever way.
pub struct TestCluster {
    supervisor: Arc<Mutex<Supervisor>>,
    directory: PathBuf,
    port: u16,
    settings: Vec<(String, String)>,
}

impl TestCluster {
    /// The cluster that the tests of this process share; the first call starts it. Nobody may stop it.
    ///
    /// # Panics
    /// When no server binaries are found or they do not start; the message says what to do.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceLock<TestCluster> = OnceLock::new();
        match SHARED.get() {
            Some(cluster) => cluster,
            None => {
                blocking(|| SHARED.get_or_init(|| Self::start_blocking(Vec::new(), None))).await
            }
        }
    }

    /// A cluster of the caller's own, which may be stopped and killed.
    ///
    /// # Panics
    /// As [`shared`](Self::shared).
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// As [`start`](Self::start), with server settings such as `("wal_level", "logical")` on top.
    ///
    /// With `("fsync", "on")` the data lies in the temporary directory instead of in memory.
    ///
    /// # Panics
    /// As [`shared`](Self::shared).
    pub async fn start_with(settings: &[(&str, &str)]) -> Self {
        let settings = settings.iter().map(owned).collect();
        blocking(move || Self::start_blocking(settings, None)).await
    }

    /// Starts another cluster with a copy of the data and settings of this one, which must be
    /// stopped: a backup.
    ///
    /// # Panics
    /// As [`shared`](Self::shared), and when this one runs.
    pub async fn copy(&self) -> Self {
        assert!(self.pid().is_none(), "stop a cluster before you copy it");
        let (settings, original) = (self.settings.clone(), self.directory.clone());
        blocking(move || Self::start_blocking(settings, Some(&original))).await
    }

    /// A streaming replica of this cluster, caught up with it when this returns. It only reads.
    ///
    /// # Panics
    /// When it does not start; the message ends with its log.
    pub async fn replica(&self) -> Self {
        let port = self.port.to_string();
        blocking(move || Self::serve(BASEBACKUP, port.as_ref(), Vec::new())).await
    }

    fn start_blocking(settings: Vec<(String, String)>, original: Option<&Path>) -> Self {
        match original {
            Some(original) => Self::serve(COPY, original.as_os_str(), settings),
            None => Self::serve(INITDB, "".as_ref(), settings),
        }
    }

    /// A cluster whose data come from somewhere: `prepare` finds that place behind the folder of
    /// the binaries.
    fn serve(prepare: &'static str, from: &OsStr, settings: Vec<(String, String)>) -> Self {
        let on_disk = settings
            .iter()
            .any(|(name, value)| name == "fsync" && value == "on");
        let mut arguments: Vec<OsString> = vec![ok(binaries::find()).into(), from.into()];
        let own = SETTINGS.iter().map(owned);
        for (name, value) in own.chain(settings.iter().cloned()) {
            arguments.push("-c".into());
            arguments.push(format!("{name}={value}").into());
        }
        let mut supervisor = ok(Supervisor::new(Program {
            name: "postgres",
            prepare,
            serve: POSTGRES,
            end: "QUIT",
            arguments,
            on_disk,
            is_ready,
        }));
        let port = ok(start_on_free_port(&mut supervisor));
        let directory = supervisor.directory().to_owned();
        Self {
            supervisor: Arc::new(Mutex::new(supervisor)),
            directory,
            port,
            settings,
        }
    }

    /// A fresh database on this cluster.
    ///
    /// # Panics
    /// When the server cannot be reached.
    pub async fn create_database(&self) -> TestDatabase {
        TestDatabase::create_at(&self.url("postgres"), false).await
    }

    /// The URL of a database with this name; `postgres` is there from the start.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// The TCP port on 127.0.0.1; it stays the same over restarts.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory with the data (`data`) and the server log (`log`).
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A program of the same installation, such as `pg_dump`.
    ///
    /// # Panics
    /// When the server binaries are not found any more.
    pub fn program(&self, name: &str) -> PathBuf {
        ok(binaries::find()).join(name)
    }

    /// The process id of the server while it runs.
    pub fn pid(&self) -> Option<u32> {
        lock(&self.supervisor).server()
    }

    /// Shuts the server down in order; open transactions are rolled back. Does nothing when it does not run.
    ///
    /// # Panics
    /// When the server has not ended after a minute.
    pub async fn stop(&self) {
        self.with_supervisor(|supervisor| supervisor.end(Signal::Interrupt))
            .await;
    }

    /// Kills the server with SIGKILL and waits until all its processes are gone. Does nothing when it does not run.
    ///
    /// # Panics
    /// When a process of the server has not ended after a minute.
    pub async fn kill9(&self) {
        self.with_supervisor(|supervisor| supervisor.end(Signal::Kill))
            .await;
    }

    /// Starts the server again on the same data and port; shuts it down first when it runs.
    ///
    /// # Panics
    /// When the server does not start; the message ends with its log.
    pub async fn restart(&self) {
        let port = self.port;
        self.with_supervisor(move |supervisor| {
            supervisor.end(Signal::Interrupt)?;
            supervisor.start(port)
        })
        .await;
    }

    async fn with_supervisor(
        &self,
        work: impl FnOnce(&mut Supervisor) -> Result<(), String> + Send + 'static,
    ) {
        let supervisor = Arc::clone(&self.supervisor);
        blocking(move || {
            let result = work(&mut lock(&supervisor));
            ok(result)
        })
        .await;
    }
}

/// The file of a killed server stays behind, so the process id has to be the right one too.
fn is_ready(directory: &Path, pid: &str) -> bool {
    let file = fs::read_to_string(directory.join("data/postmaster.pid")).unwrap_or_default();
    let mut lines = file.lines().map(str::trim);
    lines.next() == Some(pid) && lines.nth(6) == Some("ready")
}

fn owned((name, value): &(&str, &str)) -> (String, String) {
    ((*name).to_owned(), (*value).to_owned())
}

pub(crate) fn lock(supervisor: &Mutex<Supervisor>) -> MutexGuard<'_, Supervisor> {
    supervisor.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn ok<T>(result: Result<T, String>) -> T {
    result.unwrap_or_else(|message| panic!("{message}"))
}

/// Runs what blocks beside the async runtime; its panic becomes the caller's.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => resume_unwind(error.into_panic()),
    }
}
