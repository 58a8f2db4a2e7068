//! Where the database is, and how it is used.

use std::{borrow::Cow, path::PathBuf, time::Duration};

use backstory_event::{Limits, StoreError, StoreErrorKind};
use backstory_store_kit::WriterOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};

/// Options of a [`SqliteStore`](crate::SqliteStore).
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    pub(crate) writer: WriterOptions,
    pub(crate) readers: u32,
    pub(crate) page: usize,
    pub(crate) window: i64,
    synchronous: SqliteSynchronous,
    pragmas: Vec<(Cow<'static, str>, Cow<'static, str>)>,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            writer: WriterOptions::default(),
            readers: 4,
            page: 1_000,
            window: 20_000,
            synchronous: SqliteSynchronous::Full,
            pragmas: Vec::new(),
        }
    }
}

impl SqliteOptions {
    /// How long a call may take that has no deadline of its own: 10 seconds by default. Waiting
    /// for other processes counts.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.writer.deadline = deadline;
        self
    }

    /// What one append may hold.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.writer.limits = limits;
        self
    }

    /// The bounds of the writer: queue, batches, deadline, limits.
    #[must_use]
    pub fn with_writer(mut self, writer: WriterOptions) -> Self {
        self.writer = writer;
        self
    }

    /// How many connections read at most: 4 by default. One more writes, one more watches for
    /// commits of other processes while somebody waits for them.
    #[must_use]
    pub fn with_readers(mut self, connections: u32) -> Self {
        self.readers = connections.max(1);
        self
    }

    /// How many events a page holds at most: 1,000 by default.
    #[must_use]
    pub fn with_page(mut self, events: usize) -> Self {
        self.page = events.max(1);
        self
    }

    /// How many positions one page looks at most: 20,000 by default.
    #[must_use]
    pub fn with_window(mut self, positions: i64) -> Self {
        self.window = positions.max(1);
        self
    }

    /// When a commit is on the disk: `FULL` by default, that is before its receipt is given.
    /// With `NORMAL` a power cut may take the last commits; a crash of the process takes none.
    #[must_use]
    pub fn with_synchronous(mut self, synchronous: SqliteSynchronous) -> Self {
        self.synchronous = synchronous;
        self
    }

    /// A further setting of every connection, such as `cache_size` or `mmap_size`.
    #[must_use]
    pub fn with_pragma(
        mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<Cow<'static, str>>,
    ) -> Self {
        self.pragmas.push((name.into(), value.into()));
        self
    }
}

/// Where a database file is and how connections to it are opened.
#[derive(Debug, Clone)]
pub(crate) struct Location {
    pub(crate) path: PathBuf,
    options: SqliteConnectOptions,
}

/// Rows that may wait between SQLite's thread and ours.
const ROW_BUFFER: usize = 1_024;
/// What is left of the write-ahead log after a large one, in bytes.
const JOURNAL_SIZE: &str = "67108864";

impl Location {
    /// Reads a URL (`sqlite:todo.db`, `sqlite:///var/lib/todo.db`) or a plain path. SQLite's own
    /// URLs (`file:`) are refused: some of them name a database per connection.
    ///
    /// # Errors
    /// `Config` when it names no file.
    pub(crate) fn new(url: &str, settings: &SqliteOptions) -> Result<Self, StoreError> {
        let options = match url.strip_prefix("sqlite:") {
            None => SqliteConnectOptions::new().filename(url),
            Some(rest) => {
                let (_, parameters) = rest.split_once('?').unwrap_or((rest, "mode=rwc"));
                if parameters != "mode=rwc" {
                    return Err(config(format!(
                        "`?{parameters}` is not understood: use `SqliteOptions` instead"
                    )));
                }
                url.parse::<SqliteConnectOptions>().map_err(|error| {
                    config(format!("{url:?} is no URL of a file")).with_source(error)
                })?
            }
        };
        let path = options.get_filename().to_owned();
        let is_no_file = path.to_str().is_some_and(|path| path.starts_with("file:"))
            || url.trim_end_matches("?mode=rwc").ends_with(":memory:");
        if path.as_os_str().is_empty() || is_no_file {
            return Err(config(
                "it must name a file, as in `sqlite:todo.db`; \
                 a log in memory is `memory:`"
                    .to_owned(),
            ));
        }
        let options = settings.pragmas.iter().fold(
            options
                .synchronous(settings.synchronous)
                .pragma("journal_size_limit", JOURNAL_SIZE)
                .row_buffer_size(ROW_BUFFER)
                .thread_name(|id| format!("backstory-sqlite-{id}"))
                .disable_logging(),
            |options, (name, value)| options.pragma(name.clone(), value.clone()),
        );
        Ok(Self { path, options })
    }

    /// For the first connection: it creates the file.
    pub(crate) fn create(&self) -> SqliteConnectOptions {
        self.write()
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
    }

    /// For the connection that writes. It does not wait for locks: whoever waits inside SQLite
    /// can neither be interrupted nor kept in order.
    pub(crate) fn write(&self) -> SqliteConnectOptions {
        self.options.clone().busy_timeout(Duration::ZERO)
    }

    /// For connections that read. They wait for locks only while another process recovers the
    /// write-ahead log after a crash.
    pub(crate) fn read(&self) -> SqliteConnectOptions {
        self.options
            .clone()
            .read_only(true)
            .busy_timeout(Duration::from_secs(5))
    }
}

fn config(reason: String) -> StoreError {
    StoreError::new(StoreErrorKind::Config { reason })
}

trait Quiet {
    fn disable_logging(self) -> Self;
}

impl Quiet for SqliteConnectOptions {
    /// sqlx would log each statement; the spans of this crate say more with less.
    fn disable_logging(self) -> Self {
        use sqlx::ConnectOptions;
        self.disable_statement_logging()
    }
}
