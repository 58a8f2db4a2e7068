//! Changes of the read model, pushed to every open page as server-sent events.
//!
//! One task per process follows the log and waits for the read model, whichever process brings it
//! up to date; nothing is polled. All pages get the same message from one bounded queue. A page
//! that is too slow for it, or that comes anew, gets the whole state instead of what it missed.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::response::sse::Event;
use backstory::{Checkpoint, EventFilter, EventStoreExt, projection::RunningProjector};
use futures::{Stream, stream};
use serde::Serialize;
use tokio::sync::{
    broadcast::{self, error::RecvError},
    watch,
};

use crate::{
    app::{TodoError, Todos},
    panel::{Known, Panel},
    read_model::{self, BOARD, Feed},
};

/// Messages that a page may be behind.
const QUEUE: usize = 256;
/// Events that become one message.
const PAGE: usize = 200;
const PAUSE: Duration = Duration::from_secs(1);

/// What every page is told.
#[derive(Debug, Clone)]
enum Message {
    Change {
        included: Checkpoint,
        json: Arc<str>,
    },
    /// What happened meanwhile is not known in detail: take the whole state.
    StartAgain,
}

/// The changes of the read model, for any number of pages. Clones share it.
#[derive(Debug, Clone)]
pub struct Live {
    todos: Todos,
    messages: broadcast::Sender<Message>,
    /// Up to where the read model is known to include the log.
    included: watch::Sender<Checkpoint>,
    panel: Panel,
}

impl Live {
    /// Without [`Self::run`] nothing is pushed but first states.
    pub fn new(todos: &Todos) -> Self {
        Self {
            todos: todos.clone(),
            messages: broadcast::Sender::new(QUEUE),
            included: watch::Sender::new(Checkpoint::START),
            panel: Panel::new(todos.store()),
        }
    }

    /// How many pages are listening.
    pub fn listeners(&self) -> usize {
        self.messages.receiver_count()
    }

    /// How the projections are doing.
    pub fn panel(&self) -> &Panel {
        &self.panel
    }

