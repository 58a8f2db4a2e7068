//! What the task of an inline projection hears from the appends that run it.

use backstory_event::{RecordedEvent, StoreError};
use tokio::sync::watch;

use super::task::{Task, bytes};
use crate::{
    inline::{Enlisted, Moved},
    schedule::Inline,
};

/// How far appends of this process have taken the projection.
pub(crate) struct News {
    moved: watch::Receiver<Moved>,
    /// What was counted already.
    events: u64,
    letters: u64,
}

/// Waits for news, if there may be any. Cancel-safe.
pub(crate) async fn changed(news: &mut Option<News>) {
    if let Some(news) = news
        && news.moved.changed().await.is_ok()
    {
        return;
    }
    futures::future::pending().await
}

impl Task {
    /// Lets the store run the projection inside its appends, until the answer is dropped.
    pub(super) fn enlist(&mut self, inline: &Inline) -> Result<Enlisted, StoreError> {
        let (news, moved) = watch::channel(Moved::default());
        let enlisted = self.worker.enlist(inline, news)?;
        self.inline = Some(News {
            moved,
            events: 0,
            letters: 0,
        });
        Ok(enlisted)
    }

    /// Passes what appends have projected. What they did under another epoch is learnt of when
    /// that is.
    pub(super) fn follow_appends(&mut self) {
        let Some(news) = &mut self.inline else { return };
        let moved = news.moved.borrow_and_update().clone();
        let events = moved.events - std::mem::replace(&mut news.events, moved.events);
        let letters = moved.letters - std::mem::replace(&mut news.letters, moved.letters);
        self.events += events;
        if letters > 0 {
            self.left_out = None;
        }
        let Some(progress) = moved.progress else {
            return;
        };
        let to = progress.checkpoint;
        let known = &self.progress;
        if progress.epoch != known.epoch || to.position <= known.checkpoint.position {
            return;
        }
        if self.engine.is_standby() {
            self.rewind(progress, self.left_out);
            self.engine.stands_by(self.time.now(), to.position);
            return;
        }
        self.source.skip(to);
        self.buffer.retain(|event| event.position() > to.position);
        self.bytes = bytes(&self.buffer);
        self.progress = progress;
        if !self.engine.is_stopped() {
            self.error = None;
        }
        let left = self.buffer.first().map(RecordedEvent::position);
        let left = left.map(|first| (self.buffer.len(), first));
        self.engine.advanced(self.time.now(), to.position, left);
    }
}
