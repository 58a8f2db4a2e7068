//! Everything that takes part in a run: the server, the proxy, and the processes.

use std::{
    path::{Path, PathBuf},
    sync::{
        Mutex as StdMutex, PoisonError,
        atomic::{AtomicI32, Ordering},
    },
};

use backstory_test_postgres::{TestCluster, TestDatabase};
use fastrand::Rng;
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use tokio::sync::Mutex;

use crate::{
    Result,
    args::{Args, Sabotage},
    fault::Fault,
    load::TABLES,
    process::Process,
    proxy::Proxy,
    sabotage,
};

/// 64 writers in three processes.
const TASKS: [usize; 3] = [22, 21, 21];
/// What each subscriber reads: everything, or one category.
pub(crate) const SUBSCRIBERS: [Option<&str>; 3] = [None, None, Some("wide")];
/// The writer process and the subscriber that go through the proxy.
const VIA_PROXY: usize = 1;

/// A child with the arguments to start it again.
#[derive(Debug)]
pub(crate) struct Actor {
    number: usize,
    pub(crate) process: Process,
    /// Of a writer process: counted over all of them.
    pub(crate) incarnation: i32,
}

/// One life of a writer process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Incarnation {
    pub(crate) number: i32,
    pub(crate) tasks: usize,
    pub(crate) killed: bool,
}

pub(crate) struct Stage {
    /// Ours to kill, unless the user gave a server.
    cluster: Option<TestCluster>,
    database: TestDatabase,
    elsewhere: TestDatabase,
    /// A writing transaction in another database of the cluster, open for the whole run.
    bystander: Mutex<PgConnection>,
    pub(crate) proxy: Proxy,
    pub(crate) directory: PathBuf,
    sabotage: Option<Sabotage>,
    seeds: StdMutex<Rng>,
    next_incarnation: AtomicI32,
    incarnations: StdMutex<Vec<Incarnation>>,
    pub(crate) writers: Vec<Mutex<Actor>>,
    pub(crate) subscribers: Vec<Mutex<Actor>>,
    pub(crate) acknowledger: Mutex<Process>,
}

impl Stage {
    /// Starts everything.
    pub(crate) async fn set(args: &Args, directory: &Path, seed: u64) -> Result<Self> {
        let cluster = match args.url {
            Some(_) => None,
            None => Some(TestCluster::start_with(&[("fsync", "on")]).await),
        };
        let (database, elsewhere) = match (&cluster, &args.url) {
            (Some(cluster), _) => (
                cluster.create_database().await,
                cluster.create_database().await,
            ),
            (None, Some(url)) => (
                TestDatabase::create_on(url).await,
                TestDatabase::create_on(url).await,
            ),
            (None, None) => return Err("there is no server".into()),
        };
        // The tables are there before the first writer.
        let store = backstory_store_postgres::PostgresStore::connect(database.url()).await?;
        store.close().await;
        let mut connection = PgConnection::connect(database.url()).await?;
        sqlx::raw_sql(TABLES).execute(&mut connection).await?;
        if args.sabotage.is_some() {
            sabotage::prepare(&mut connection).await?;
        }
        let options: PgConnectOptions = database.url().parse()?;
        let target = format!("{}:{}", options.get_host(), options.get_port());
        let acknowledger = start_acknowledger(directory).await?;
        let mut stage = Self {
            bystander: Mutex::new(stand_by(elsewhere.url()).await?),
            cluster,
            database,
            elsewhere,
            proxy: Proxy::start(target).await?,
            directory: directory.to_owned(),
            sabotage: args.sabotage,
            seeds: StdMutex::new(Rng::with_seed(seed)),
            next_incarnation: AtomicI32::new(1),
            incarnations: StdMutex::default(),
            writers: Vec::new(),
            subscribers: Vec::new(),
            acknowledger: Mutex::new(acknowledger),
        };
        for number in 0..SUBSCRIBERS.len() {
            let actor = stage.start_subscriber(number)?;
            stage.subscribers.push(Mutex::new(actor));
        }
        for number in 0..TASKS.len() {
            let actor = stage.start_writer(number)?;
            stage.writers.push(Mutex::new(actor));
        }
        Ok(stage)
    }

    /// True when a fault can happen here: a server of the user is not killed, and saboteurs do not
    /// append.
    pub(crate) fn allows(&self, fault: Fault) -> bool {
        match fault {
            Fault::KillServer => self.cluster.is_some(),
            Fault::FreezeInside => self.sabotage.is_none(),
            _ => true,
        }
    }

