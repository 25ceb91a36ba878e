//! The one kind of error of this crate.

use std::time::Duration;

use rmpv::Value;

pub use crate::contract::Code;

/// What a server answered, what became of a connection, or an argument that no server needs to see (`BadRequest`).
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{}: {message}", code.as_str())]
#[non_exhaustive]
pub struct Error {
    /// One of the contract's closed list.
    pub code: Code,
    /// Whether the same request may succeed later.
    pub retriable: bool,
    /// For people.
    pub message: String,
    /// When to come again, where the server says so.
    pub retry_after: Option<Duration>,
    /// What else the server said: a map, or nil.
    pub detail: Value,
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Error { code, retriable: code.retriable(), message: message.into(), retry_after: None, detail: Value::Nil }
    }

    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Error::new(Code::BadRequest, message)
    }

    pub(crate) fn late(method: &str) -> Self {
        Error::new(Code::DeadlineExceeded, format!("{method}: no answer in time"))
    }

    pub(crate) fn closed() -> Self {
        Error { retriable: false, ..Error::new(Code::NotReady, "the client is closed") }
    }

    /// One value of `detail`.
    pub fn detail(&self, key: &str) -> Option<&Value> {
        let entries = self.detail.as_map()?;
        entries.iter().find(|(name, _)| name.as_str() == Some(key)).map(|(_, value)| value)
    }
}
