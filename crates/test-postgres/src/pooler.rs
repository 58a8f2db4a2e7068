use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::{env, fs};

use crate::cluster::{TestCluster, blocking, lock, ok};
use crate::supervisor::{Program, Signal, Supervisor, start_on_free_port};

const NOT_FOUND: &str =
    "no PgBouncer found in PGBOUNCER, PATH, /usr/sbin, /usr/local/sbin or /opt/homebrew/bin.
Install it:
  Debian, Ubuntu: apt-get install pgbouncer
  Fedora:         dnf install pgbouncer
  macOS:          brew install pgbouncer
or set PGBOUNCER to the program.";

/// The last setting of a name wins, so that those of the caller stand behind these.
const SETTINGS: &[(&str, &str)] = &[
    ("listen_addr", "127.0.0.1"),
    ("unix_socket_dir", ""),
    ("auth_type", "trust"),
    ("auth_file", "users"),
    ("pool_mode", "transaction"),
    ("default_pool_size", "2"),
    ("max_client_conn", "500"),
    // A server that was away is found again at once.
    ("server_login_retry", "1"),
];

const PREPARE: &str = r#"printf '%s\n' '"postgres" ""' >users && printf '%s' "$2" >settings"#;
const PGBOUNCER: &str =
    r#"{ cat settings; echo "listen_port = $port"; } >pgbouncer.ini && exec "$1" pgbouncer.ini"#;

/// A throwaway PgBouncer on 127.0.0.1 in front of a cluster: transaction mode, two connections to each
/// database, no password.
///
/// It is removed when this value is dropped or the process ends in whatever way.
pub struct TestPooler {
    supervisor: Arc<Mutex<Supervisor>>,
    port: u16,
}

impl TestPooler {
    /// # Panics
    /// When there is no PgBouncer or it does not start; the message says what to do.
    pub async fn start(cluster: &TestCluster) -> Self {
        Self::start_with(cluster, &[]).await
    }

    /// As [`start`](Self::start), with settings such as `("default_pool_size", "1")` on top.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub async fn start_with(cluster: &TestCluster, settings: &[(&str, &str)]) -> Self {
        let mut text = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\n",
            cluster.port()
        );
        for (name, value) in SETTINGS.iter().chain(settings) {
            text += &format!("{name} = {value}\n");
        }
        blocking(move || {
            let mut supervisor = ok(Supervisor::new(Program {
                name: "pgbouncer",
                prepare: PREPARE,
                serve: PGBOUNCER,
                end: "TERM",
                arguments: vec![ok(find()).into(), text.into()],
                on_disk: false,
                is_ready,
            }));
            let port = ok(start_on_free_port(&mut supervisor));
            let supervisor = Arc::new(Mutex::new(supervisor));
            Self { supervisor, port }
        })
        .await
    }

    /// The URL of the same database through this pooler.
    pub fn url(&self, url: &str) -> String {
        let database = url.rsplit('/').next().unwrap_or_default();
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Kills it with SIGKILL.
    ///
    /// # Panics
    /// When it has not ended after a minute.
    pub async fn kill9(&self) {
        self.with_supervisor(|supervisor| supervisor.end(Signal::Kill))
            .await;
    }

    /// Starts it again on the same port; all connections are broken then.
    ///
    /// # Panics
    /// When it does not start; the message ends with its log.
    pub async fn restart(&self) {
        let port = self.port;
        self.with_supervisor(move |supervisor| {
            supervisor.end(Signal::Terminate)?;
            supervisor.start(port)
        })
        .await;
    }

    async fn with_supervisor(
        &self,
        work: impl FnOnce(&mut Supervisor) -> Result<(), String> + Send + 'static,
    ) {
        let supervisor = self.supervisor.clone();
        blocking(move || {
            let result = work(&mut lock(&supervisor));
            ok(result)
        })
        .await;
    }
}

/// It says so once for each start, with its process id.
fn is_ready(directory: &Path, pid: &str) -> bool {
    let log = fs::read_to_string(directory.join("log")).unwrap_or_default();
    let line = format!("[{pid}] LOG process up");
    log.contains(&line)
}

/// The program; `PGBOUNCER` wins and must be right when it is set.
fn find() -> Result<PathBuf, String> {
    if let Some(program) = env::var_os("PGBOUNCER").filter(|program| !program.is_empty()) {
        let program = PathBuf::from(program);
        return if program.is_file() {
            Ok(program)
        } else {
            Err(format!(
                "PGBOUNCER={} is no file; correct or unset it",
                program.display()
            ))
        };
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let others = ["/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin"];
    env::split_paths(&path)
        .chain(others.into_iter().map(PathBuf::from))
        .map(|folder| folder.join("pgbouncer"))
        .find(|program| program.is_file())
        .ok_or_else(|| NOT_FOUND.to_owned())
}
