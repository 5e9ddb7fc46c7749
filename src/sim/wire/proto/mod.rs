//! The messages and services of `proto/*.proto`, generated. `tests/wire_codegen.rs` keeps them in step.

#![allow(
    missing_docs,
    clippy::all,
    clippy::disallowed_types,
    clippy::wildcard_enum_match_arm,
    reason = "generated code"
)]

/// `google`.
pub mod google {
    /// `google.rpc`.
    pub mod rpc {
        include!("google.rpc.rs");
    }
}

/// `event_store`.
pub mod event_store {
    /// `event_store.client`.
    pub mod client {
        include!("event_store.client.rs");

        /// `event_store.client.gossip`.
        pub mod gossip {
            include!("event_store.client.gossip.rs");
        }

        /// `event_store.client.operations`.
        pub mod operations {
            include!("event_store.client.operations.rs");
        }

        /// `event_store.client.projections`.
        pub mod projections {
            include!("event_store.client.projections.rs");
        }

        /// `event_store.client.server_features`.
        pub mod server_features {
            include!("event_store.client.server_features.rs");
        }

        /// `event_store.client.streams`.
        pub mod streams {
            include!("event_store.client.streams.rs");
        }
    }
}

pub use event_store::client::{gossip, operations, projections, server_features, streams};
