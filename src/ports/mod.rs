//! What the worker needs of the world, as traits. Adapters ([`crate::esdb`], [`crate::ec2`]) and the simulated world
//! ([`crate::sim`]) implement them; the worker knows none of those by name.

mod clock;
mod cluster_admin;
mod event_log;
mod fleet;

pub use clock::{Clock, SystemClock};
pub use cluster_admin::{ClusterAdmin, NodeError};
pub use event_log::{
    AppendError, Appended, EventLog, Expected, Feed, LocalRead, NewEvent, Position, ReadError, StartFrom, StoreProbe,
    StoredEvent,
};
pub use fleet::{CallClass, Done, Fleet, FleetError, Wanted};
