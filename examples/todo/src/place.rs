//! Where the lists are kept: a file of their own, or a database by its URL.

use std::{env, fmt, fs, path::PathBuf};

use backstory::{BoxError, Store, StoreError, sqlite::SqliteStore};
use clap::Args;

const FILE: &str = "todo.db";
const VARIABLE: &str = "DATABASE_URL";

/// What the command line says about it.
#[derive(Debug, Args)]
pub struct PlaceArgs {
    /// The folder of the SQLite file `todo.db`; it is made if there is none
    ///
    /// By default the platform's folder for the data of programs.
    #[arg(long, global = true, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Another database: `postgres://…`, `sqlite:FILE`, or `memory:` for this run only
    ///
    /// Without --data and --database, the environment's DATABASE_URL counts.
    // Clap could read the variable itself, but would show it in the help, password and all.
    #[arg(long, global = true, value_name = "URL", conflicts_with = "data")]
    database: Option<String>,
}

/// Where the lists are kept. Its text is for people and never holds a URL, which may hold a
/// password.
#[derive(Debug)]
pub enum Place {
    /// A SQLite file.
    File(PathBuf),
    /// A database by its URL.
    Url {
        /// The URL.
        url: String,
        /// Who gave it: an option or a variable of the environment.
        given_by: &'static str,
    },
}

impl PlaceArgs {
    /// The place, from the options, the environment or the platform, in this order.
    ///
    /// # Errors
    /// When there is no folder to be had.
    pub fn place(self) -> Result<Place, BoxError> {
        if let Some(url) = self.database {
            return Ok(Place::Url {
                url,
                given_by: "--database",
            });
        }
        let variable = env::var(VARIABLE).ok().filter(|url| !url.is_empty());
        let folder = match (self.data, variable) {
            (Some(folder), _) => std::path::absolute(folder)?,
            (None, Some(url)) => {
                return Ok(Place::Url {
                    url,
                    given_by: VARIABLE,
                });
            }
            (None, None) => directories::ProjectDirs::from("", "", "backstory-todo")
                .map(|folders| folders.data_dir().to_owned())
                .ok_or("there is no home folder to keep the lists in: choose one with --data")?,
        };
        fs::create_dir_all(&folder).map_err(|error| {
            let folder = folder.display();
            format!("cannot make the folder {folder}: {error}; choose another one with --data")
        })?;
        Ok(Place::File(folder.join(FILE)))
    }
}

impl Place {
    /// True when other programs cannot see what is kept there.
    pub fn is_private(&self) -> bool {
        matches!(self, Self::Url { url, .. } if url.starts_with("memory:"))
    }

    /// Opens it; a file is made if there is none.
    ///
    /// # Errors
    /// When it cannot be used; the error does not say where it is.
    pub async fn open(&self) -> Result<Store, OpenError> {
        let opened = match self {
            Self::Url { url, .. } => Store::connect(url).await,
            // By its path: a URL would need an escape for every `?` and `%`.
            Self::File(file) => match file.to_str() {
                Some(path) => SqliteStore::connect(path).await.map(Store::from),
                None => return Err(OpenError::NotUtf8(file.clone())),
            },
        };
        let place = self.to_string();
        opened.map_err(|source| OpenError::Store { place, source })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => write!(f, "the file {}", file.display()),
            Self::Url { given_by, .. } => write!(f, "the database of {given_by}"),
        }
    }
}

/// Why the place cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The store said no.
    #[error("cannot use {place}")]
    Store {
        /// The place.
        place: String,
        /// Why.
        source: StoreError,
    },
    /// The path is not text.
    #[error("the path {0:?} is not UTF-8: choose another folder with --data")]
    NotUtf8(PathBuf),
}
