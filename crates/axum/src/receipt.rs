//! A receipt on its way: what handlers return, and what requests bring.

use std::convert::Infallible;

use axum_core::response::{IntoResponse, IntoResponseParts, Response, ResponseParts};
use backstory_event::{Appended, Checkpoint};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue};

/// The header of a receipt, in requests and answers. In a request it may stand several times, or
/// hold several receipts with commas between them: the newest one counts.
pub const RECEIPT: HeaderName = HeaderName::from_static("backstory-receipt");

/// The header of an answer that may lack a change whose receipt the request brought. Its value is
/// `behind`, `failing`, `paused`, `stopped` or, for a receipt of another log, `diverged`: forget
/// that one.
pub const STALE: HeaderName = HeaderName::from_static("backstory-stale");

/// The most bytes of a header that are looked at.
const MAX_BYTES: usize = 1_024;

/// Gives a receipt to the client, as a part of a response: `(Receipt::from(&receipt), body)`. Of
/// several in one response the newest counts.
///
/// An [`Appended`] or a [`Checkpoint`] in the extensions of a response does the same. In the
/// extensions of a request it is what the client brought and the read models contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt(pub Checkpoint);

impl From<&Appended> for Receipt {
    fn from(receipt: &Appended) -> Self {
        Self(receipt.checkpoint)
    }
}

impl From<Checkpoint> for Receipt {
    fn from(checkpoint: Checkpoint) -> Self {
        Self(checkpoint)
    }
}

impl IntoResponseParts for Receipt {
    type Error = Infallible;

    fn into_response_parts(self, mut parts: ResponseParts) -> Result<ResponseParts, Infallible> {
        let extensions = parts.extensions_mut();
        let before = extensions.get::<Self>().map(|receipt| receipt.0);
        extensions.insert(Self(newest(before, self.0)));
        Ok(parts)
    }
}

impl IntoResponse for Receipt {
    fn into_response(self) -> Response {
        (self, ()).into_response()
    }
}

/// The newest receipt that a handler left in the extensions of its response.
pub(crate) fn left_in(extensions: &Extensions) -> Option<Checkpoint> {
    let own = extensions.get::<Receipt>().map(|receipt| receipt.0);
    let appended = extensions.get::<Appended>().map(Checkpoint::from);
    let checkpoint = extensions.get::<Checkpoint>().copied();
    let all = [own, appended, checkpoint].into_iter().flatten();
    all.fold(None, |before, receipt| Some(newest(before, receipt)))
}

/// The newest receipt in the headers of a request.
pub(crate) fn brought_in(headers: &HeaderMap) -> Result<Option<Checkpoint>, Malformed> {
    let mut brought = None;
    for value in headers.get_all(RECEIPT) {
        for text in text(value.as_bytes())?.split(',') {
            brought = Some(newest(brought, parse(text)?));
        }
    }
    Ok(brought)
}

/// What a client calls a receipt and is none.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The receipt of a text.
pub(crate) fn parse(text: &str) -> Result<Checkpoint, Malformed> {
    text.trim().parse().map_err(|_| Malformed)
}

/// The text of a header, unless it is too long.
pub(crate) fn text(value: &[u8]) -> Result<&str, Malformed> {
    let text = std::str::from_utf8(value).map_err(|_| Malformed)?;
    (text.len() <= MAX_BYTES).then_some(text).ok_or(Malformed)
}

/// The one that is farther in the log; of two at one position the second one.
pub(crate) fn newest(before: Option<Checkpoint>, receipt: Checkpoint) -> Checkpoint {
    match before {
        Some(before) if before.position > receipt.position => before,
        _ => receipt,
    }
}

/// The value of a header.
pub(crate) fn header(receipt: Checkpoint) -> Option<HeaderValue> {
    HeaderValue::try_from(receipt.to_string()).ok()
}
