//! The service that the layer puts around another one.

use std::{
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use http::{Request, Response};
use tower_service::Service;

use crate::{Receipt, layer::Settings};

/// A service whose reads wait for their receipts. Made by [`ReceiptLayer`](crate::ReceiptLayer).
#[derive(Debug, Clone)]
pub struct ReceiptService<S> {
    inner: S,
    settings: Arc<Settings>,
}

impl<S> ReceiptService<S> {
    pub(crate) fn new(inner: S, settings: Arc<Settings>) -> Self {
        Self { inner, settings }
    }
}

impl<S, B, R> Service<Request<B>> for ReceiptService<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
    R: From<String>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<R>, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    /// May be dropped at any moment: nothing is waited for any more then.
    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        // The one that is ready is called; its clone gets ready for the next request.
        let clone = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, clone);
        let settings = Arc::clone(&self.settings);
        Box::pin(async move {
            let Ok(brought) = settings.brought_in(request.headers()) else {
                return Ok(settings.malformed());
            };
            let mut why = None;
            if let Some(receipt) = brought.filter(|_| settings.waits(request.method())) {
                match settings.wait(receipt).await {
                    Ok(()) => drop(request.extensions_mut().insert(Receipt(receipt))),
                    Err(reason) => match settings.refused(reason) {
                        Some(refused) => return Ok(refused),
                        None => why = Some(reason),
                    },
                }
            }
            let mut response = inner.call(request).await?;
            settings.finish(&mut response, brought, why);
            Ok(response)
        })
    }
}
