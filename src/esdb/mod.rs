//! The EventStoreDB adapter: the only place that says `eventstore`, and the nodes' HTTP calls.
//!
//! [`EventStoreLog`] is the store of events, over the `eventstore` crate; [`HttpAdmin`] asks and tells single nodes, over plain
//! HTTP. The crate keeps a client that died, enforces no deadline, can spin and can panic: [`generation`] and
//! [`subscription`] are built around that, and nothing of it leaves this module.
//!
//! This module never installs a process-wide rustls provider: the crate does so itself, once, and fails for good if somebody
//! was faster.

mod admin;
mod connection;
mod diagnosis;
mod error;
mod everywhere;
mod generation;
mod gossip;
mod probe;
mod projections;
mod runtime;
mod store;
mod subscription;
mod tls;
mod unary;

use std::fmt;

pub use admin::{AdminConfig, HttpAdmin};
pub use connection::StoreConfig;
pub use probe::{PROBE_EVENT, ProbeError, ProbeEvent, Seen, WriteProbe, probe_id};
pub use projections::{ProjectionStatus, ProjectionText, Projections, ProjectionsError, ProjectionsLeader};
pub use store::EventStoreLog;

/// A user of EventStoreDB. The password is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Login name.
    pub user: String,
    /// Password.
    pub password: String,
}

impl Credentials {
    /// Login name and password.
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self { user: user.into(), password: password.into() }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).field("password", &"…").finish()
    }
}

/// A configuration with which no client can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: expected {expected}, found {found}; {remedy}")]
pub struct ConfigError {
    /// What is wrong, such as `the connection string`.
    pub what: String,
    /// What would be right.
    pub expected: String,
    /// What there is, without secrets.
    pub found: String,
    /// What to do.
    pub remedy: String,
}

impl ConfigError {
    fn new(
        what: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { what: what.into(), expected: expected.into(), found: found.into(), remedy: remedy.into() }
    }
}

/// An error with everything it rests on, in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(e) = source {
        let more = e.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = e.source();
    }
    text
}
