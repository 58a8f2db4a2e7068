//! The model as a store: at each step it may fail, or somebody may die.

use super::*;

#[async_trait]
impl EventStore for Store {
    async fn append(&self, _: Append) -> Result<Appended, StoreError> {
        Err(StoreErrorKind::Closed.into())
    }

    async fn read(&self, query: &EventQuery) -> Result<Page, StoreError> {
        self.step().await?;
        let page = {
            let log = self.log();
            let head = log
                .last()
                .map_or(Checkpoint::START, RecordedEvent::checkpoint);
            let limit = query.limit.unwrap_or(100);
            let after = query.after.position.get() as usize;
            if query.direction == backstory_event::Direction::Backward {
                let newest = log.iter().rev().filter(|event| query.matches(event));
                let events = newest.take(limit).cloned().collect();
                return Ok(Page {
                    events,
                    checkpoint: query.after,
                    head: head.position,
                    next: None,
                });
            }
            if let Some(before) = after.checked_sub(1)
                && !query.after.event_id.is_nil()
            {
                assert_eq!(log[before].id(), query.after.event_id, "a wrong proof");
            }
            let matching = log[after..].iter().filter(|event| query.matches(event));
            let events: Vec<_> = matching.take(limit).cloned().collect();
            let bound = query.up_to.unwrap_or(head.position).get() as usize;
            let end = log[..bound.min(log.len())].last();
            let end = end.map_or(query.after, RecordedEvent::checkpoint);
            let full = events.len() == limit;
            let checkpoint = match events.last() {
                Some(last) if full => last.checkpoint(),
                _ => end,
            };
            let more = checkpoint.position < end.position && query.limit.is_none();
            Page {
                checkpoint,
                next: more.then(|| query.clone().after(checkpoint)),
                events,
                head: head.position,
            }
        };
        self.step().await?;
        Ok(page)
    }

    async fn streams(&self, _: &StreamQuery) -> Result<StreamPage, StoreError> {
        Err(StoreErrorKind::Closed.into())
    }

    async fn changed(&self, after: Position) -> Result<Position, StoreError> {
        let grown = std::future::poll_fn(|_| match self.head() {
            head if head > after => Poll::Ready(head),
            _ => Poll::Pending,
        });
        let head = grown.await;
        self.step().await?;
        Ok(head)
    }
}

#[async_trait]
impl Checkpoints for Store {
    async fn load_progress(&self, projection: &str) -> Result<Progress, StoreError> {
        self.step().await?;
        let progress = self.0.documents.load_progress(projection).await?;
        self.step().await?;
        Ok(progress)
    }

    async fn list_progress(&self) -> Result<Vec<Progress>, StoreError> {
        self.0.documents.list_progress().await
    }
}

#[async_trait]
impl Control for Store {
    async fn beat(&self, beat: &Beat) -> Result<Vec<Seat>, StoreError> {
        self.step().await?;
        let seats = {
            let progress = |name: &str, raise| match raise {
                Raise::Yes => self.0.documents.raise(name),
                Raise::No => block_on(self.0.documents.load_progress(name)).unwrap(),
            };
            let mut roster = self.0.roster.lock().unwrap();
            roster.beat(self.0.clock.now(), beat, progress)
        };
        // The answer may be lost although the leases were taken.
        self.step().await?;
        Ok(seats)
    }

    async fn leave(&self, owner: Uuid) -> Result<(), StoreError> {
        self.step().await?;
        self.0.roster.lock().unwrap().leave(owner);
        self.step().await
    }

    async fn list_projections(&self) -> Result<Vec<ProjectionRow>, StoreError> {
        Err(StoreErrorKind::Closed.into())
    }

    async fn order(&self, projection: &str, kind: &OrderKind) -> Result<Option<i64>, StoreError> {
        Ok(self.0.roster.lock().unwrap().order(projection, kind))
    }

    async fn order_outcome(&self, id: i64) -> Result<OrderOutcome, StoreError> {
        Ok(self.0.roster.lock().unwrap().outcome(id))
    }

    async fn withdraw_order(&self, id: i64) -> Result<OrderOutcome, StoreError> {
        Ok(self.0.roster.lock().unwrap().withdraw(id))
    }
}

#[async_trait]
impl DeadLetters for Store {
    async fn list_letters(&self, query: &LetterQuery) -> Result<Vec<DeadLetter>, StoreError> {
        self.step().await?;
        let letters = self.0.documents.list_letters(query).await?;
        self.step().await?;
        Ok(letters)
    }

    async fn count_letters(&self, projection: &str) -> Result<LetterCount, StoreError> {
        self.step().await?;
        let count = self.0.documents.count_letters(projection).await?;
        self.step().await?;
        Ok(count)
    }

    async fn parked_keys(
        &self,
        projection: &str,
        keys: &[String],
    ) -> Result<Vec<String>, StoreError> {
        self.step().await?;
        let parked = self.0.documents.parked_keys(projection, keys).await?;
        self.step().await?;
        Ok(parked)
    }
}

#[async_trait]
impl DocumentStore for Store {
    async fn get_documents(
        &self,
        keys: &[DocumentKey],
    ) -> Result<Vec<Option<Payload>>, StoreError> {
        self.step().await?;
        self.0.documents.get_documents(keys).await
    }

    async fn list_documents(&self, list: &DocumentList) -> Result<Vec<DocumentRow>, StoreError> {
        self.0.documents.list_documents(list).await
    }

    async fn commit_documents(
        &self,
        writes: Vec<DocumentWrite>,
        step: &Step,
    ) -> Result<(), CommitError> {
        self.step().await?;
        self.0.documents.commit_documents(writes, step).await?;
        if !self.0.over.load(Ordering::Relaxed) {
            self.check(&step.from.projection);
        }
        // The answer may be lost although the batch is stored.
        self.step().await?;
        Ok(())
    }

    async fn turn_documents(&self, turn: &Turn) -> Result<Progress, CommitError> {
        self.step().await?;
        let progress = self.0.documents.turn_documents(turn).await?;
        TURNS[turn.kind as usize].fetch_add(1, Ordering::Relaxed);
        self.check(&progress.projection);
        // The answer may be lost although it is done.
        self.step().await?;
        Ok(progress)
    }

    fn enlist_documents(
        &self,
        projection: InlineProjection<Documents>,
    ) -> Result<Enlisted, StoreError> {
        Ok(self.1.enlist(projection))
    }
}
