//! The process manager of one update: what was recorded ([`event`]), what follows from it ([`state`]), what comes next
//! ([`react`]), what must never be done ([`safety`]) and the second look before doing it ([`audit`]).
//!
//! Pure: no I/O, no clock, no randomness. Knows [`crate::domain`] only.

// A new event or state must be thought about everywhere.
#![deny(clippy::wildcard_enum_match_arm)]

pub mod action;
pub mod audit;
pub mod event;
pub mod limits;
pub mod observed;
pub mod plan;
pub mod react;
pub mod safety;
pub mod state;
pub mod strategy;
pub mod window;
