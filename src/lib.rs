//! Event-sourced rolling changes of an EventStoreDB (KurrentDB) cluster on AWS EC2, without downtime.
//!
//! Pure inside, I/O at the rim; dependencies point inwards. `ARCHITECTURE.md` has the map, `tests/architecture.rs` keeps it true.

pub mod domain;
pub mod update;

pub mod lease;

pub mod codec;
pub mod ports;
pub mod worker;

pub mod cli;
pub mod config;
pub mod exit;
pub mod views;

#[cfg(feature = "ec2")]
pub mod ec2;
#[cfg(feature = "esdb")]
pub mod esdb;
#[cfg(all(feature = "esdb", feature = "ec2"))]
pub mod rehearsal;
pub mod sim;