    pub(crate) async fn connect(&self) -> Result<PgConnection> {
        Ok(PgConnection::connect(self.database.url()).await?)
    }

    /// What a subscriber was given.
    pub(crate) fn records(&self, subscriber: usize) -> PathBuf {
        self.directory.join(format!("subscriber-{subscriber}"))
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.directory.join("journal")
    }

    pub(crate) fn incarnations(&self) -> Vec<Incarnation> {
        self.incarnations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn start_subscriber(&self, number: usize) -> Result<Actor> {
        let mut arguments = vec![
            "subscriber".to_owned(),
            format!("--records={}", self.records(number).display()),
        ];
        if let Some(category) = SUBSCRIBERS[number] {
            arguments.push(format!("--category={category}"));
        }
        self.start(number, 0, arguments)
    }

    fn start_writer(&self, number: usize) -> Result<Actor> {
        let incarnation = self.next_incarnation.fetch_add(1, Ordering::SeqCst);
        let tasks = TASKS[number];
        let seed = self
            .seeds
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .u64(..);
        let mut arguments = vec![
            "writer".to_owned(),
            format!("--socket={}", self.directory.join("socket").display()),
            format!("--incarnation={incarnation}"),
            format!("--tasks={tasks}"),
            format!("--seed={seed}"),
        ];
        if self.sabotage == Some(Sabotage::Identity) {
            arguments.push("--sabotage=identity".to_owned());
        }
        self.incarnations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Incarnation {
                number: incarnation,
                tasks,
                killed: false,
            });
        self.start(number, incarnation, arguments)
    }

    fn start(&self, number: usize, incarnation: i32, mut arguments: Vec<String>) -> Result<Actor> {
        if number == VIA_PROXY {
            arguments.push(format!("--via={}", self.proxy.port()));
        }
        Ok(Actor {
            number,
            process: Process::start(self.database.url(), &arguments)?,
            incarnation,
        })
    }

    /// Kills a writer process and starts another in its place.
    pub(crate) async fn replace_writer(&self, actor: &mut Actor) -> Result {
        check_alive(actor, "writer process")?;
        actor.process.kill().await?;
        self.incarnations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter_mut()
            .filter(|incarnation| incarnation.number == actor.incarnation)
            .for_each(|incarnation| incarnation.killed = true);
        *actor = self.start_writer(actor.number)?;
        Ok(())
    }

    /// Kills a subscriber and starts it again.
    pub(crate) async fn replace_subscriber(&self, actor: &mut Actor) -> Result {
        check_alive(actor, "subscriber")?;
        actor.process.kill().await?;
        *actor = self.start_subscriber(actor.number)?;
        Ok(())
    }

    /// Kills the server if it is ours, starts it again, and with it the transaction in the other
    /// database.
    pub(crate) async fn kill_server(&self) -> Result {
        let mut bystander = self.bystander.lock().await;
        if let Some(cluster) = &self.cluster {
            check_open(&mut bystander).await?;
            cluster.kill9().await;
            cluster.restart().await;
            *bystander = stand_by(self.elsewhere.url()).await?;
        }
        Ok(())
    }

    /// Fails when the transaction in the other database is not open any more.
    pub(crate) async fn check_bystander(&self) -> Result {
        check_open(&mut *self.bystander.lock().await).await
    }
}

async fn check_open(bystander: &mut PgConnection) -> Result {
    sqlx::query("INSERT INTO bystander VALUES (2)")
        .execute(bystander)
        .await?;
    Ok(())
}

/// Nobody may end by himself.
pub(crate) fn check_alive(actor: &mut Actor, what: &str) -> Result {
    match actor.process.ended()? {
        None => Ok(()),
        Some(status) => Err(format!("{what} {} ended by itself: {status}", actor.number).into()),
    }
}

async fn start_acknowledger(directory: &Path) -> Result<Process> {
    let arguments = [
        "acknowledger".to_owned(),
        format!("--socket={}", directory.join("socket").display()),
        format!("--journal={}", directory.join("journal").display()),
    ];
    let mut process = Process::start("", &arguments)?;
    process.answer("ready").await?;
    Ok(process)
}

async fn stand_by(url: &str) -> Result<PgConnection> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::raw_sql(
        "CREATE TABLE IF NOT EXISTS bystander (number int); BEGIN; INSERT INTO bystander VALUES (1)",
    )
    .execute(&mut connection)
    .await?;
    Ok(connection)
}