    /// Follows the log for ever, also across outages of the store and while the board is paused.
    pub async fn run(&self, projector: &RunningProjector) -> Infallible {
        let changes = async {
            loop {
                match self.follow(projector).await {
                    Err(TodoError::Projector(error)) if error.is_paused() => {}
                    Err(error) => tracing::warn!(%error, "pages get no changes for now"),
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::select! {
            never = changes => never,
            never = self.panel.run() => never,
        }
    }

    async fn follow(&self, projector: &RunningProjector) -> Result<Infallible, TodoError> {
        let store = self.todos.store();
        let from = read_model::progress(store).await?;
        if self.included.send_replace(from) != from {
            self.send(Message::StartAgain);
        }
        let mut log = store
            .subscribe(from, EventFilter::of::<Feed>())
            .with_page_limit(PAGE);
        loop {
            let page = log.next_page().await?;
            projector
                .projection(BOARD)
                .caught_up(page.checkpoint)
                .await?;
            if !page.events.is_empty() && self.listeners() > 0 {
                let change = read_model::changed(store, &page.events).await?;
                let included = page.checkpoint;
                self.send(Message::Change {
                    included,
                    json: json(&change),
                });
            }
            self.included.send_replace(page.checkpoint);
        }
    }

    fn send(&self, message: Message) {
        // It fails when nobody listens, which is fine.
        let _ = self.messages.send(message);
    }

    /// What one page gets: the state, then each change, for ever; it ends when the state cannot be
    /// read, and then the browser comes again. If it wants to, also how the projections are doing.
    pub fn listen(
        &self,
        projections: bool,
    ) -> impl Stream<Item = Result<Event, Infallible>> + Send + use<> {
        let page = Page {
            live: self.clone(),
            messages: self.messages.subscribe(),
            seen: None,
            projections: projections.then(|| self.panel.watch()),
            board: None,
        };
        stream::unfold(page, |mut page| async move {
            let told = page.next().await?;
            let event = Event::default()
                .event(told.name)
                .id(told.included.to_string())
                .retry(PAUSE)
                .data(told.json);
            Some((Ok(event), page))
        })
    }
}

/// One page that listens.
struct Page {
    live: Live,
    messages: broadcast::Receiver<Message>,
    /// Up to where its state includes the log; `None`: it needs the whole state.
    seen: Option<Checkpoint>,
    projections: Option<watch::Receiver<Known>>,
    /// Which read model its state comes from, as far as it knows.
    board: Option<i64>,
}

/// One server-sent event.
#[derive(Debug)]
struct Told {
    name: &'static str,
    included: Checkpoint,
    json: Arc<str>,
}

impl Page {
    async fn next(&mut self) -> Option<Told> {
        loop {
            let Some(seen) = self.seen else {
                return self.whole_state().await;
            };
            let message = tokio::select! {
                message = self.messages.recv() => message,
                known = next(&mut self.projections) => {
                    // It may have been rebuilt.
                    if self.board.replace(known.board).is_some_and(|board| board != known.board) {
                        self.seen = None;
                    }
                    return Some(Told {
                        name: "projections",
                        included: seen,
                        json: json(&known.rows),
                    });
                }
            };
            match message {
                Ok(Message::Change { included, json }) if included.position > seen.position => {
                    self.seen = Some(included);
                    return Some(Told {
                        name: "change",
                        included,
                        json,
                    });
                }
                Ok(Message::Change { .. }) => {} // the state that it got first had it already
                Ok(Message::StartAgain) | Err(RecvError::Lagged(_)) => self.seen = None,
                Err(RecvError::Closed) => return None,
            }
        }
    }

    async fn whole_state(&mut self) -> Option<Told> {
        // Asked before the state is read: what comes later is told later.
        let included = *self.live.included.borrow();
        match read_model::board(self.live.todos.store(), None).await {
            Ok(board) => {
                self.seen = Some(included);
                Some(Told {
                    name: "snapshot",
                    included,
                    json: json(&board),
                })
            }
            Err(error) => {
                tracing::warn!(%error, "a page could not get the state");
                None
            }
        }
    }
}

async fn next(projections: &mut Option<watch::Receiver<Known>>) -> Known {
    if let Some(known) = projections
        && known.changed().await.is_ok()
    {
        return known.borrow_and_update().clone();
    }
    std::future::pending().await
}

fn json(value: &impl Serialize) -> Arc<str> {
    // Maps with text keys and plain values always become JSON.
    serde_json::to_string(value).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use backstory::{Position, Store};

    use super::*;

    fn change(position: i64) -> Message {
        let included = Checkpoint::at(Position::new(position));
        Message::Change {
            included,
            json: "{}".into(),
        }
    }

    async fn page() -> (Live, Page) {
        let store = Store::connect("memory:").await.unwrap();
        let live = Live::new(&Todos::new(&store));
        let page = Page {
            live: live.clone(),
            messages: live.messages.subscribe(),
            seen: None,
            projections: None,
            board: None,
        };
        (live, page)
    }

    #[tokio::test]
    async fn a_page_gets_the_state_and_then_the_changes_behind_it() {
        let (live, mut page) = page().await;
        live.included.send_replace(Checkpoint::at(Position::new(7)));
        for position in [6, 7, 8, 9] {
            live.send(change(position));
        }
        let told = [page.next().await, page.next().await, page.next().await];
        let told = told.map(|told| told.map(|told| (told.name, told.included.position.get())));
        assert_eq!(
            told,
            [
                Some(("snapshot", 7)),
                Some(("change", 8)),
                Some(("change", 9))
            ]
        );
    }

    #[tokio::test]
    async fn a_page_that_falls_behind_gets_the_state_again() {
        let (live, mut page) = page().await;
        assert_eq!(page.next().await.unwrap().name, "snapshot");
        for position in 1..=(QUEUE as i64 + 1) {
            live.send(change(position));
        }
        assert_eq!(page.next().await.unwrap().name, "snapshot");
        // What the queue still holds follows; then the page waits again.
        assert_eq!(page.next().await.unwrap().included.position.get(), 2);
    }
}
