//! A simulated EventStoreDB cluster on a simulated EC2: a pure, deterministic world with two faces, the ports (in process,
//! virtual time) and the wire (gRPC, HTTP and the EC2 Query API on loopback).
//!
//! A double of the surroundings, never of the product.

pub mod model;
pub mod ports;
#[cfg(feature = "projections")]
pub mod projections;
#[cfg(feature = "esdb")]
pub mod wire;
pub mod world;
