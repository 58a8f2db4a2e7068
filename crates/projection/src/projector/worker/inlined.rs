//! The code of a projection inside an append.

use std::{collections::HashSet, sync::Arc};

use async_trait::async_trait;
use backstory_event::{BoxError, RecordedEvent};

use super::{caught, sorting};
use crate::{DeadLetter, LetterWrite, Projection, inline::InlineCode};

pub(super) struct Inlined<P>(pub(super) Arc<P>);

#[async_trait]
impl<Cx: Send + 'static, P: Projection<Cx>> InlineCode<Cx> for Inlined<P> {
    fn key(&self, event: &RecordedEvent) -> String {
        let key = sorting::key(&*self.0, event);
        key.unwrap_or_else(|_| event.stream().to_string())
    }

    async fn project(
        &self,
        events: &[RecordedEvent],
        parked: &HashSet<String>,
        cx: &mut Cx,
    ) -> Result<Vec<LetterWrite>, BoxError> {
        let (mut envelopes, mut letters) = (Vec::with_capacity(events.len()), Vec::new());
        for event in events {
            let before = envelopes.len();
            sorting::decode(event, &mut envelopes)?;
            if parked.is_empty() || envelopes.len() == before {
                continue;
            }
            let key = sorting::key(&*self.0, event)?;
            if parked.contains(&key) {
                envelopes.truncate(before);
                let letter = DeadLetter::new(P::NAME, event, &key, event.recorded_at());
                let letter = letter.because(sorting::WAITS, 0).parked();
                letters.push(LetterWrite::Put(letter));
            }
        }
        if !envelopes.is_empty() {
            caught(async { self.0.project(&envelopes, cx).await }).await?;
        }
        Ok(letters)
    }
}
