//! The recordings of real clusters in `tests/recorded`, and which of their lines the simulated nodes do not answer alike.

use std::path::Path;

use serde_json::{Map, Value};

/// A line.
pub type Recording = Map<String, Value>;

/// A file of recordings: one call or request and its answer a line.
pub struct File {
    /// Its name in `tests/recorded`.
    pub name: &'static str,
    /// What was asked.
    pub what: &'static str,
    /// The test that replays it.
    pub replayed_by: &'static str,
    /// Lines that are not answered alike: the case, the callers (all, if none is named), and what is said instead.
    pub excused: &'static [(&'static str, &'static [&'static str], &'static str)],
    /// Lines that are answered alike but for what is said here.
    pub noted: &'static [(&'static str, &'static str)],
}

const NO_GROUPS: &str = "UNIMPLEMENTED: persistent subscriptions are not simulated";

/// gRPC calls.
pub const GRPC: File = File {
    name: "grpc-23.10.5.jsonl",
    what: "gRPC calls on leader, follower and replica",
    replayed_by: "tests/wire_recorded/streams.rs",
    excused: &[
        ("persistent create", &[], NO_GROUPS),
        ("persistent create again", &[], NO_GROUPS),
        ("persistent create on follower, requires-leader", &[], NO_GROUPS),
        ("persistent getinfo", &[], NO_GROUPS),
        ("persistent getinfo missing", &[], NO_GROUPS),
        ("persistent list all", &[], NO_GROUPS),
        ("persistent delete", &[], NO_GROUPS),
        ("persistent delete again", &[], NO_GROUPS),
    ],
    noted: &[
        ("read $all forwards 2", "same, once these events were appended: the nodes write none by themselves"),
        ("read $all backwards 1", "same, once this link was appended"),
        ("server features", "same for the services that the nodes have; the others are not named"),
    ],
};

/// Calls of `BatchAppend`.
pub const BATCH_APPEND: File = File {
    name: "batch-append-23.10.5.jsonl",
    what: "Batch append",
    replayed_by: "tests/wire_recorded/batch.rs",
    excused: &[],
    noted: &[],
};

/// HTTP requests.
pub const HTTP: File = File {
    name: "http-23.10.5.jsonl",
    what: "HTTP",
    replayed_by: "tests/wire_recorded/http.rs",
    excused: &[("scavenge start", &[], NO_SCAVENGE)],
    noted: &[],
};

/// HTTP requests to a cluster of 26.1.0.
pub const HTTP_26_1: File = File {
    name: "http-26.1.0.jsonl",
    what: "HTTP, of KurrentDB 26.1.0",
    replayed_by: "tests/wire_recorded/http.rs",
    excused: &[("scavenge start", &[], NO_SCAVENGE), ("scavenge last", &[], NO_SCAVENGE)],
    noted: &[],
};

const NO_SCAVENGE: &str = "501: scavenging is not simulated, nothing is ever removed from the log";
const NO_USERS: &str = "UNIMPLEMENTED: the Users service is not simulated, the users are given at the start";
const NO_PROJECTIONS: &str = "not replayed here: who may is, for the other callers";

/// gRPC calls on a secure cluster.
pub const GRPC_SECURE: File = File {
    name: "grpc-secure-23.10.5.jsonl",
    what: "gRPC calls on a secure cluster, by caller",
    replayed_by: "tests/wire_secure.rs",
    excused: &[
        ("create user worker, no groups", &[], NO_USERS),
        ("projection create", &["admin", "ops"], NO_PROJECTIONS),
        ("projection state", &["admin", "ops", "worker"], NO_PROJECTIONS),
        ("persistent subscription create", &["admin", "ops"], NO_GROUPS),
    ],
    noted: &[],
};

/// HTTP requests on a secure cluster.
pub const HTTP_SECURE: File = File {
    name: "http-secure-23.10.5.jsonl",
    what: "HTTP on a secure cluster, by caller",
    replayed_by: "tests/wire_secure.rs",
    excused: &[("scavenge, admin", &[], NO_SCAVENGE), ("scavenge, ops", &[], NO_SCAVENGE)],
    noted: &[],
};

/// All of them.
pub const FILES: &[File] = &[GRPC, BATCH_APPEND, HTTP, HTTP_26_1, GRPC_SECURE, HTTP_SECURE];

impl File {
    /// Its lines.
    pub fn lines(&self) -> Vec<Recording> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded").join(self.name);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        text.lines().map(|line| serde_json::from_str(line).expect("a recording")).collect()
    }

    /// Why a line is not answered as recorded, if it is not.
    pub fn excuse(&self, recording: &Recording) -> Option<&'static str> {
        let text = |key: &str| recording.get(key).and_then(Value::as_str).unwrap_or_default();
        let (case, caller) = (text("case"), text("as"));
        let found = self.excused.iter().find(|(c, who, _)| *c == case && (who.is_empty() || who.contains(&caller)));
        found.map(|(_, _, why)| *why)
    }
}

impl File {
    /// What the documentation says of a line.
    pub fn told(&self, recording: &Recording) -> &'static str {
        let case = recording.get("case").and_then(Value::as_str).unwrap_or_default();
        let noted = || self.noted.iter().find(|(c, _)| *c == case).map(|(_, note)| *note);
        self.excuse(recording).or_else(noted).unwrap_or("same")
    }
}

/// A header's value without what differs from process to process, the hash of the content type in a tag, and without the space at its
/// end that some readers keep.
pub fn comparable(header: &str, value: &str) -> String {
    match value.split_once(';') {
        Some((version, _)) if header.eq_ignore_ascii_case("ETag") => version.to_owned(),
        _ => value.trim_end().to_owned(),
    }
}

/// The package of a gRPC service.
pub fn package(service: &str) -> &'static str {
    match service {
        "PersistentSubscriptions" => "persistent_subscriptions",
        "Users" => "users",
        other => panic!("the package of {other}?"),
    }
}
