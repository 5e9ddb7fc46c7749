//! What is asked of the simulated world and what it answers: shared by its two faces.

use std::time::Duration;

use uuid::Uuid;

use crate::domain::ids::Address;

/// Number of a node in the world: voters first, then read-only replicas; node `n` runs on instance `n`.
pub type NodeIx = usize;

/// How the world begins, and how quick it is. Durations are as they pass in the world: speed is already applied.
#[derive(Clone, Debug, PartialEq)]
pub struct WorldConfig {
    /// Seed of everything random in the world.
    pub seed: u64,
    /// Voting nodes.
    pub voters: usize,
    /// Read-only replicas.
    pub replicas: usize,
    /// HTTP and gRPC address of each node, in order.
    pub addresses: Vec<Address>,
    /// Name of each node, in order: the tag `Name` of its instance.
    pub names: Vec<String>,
    /// Server version, such as `23.10.5.0`. From 24.10 on a resigning leader loses ties, and `esVersion`-dependent keys appear.
    pub version: String,
    /// Type of the instances at the start.
    pub instance_type: String,
    /// Types that EC2 offers, each with its architecture.
    pub offered_types: Vec<(String, String)>,
    /// From StopInstances to `stopped`.
    pub ec2_stop: Duration,
    /// From StartInstances to `running`.
    pub ec2_start: Duration,
    /// From `running` to the process's first HTTP answer.
    pub boot: Duration,
    /// Bytes per second at which a node that is behind fetches the log.
    pub catch_up_bytes_per_second: u64,
    /// Bytes per second of other clients' writes, as filler records.
    pub load_bytes_per_second: u64,
    /// Bytes of log that exist at the start.
    pub initial_log_bytes: u64,
    /// Faults to play.
    pub faults: Vec<Fault>,
}

/// A fault the world plays by itself. Names for the command line are given by [`Fault::by_name`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// StartInstances of a type fails with this code the first `times` times (`u32::MAX`: always).
    StartFails {
        /// The type that cannot be started.
        instance_type: String,
        /// EC2's code.
        code: String,
        /// How often.
        times: u32,
    },
    /// The first `times` resignations are answered 200 and change nothing.
    ResignationsIgnored {
        /// How often.
        times: u32,
    },
    /// The first `times` resigning leaders win the election again.
    ResignedLeaderWinsAgain {
        /// How often.
        times: u32,
    },
    /// The node with this number comes back without its data after its first stop.
    ComesBackEmpty {
        /// The node.
        node: NodeIx,
    },
    /// The process of this node does not answer after its instance was started (for `Duration`; for ever if `None`).
    StaysSilent {
        /// The node.
        node: NodeIx,
        /// How long.
        for_: Option<Duration>,
    },
    /// The node's process exits with code 0 once after rejoining and is started again by its supervisor.
    ExitsOnceAfterRejoining {
        /// The node.
        node: NodeIx,
    },
    /// Every EC2 call is throttled with this probability, in percent.
    Throttled {
        /// Percent.
        percent: u32,
    },
    /// The instance of this node is started by EC2 and falls back to `stopped` with this state reason (asynchronous failure).
    FallsBackToStopped {
        /// The node; any if `None`.
        node: Option<NodeIx>,
        /// Code of the state reason.
        reason: String,
        /// How often (`u32::MAX`: always).
        times: u32,
    },
    /// From the first start that it meets, every start fails with this code, whatever the type.
    EveryStartFails {
        /// EC2's code.
        code: String,
        /// For so long.
        for_: Duration,
    },
    /// The first `times` calls of this action are answered with this code and change nothing.
    CallFails {
        /// The action, such as `StopInstances`.
        action: String,
        /// EC2's code.
        code: String,
        /// How often.
        times: u32,
    },
    /// From the first stop on, EC2 accepts nobody's credentials.
    CredentialsExpire {
        /// For so long.
        for_: Duration,
    },
    /// The first stop of this node's instance takes so long.
    StopHangs {
        /// The node.
        node: NodeIx,
        /// How long.
        for_: Duration,
    },
    /// Somebody stops the instance of this node after it was stopped and started again, once.
    SomebodyStops {
        /// The node.
        node: NodeIx,
        /// Code of the state reason.
        reason: String,
        /// So long after it runs.
        after: Duration,
    },
    /// Somebody changes the type of the first instance that is stopped, at once.
    SomebodyChangesType {
        /// To.
        to: String,
    },
    /// When the first voter's instance is stopped, other voters freeze: so many that those left are no majority.
    OthersFreeze {
        /// For so long.
        for_: Duration,
    },
    /// When the first voter's instance is stopped, the volumes of as many other voters hang, while their sockets live.
    OthersVolumesHang {
        /// For so long.
        for_: Duration,
    },
    /// When the first voter's instance is stopped, the volumes of as many other voters write only now and then, all that awaits them at once.
    OthersVolumesCrawl {
        /// From one write to the next.
        every: Duration,
        /// For so long.
        for_: Duration,
    },
}

