//! The words of the field: nodes, instances, what a cluster was seen to be, and the arithmetic of its quorum.
//!
//! Pure: no I/O, no clock, no randomness. Knows nothing else of this crate.

// A new event or state must be thought about everywhere.
#![deny(clippy::wildcard_enum_match_arm)]

pub mod agreement;
pub mod catch_up;
pub mod cluster;
pub mod ec2;
pub mod ids;
pub mod inspection;
pub mod instance;
pub mod quorum;
pub mod time;
pub mod watch;
