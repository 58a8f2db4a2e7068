//! A receipt in a cookie: browsers bring it back by themselves.

use std::time::Duration;

use backstory_event::{Checkpoint, Invalid};
use http::{HeaderMap, HeaderValue, header::COOKIE};

use crate::receipt::{Malformed, newest, parse, text};

/// A cookie that carries the newest receipt of a browser. It is `HttpOnly`, `SameSite=Lax`, for all
/// paths and, unless said otherwise, `Secure`.
///
/// Of changes that a browser makes at the same time, the one that is answered last decides which
/// receipt it keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiptCookie {
    name: String,
    max_age: Duration,
    attributes: &'static str,
}

impl Default for ReceiptCookie {
    /// `backstory-receipt`, for a minute.
    fn default() -> Self {
        Self {
            name: "backstory-receipt".to_owned(),
            max_age: Duration::from_secs(60),
            attributes: "Path=/; HttpOnly; SameSite=Lax; Secure",
        }
    }
}

impl ReceiptCookie {
    /// With another name: programs on one host share their cookies, whatever their ports.
    ///
    /// # Errors
    /// When it is empty, longer than 64 bytes, or holds more than letters, digits, `-`, `_`, `.`.
    pub fn with_name(mut self, name: &str) -> Result<Self, Invalid> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || name.len() > 64 || !name.bytes().all(fits) {
            let reason = "take 1 to 64 letters, digits, `-`, `_` or `.`";
            return Err(Invalid::new("cookie name", name, reason));
        }
        self.name = name.to_owned();
        Ok(self)
    }

    /// Kept for so long after the last change, in whole seconds: longer than read models may be
    /// behind.
    #[must_use]
    pub fn with_max_age(mut self, max_age: Duration) -> Self {
        self.max_age = max_age;
        self
    }

    /// Also over connections that are not encrypted.
    #[must_use]
    pub fn without_tls(mut self) -> Self {
        self.attributes = "Path=/; HttpOnly; SameSite=Lax";
        self
    }

    /// The newest receipt in the cookies of a request.
    pub(crate) fn brought_in(&self, headers: &HeaderMap) -> Result<Option<Checkpoint>, Malformed> {
        let mut brought = None;
        let values = headers.get_all(COOKIE).into_iter();
        for pair in values.flat_map(|value| value.as_bytes().split(|byte| *byte == b';')) {
            let pair = pair.trim_ascii();
            let value = pair.strip_prefix(self.name.as_bytes());
            if let Some(value) = value.and_then(|rest| rest.strip_prefix(b"=")) {
                brought = Some(newest(brought, parse(text(value)?)?));
            }
        }
        Ok(brought)
    }

    /// Gives a receipt to the browser.
    pub(crate) fn set(&self, receipt: Checkpoint) -> Option<HeaderValue> {
        self.header(&receipt.to_string(), self.max_age.as_secs())
    }

    /// Takes it back.
    pub(crate) fn clear(&self) -> Option<HeaderValue> {
        self.header("", 0)
    }

    fn header(&self, value: &str, max_age: u64) -> Option<HeaderValue> {
        let Self {
            name, attributes, ..
        } = self;
        HeaderValue::try_from(format!("{name}={value}; Max-Age={max_age}; {attributes}")).ok()
    }
}