impl Fault {
    /// After how long it is over by itself, counted from when it strikes; `None` where it strikes a number of times, or for ever.
    pub fn passes_after(&self) -> Option<Duration> {
        match self {
            Fault::EveryStartFails { for_, .. }
            | Fault::CredentialsExpire { for_ }
            | Fault::StopHangs { for_, .. }
            | Fault::OthersFreeze { for_ }
            | Fault::OthersVolumesHang { for_ }
            | Fault::OthersVolumesCrawl { for_, .. } => Some(*for_),
            Fault::StaysSilent { for_, .. } => *for_,
            Fault::StartFails { .. }
            | Fault::ResignationsIgnored { .. }
            | Fault::ResignedLeaderWinsAgain { .. }
            | Fault::ComesBackEmpty { .. }
            | Fault::ExitsOnceAfterRejoining { .. }
            | Fault::Throttled { .. }
            | Fault::FallsBackToStopped { .. }
            | Fault::CallFails { .. }
            | Fault::SomebodyStops { .. }
            | Fault::SomebodyChangesType { .. } => None,
        }
    }
}

/// Whether and how a node's process answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reachability {
    /// Connections are refused.
    Refused,
    /// Connections are accepted, nothing is answered (frozen process or network).
    Silent,
    /// It answers.
    Answers,
}

/// A stored record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Position in the log, bytes: commit and prepare position.
    pub position: u64,
    /// Bytes it takes in the log.
    pub size: u64,
    /// Stream.
    pub stream: String,
    /// Number in the stream; `u64::MAX >> 1` (9223372036854775807) for a tombstone.
    pub revision: u64,
    /// Event id.
    pub id: Uuid,
    /// Event type.
    pub event_type: String,
    /// Whether it was appended with content type `application/json`.
    pub is_json: bool,
    /// Data.
    pub data: Vec<u8>,
    /// Custom metadata.
    pub metadata: Vec<u8>,
    /// When it was written: .NET ticks (100 ns) since 1970-01-01.
    pub created_ticks: i64,
}

/// One event of an append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProposedEvent {
    /// Event id.
    pub id: Uuid,
    /// Event type.
    pub event_type: String,
    /// Whether its content type is `application/json`.
    pub is_json: bool,
    /// Data.
    pub data: Vec<u8>,
    /// Custom metadata.
    pub metadata: Vec<u8>,
}

/// What an append, delete or tombstone demands of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpectedRevision {
    /// Anything.
    Any,
    /// The stream does not exist.
    NoStream,
    /// The stream exists.
    StreamExists,
    /// Its last event has this number.
    Exact(u64),
}

/// What is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Append these events.
    Append(Vec<ProposedEvent>),
    /// Delete the stream softly (`$tb`).
    Delete,
    /// Delete the stream for good.
    Tombstone,
}

/// How a write ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// Acknowledged: number of the last event (`None` for an empty append to no stream) and position of the last record.
    Done {
        /// Number of the last event.
        last_revision: Option<u64>,
        /// Log position.
        position: u64,
    },
    /// The stream is not as expected; its last number, `None` if it has no events.
    WrongExpectedVersion {
        /// Number of its last event.
        current: Option<u64>,
    },
    /// The stream is tombstoned.
    StreamDeleted,
    /// Total size over the limit of 1,048,576 bytes.
    TooLarge,
    /// See [`NotHandled`].
    NotHandled(NotHandled),
    /// ABORTED; the text after `Operation timed out: `. The outcome is unknown to the client.
    TimedOut(&'static str),
}

/// Why a node does not handle a request now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotHandled {
    /// UNAVAILABLE `Server Is Not Ready`.
    NotReady,
    /// NOT_FOUND `Leader info available` with the leader the node believes in (perhaps a dead one).
    NotLeader(Address),
    /// UNKNOWN `No leader info available in response`.
    NoLeaderInfo,
}

/// Direction of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Towards the end.
    Forwards,
    /// Towards the beginning.
    Backwards,
}

/// Where a read of a stream starts (inclusive).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamStart {
    /// At its beginning.
    Start,
    /// At its end.
    End,
    /// At this number.
    Revision(u64),
}

/// Where a read of `$all` starts (forwards inclusive, backwards exclusive).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllStart {
    /// At its beginning.
    Start,
    /// At its end.
    End,
    /// At this commit position.
    Position(u64),
}

/// Filter of a read of `$all`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Streams whose name begins with one of these.
    StreamPrefix(Vec<String>),
    /// Streams whose name matches this regular expression.
    StreamRegex(String),
    /// Events whose type begins with one of these.
    TypePrefix(Vec<String>),
    /// Events whose type matches this regular expression.
    TypeRegex(String),
}

/// A stream as a read sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamPage {
    /// The events asked for.
    pub records: Vec<Record>,
    /// Number of the first event that still exists (`$maxCount`, `$maxAge`, `$tb` hide older ones).
    pub first: u64,
    /// Number of the last event.
    pub last: u64,
}

/// How a read ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadOutcome<T> {
    /// Found.
    Found(T),
    /// Never written or softly deleted.
    NoStream,
    /// Tombstoned.
    StreamDeleted,
    /// See [`NotHandled`].
    NotHandled(NotHandled),
}

/// An EC2 error: code and message as EC2 words them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ec2Fault {
    /// EC2's code.
    pub code: String,
    /// EC2's message.
    pub message: String,
}
