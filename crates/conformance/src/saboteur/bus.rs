//! A bus that breaks a promise.

use std::{
    future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use backstory_event::{BusSubscription, Delivery, EventBus, RecordedEvent, StoreError, Topic};
use futures::StreamExt;

use super::Sabotage;

#[derive(Debug)]
pub(super) struct SaboteurBus {
    inner: Arc<dyn EventBus>,
    sabotage: Option<Sabotage>,
    published: AtomicUsize,
}

impl SaboteurBus {
    pub(super) fn new(inner: Arc<dyn EventBus>, sabotage: Option<Sabotage>) -> Self {
        Self {
            inner,
            sabotage,
            published: AtomicUsize::new(0),
        }
    }
}

#[async_trait]
impl EventBus for SaboteurBus {
    async fn publish(&self, events: &[RecordedEvent]) -> Result<(), StoreError> {
        let published = self.published.fetch_add(events.len(), Ordering::Relaxed);
        match self.sabotage {
            Some(Sabotage::ReordersTheBus) => {
                let mut by_name = events.to_vec();
                by_name.sort_by(|one, two| one.name().cmp(two.name()));
                self.inner.publish(&by_name).await
            }
            Some(Sabotage::BlocksThePublisher) if published > 100 => future::pending().await,
            _ => self.inner.publish(events).await,
        }
    }

    fn subscribe(&self, topic: Topic) -> BusSubscription {
        let subscription = self.inner.subscribe(topic);
        if self.sabotage != Some(Sabotage::MissesSilently) {
            return subscription;
        }
        let events =
            subscription.filter(|delivery| future::ready(matches!(delivery, Delivery::Event(_))));
        BusSubscription::new(events)
    }
}
