//! Names and ids. Each is a type of its own, so that one cannot be given for another.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(test, derive(schemars::JsonSchema))]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl $name {
            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(test, derive(schemars::JsonSchema))]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

text_id!(
    /// A cluster, by the name the configuration gives it.
    ClusterName
);
text_id!(
    /// A node of a cluster, by its configured name, its instance's `Name` tag, or its host and port.
    NodeName
);
text_id!(
    /// An EC2 instance id, such as `i-0abc`.
    InstanceId
);
text_id!(
    /// An EC2 instance type, such as `m6i.large`.
    InstanceType
);
text_id!(
    /// A worker, by the name its owner gave it.
    WorkerName
);
text_id!(
    /// A stream of the store.
    StreamName
);
uuid_id!(
    /// One update: one run of a rolling change over one cluster.
    UpdateId
);
uuid_id!(
    /// One life of a node's process: the `instanceId` of its gossip entry, new at every start.
    ProcessId
);
uuid_id!(
    /// One life of a worker process.
    Incarnation
);

/// Prefix of the streams that hold one update each.
pub const UPDATE_PREFIX: &str = "clusterUpdate-";
/// Prefix of the streams that admit updates, one stream a cluster.
pub const ADMISSION_PREFIX: &str = "updatedCluster-";
/// Prefix of the streams of the workers' heartbeats.
pub const WORKER_PREFIX: &str = "updateWorker-";
/// The stream of the discovery checkpoint.
pub const CHECKPOINT_STREAM: &str = "updateWorkerCheckpoint";

impl UpdateId {
    /// The stream of this update.
    pub fn stream(self) -> StreamName {
        StreamName(format!("{UPDATE_PREFIX}{}", self.0))
    }

    /// The update whose stream this is, if it is one: names of streams are told apart by each letter, so there is one form.
    pub fn from_stream(stream: &StreamName) -> Option<UpdateId> {
        let id = stream.0.strip_prefix(UPDATE_PREFIX)?;
        Uuid::parse_str(id).ok().map(UpdateId).filter(|update| update.stream() == *stream)
    }
}

impl ClusterName {
    /// The stream that admits updates of this cluster.
    pub fn admission_stream(&self) -> StreamName {
        StreamName(format!("{ADMISSION_PREFIX}{}", self.0))
    }
}

impl WorkerName {
    /// The stream of this worker's heartbeats.
    pub fn stream(&self) -> StreamName {
        StreamName(format!("{WORKER_PREFIX}{}", self.0))
    }
}

/// A position in a stream: the number of an event, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision that follows this one.
    pub fn next(self) -> Revision {
        Revision(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Host (name or IP address) and port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Address {
    /// Host name or IP address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Address {
    /// Host and port.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || format!("expected host:port, found `{text}`");
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let port: u16 = port.parse().map_err(|_| bad())?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(bad());
        }
        Ok(Address::new(host, port))
    }
}
