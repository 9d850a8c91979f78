//! Reasons why etcd did not do what it was asked.

use tonic::{Code, Status};

/// An error of a call. After [`EtcdError::Unreachable`] a write may have been made all the same;
/// after any other error it was not.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EtcdError {
    /// No connection, no leader, or no answer in time.
    #[error("etcd is out of reach: {0}")]
    Unreachable(String),
    /// The revision that was asked for is no longer kept.
    #[error("etcd has compacted the revision")]
    Compacted,
    /// The quota of etcd is used up, and it takes no writes.
    #[error("etcd's space is exhausted (NOSPACE)")]
    NoSpace,
    /// The token has expired, or is of another store.
    #[error("etcd refuses the token: {0}")]
    Token(String),
    /// The user may not do this, or user and password are wrong.
    #[error("etcd refuses it: {0}")]
    Denied(String),
    #[error("etcd: {0}")]
    Other(String),
}

impl EtcdError {
    /// Error of `Authenticate`. A status that means a stale token elsewhere means a wrong password
    /// here.
    pub(super) fn of_login(status: &Status) -> EtcdError {
        match EtcdError::from(status) {
            error @ (EtcdError::Unreachable(_) | EtcdError::NoSpace) => error,
            _ => EtcdError::Denied(status.message().to_owned()),
        }
    }

    /// Error of a watch that etcd has canceled, with a reason in words.
    pub(super) fn of_reason(reason: &str) -> EtcdError {
        match reason {
            text if text.contains("permission denied") => EtcdError::Denied(text.to_owned()),
            text if text.contains("auth") || text.contains("token") => {
                EtcdError::Token(text.to_owned())
            }
            text => EtcdError::Unreachable(format!("the watch was canceled: {text}")),
        }
    }
}

impl From<&Status> for EtcdError {
    fn from(status: &Status) -> EtcdError {
        let text = || match std::error::Error::source(status) {
            Some(cause) => format!("{}: {}", status.message(), super::text_of(cause)),
            None => status.message().to_owned(),
        };
        match status.code() {
            Code::OutOfRange if status.message().contains("compacted") => EtcdError::Compacted,
            Code::ResourceExhausted if status.message().contains("space exceeded") => {
                EtcdError::NoSpace
            }
            Code::Unauthenticated => EtcdError::Token(text()),
            Code::InvalidArgument if status.message().contains("auth") => EtcdError::Token(text()),
            Code::InvalidArgument if status.message().contains("user name is empty") => {
                EtcdError::Denied("it asks for a user and a password".to_owned())
            }
            Code::PermissionDenied => EtcdError::Denied(text()),
            Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Unknown
            | Code::Internal
            | Code::Aborted
            | Code::ResourceExhausted => EtcdError::Unreachable(text()),
            _ => EtcdError::Other(text()),
        }
    }
}
