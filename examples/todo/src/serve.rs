//! The server: from binding its port to the last answer.

use std::{io, net::Ipv4Addr, sync::Arc, time::Duration};

use tokio::{net::TcpListener, sync::watch};

use crate::{
    app::{TodoError, Todos},
    http::App,
    live::Live,
};

/// How long requests that are running at the end may take.
const GRACE: Duration = Duration::from_secs(5);

/// Why the server did not start or did not end well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Something else listens there.
    #[error("port {0} is taken: end the program that uses it, or choose another port with --port")]
    PortTaken(u16),
    /// The port cannot be used.
    #[error("cannot listen on port {port}; choose another one with --port")]
    Port {
        /// The port.
        port: u16,
        /// Why.
        source: io::Error,
    },
    /// The connections cannot be served.
    #[error("the server failed")]
    Io(#[from] io::Error),
    /// The read model cannot be kept up to date.
    #[error(transparent)]
    Todo(#[from] TodoError),
}

/// Listens on this machine only; port 0 is any free one.
///
/// # Errors
/// When the port is taken or not allowed.
pub async fn listen(port: u16) -> Result<TcpListener, ServeError> {
    let listening = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
    listening.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ServeError::PortTaken(port),
        _ => ServeError::Port { port, source },
    })
}

/// Serves until it is asked to stop; then answers what was asked, ends streams, and stores what
/// the projection is at.
///
/// # Errors
/// When the store is away at the start, or the socket breaks.
pub async fn serve(
    listener: TcpListener,
    todos: Todos,
    asked_to_stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let (stop, mut stopping) = watch::channel(false);
    let store = todos.store().clone();
    let projector = Arc::new(todos.start_projector().await.map_err(TodoError::from)?);
    let live = Live::new(&todos);
    let pages = tokio::spawn({
        let (live, projector) = (live.clone(), Arc::clone(&projector));
        async move { live.run(&projector).await }
    });

    let app = App::new(todos, Arc::clone(&projector), live, stopping.clone());
    let served = axum::serve(listener, app.router()).with_graceful_shutdown(async move {
        asked_to_stop.await;
        tracing::info!("stopping");
        stop.send_replace(true);
    });
    let grace = async {
        drop(stopping.wait_for(|stopping| *stopping).await);
        tokio::time::sleep(GRACE).await;
    };
    let outcome = tokio::select! {
        outcome = served.into_future() => outcome,
        () = grace => {
            tracing::warn!("some requests were not answered in time");
            Ok(())
        }
    };
    pages.abort();
    let projected = projector.shutdown().await;
    store.close().await;
    outcome?;
    projected.map_err(TodoError::from)?;
    Ok(())
}

/// Ctrl-C, and on Unix SIGTERM: from now on they do not end the program at once.
///
/// # Errors
/// When the system does not let the program listen to them.
#[cfg(unix)]
pub fn signals() -> io::Result<impl Future<Output = ()> + Send + use<>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Ctrl-C.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn signals() -> io::Result<impl Future<Output = ()> + Send + use<>> {
    Ok(async { drop(tokio::signal::ctrl_c().await) })
}
