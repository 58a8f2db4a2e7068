//! A TCP proxy that cuts connections in the middle of a message and delays bytes.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::sleep,
};

/// Passes on what it gets, to a target that can be changed. It ends with this value.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    target: watch::Sender<String>,
    /// How many connections are still to be cut.
    cuts: AtomicUsize,
    /// The longest delay, in milliseconds.
    delay: AtomicU64,
    delayed: AtomicU64,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 for a target such as `127.0.0.1:5432`.
    ///
    /// # Errors
    /// When there is no port.
    pub async fn start(target: impl Into<String>) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(State {
            target: watch::Sender::new(target.into()),
            cuts: AtomicUsize::new(0),
            delay: AtomicU64::new(0),
            delayed: AtomicU64::new(0),
        });
        let task = tokio::spawn(listen(listener, state.clone()));
        Ok(Self { port, state, task })
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Cuts all connections; new ones go to another target.
    pub fn switch(&self, target: impl Into<String>) {
        self.state.target.send_replace(target.into());
    }

    /// Cuts so many connections, each after a random part of the next bytes that come along.
    pub fn cut(&self, connections: usize) {
        self.state.cuts.store(connections, Ordering::SeqCst);
    }

    /// How many connections of the last [`cut`](Self::cut) are still to be cut.
    pub fn uncut(&self) -> usize {
        self.state.cuts.load(Ordering::SeqCst)
    }

    /// From now on everything is delayed by a random time up to this; zero ends it.
    pub fn delay(&self, longest: Duration) {
        let longest = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
        self.state.delay.store(longest, Ordering::SeqCst);
    }

    /// How often something was delayed so far.
    pub fn delayed(&self) -> u64 {
        self.state.delayed.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((client, _)) = listener.accept() => {
                connections.spawn(connect(client, state.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connect(client: TcpStream, state: Arc<State>) {
    let mut target = state.target.subscribe();
    let address = target.borrow_and_update().clone();
    let Ok(server) = TcpStream::connect(address).await else {
        return;
    };
    // Small messages are not to wait for each other.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (client_reads, client_writes) = client.into_split();
    let (server_reads, server_writes) = server.into_split();
    // The first that ends cuts both.
    tokio::select! {
        _ = pump(client_reads, server_writes, &state) => {}
        _ = pump(server_reads, client_writes, &state) => {}
        _ = target.changed() => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: &State) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        let longest = state.delay.load(Ordering::SeqCst);
        if longest > 0 {
            sleep(Duration::from_millis(fastrand::u64(0..=longest))).await;
            state.delayed.fetch_add(1, Ordering::SeqCst);
        }
        let less = |left: usize| left.checked_sub(1);
        let cut = state
            .cuts
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
        if cut.is_ok() {
            return to.write_all(&buffer[..fastrand::usize(..length)]).await;
        }
        to.write_all(&buffer[..length]).await?;
    }
}
