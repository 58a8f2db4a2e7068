//! Answers of the layer itself, as problem details (RFC 9457).

use http::{
    HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};

/// An answer for people and programs. The texts need no escaping.
pub(crate) fn problem<R: From<String>>(
    status: StatusCode,
    code: &'static str,
    detail: &'static str,
) -> Response<R> {
    let title = status.canonical_reason().unwrap_or("Error");
    let number = status.as_u16();
    let body = format!(
        r#"{{"type":"about:blank","title":"{title}","status":{number},"code":"{code}","detail":"{detail}"}}"#
    );
    let mut response = Response::new(R::from(body));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    let never = HeaderValue::from_static("no-store");
    response.headers_mut().insert(CACHE_CONTROL, never);
    response
}
