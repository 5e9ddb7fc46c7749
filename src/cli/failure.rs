//! How a command fails: with an exit code, and a chain of reasons that ends in a remedy.

use std::fmt;

use crate::config::ConfigError;
use crate::exit::Exit;
use crate::ports::{AppendError, ReadError};

/// Why a command could not do what it was asked to.
#[derive(Debug)]
pub enum Failure {
    /// Something failed.
    Error {
        /// The exit code.
        exit: Exit,
        /// Why, innermost last.
        error: anyhow::Error,
    },
    /// Whoever read stdout has gone: nothing is wrong.
    BrokenPipe,
}

const STORE_REMEDY: &str = "check the connection string (--store, or `connection` in the configuration), the network, and that the \
                            store has a leader; trying again is safe";

impl Failure {
    /// The command line or the configuration is wrong.
    pub fn usage(text: impl fmt::Display) -> Self {
        Self::Error { exit: Exit::Usage, error: anyhow::anyhow!("{text}") }
    }

    /// Refused; nothing was done.
    pub fn refused(text: impl fmt::Display) -> Self {
        Self::Error { exit: Exit::Refused, error: anyhow::anyhow!("{text}") }
    }

    /// The store or AWS cannot be reached.
    pub fn unreachable(text: impl fmt::Display) -> Self {
        Self::Error { exit: Exit::Unreachable, error: anyhow::anyhow!("{text}") }
    }

    /// Anything else.
    pub fn other(error: impl Into<anyhow::Error>) -> Self {
        Self::Error { exit: Exit::Other, error: error.into() }
    }

    /// Says what was being done.
    pub fn during(self, what: impl fmt::Display + Send + Sync + 'static) -> Self {
        match self {
            Self::Error { exit, error } => Self::Error { exit, error: error.context(what.to_string()) },
            Self::BrokenPipe => Self::BrokenPipe,
        }
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Error { exit, .. } => *exit,
            Self::BrokenPipe => Exit::Completed,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error { error, .. } => write!(f, "{error:#}"),
            Self::BrokenPipe => f.write_str("the reader of stdout has gone"),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::usage(error)
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Unavailable { .. } => Self::unreachable(format!("{error}; {STORE_REMEDY}")),
            ReadError::Denied { .. } => Self::other(anyhow::anyhow!("{error}; check the user's rights")),
            ReadError::Refused { .. } => Self::other(error),
        }
    }
}

impl From<AppendError> for Failure {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Unavailable { .. } => Self::unreachable(format!("{error}; {STORE_REMEDY}")),
            AppendError::Unknown { .. } => {
                Self::unreachable(format!("{error}; look with `esdb-rollout history` before asking again"))
            }
            AppendError::Denied { .. } => Self::other(anyhow::anyhow!("{error}; check the user's rights")),
            AppendError::Refused { .. } => Self::other(error),
            AppendError::Conflict { .. } => {
                Self::other(anyhow::anyhow!("{error}; somebody keeps writing there: try again"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_have_their_codes_and_remedies() {
        let unavailable = ReadError::Unavailable { what: "x".into(), found: "nothing".into() };
        let failure = Failure::from(unavailable).during("reading update 1");
        assert_eq!(failure.exit(), Exit::Unreachable);
        let text = failure.to_string();
        assert!(
            text.starts_with("reading update 1: the store does not answer the read of x: nothing; check"),
            "{text}"
        );
        assert_eq!(Failure::BrokenPipe.exit(), Exit::Completed);
        assert_eq!(Failure::usage("x").exit(), Exit::Usage);
    }
}
