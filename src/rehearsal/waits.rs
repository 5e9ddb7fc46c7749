//! What an update has to wait for in any case: by EC2 and the servers, and by our own rules. Computed from constants and the world's
//! configuration, never from a run, so that a run can be compared with it.

use std::time::Duration;

use serde::Serialize;

use crate::domain::catch_up::{REFRESHES_NEEDED, SPAN_NEEDED};
use crate::sim::model::WorldConfig;
use crate::update::limits::{ACT_WINDOW, EC2_CALL_TIMEOUT, FENCE_APART};

/// A node renews its own gossip entry this often (`GossipIntervalMs`, 2 s, unchanged since 20.6): the clock that all our gates tick by.
const GOSSIP_INTERVAL: Duration = Duration::from_secs(2);

/// An election after a resignation: 0.9 s in the median of the recordings (0.2 to 2.6 s).
const ELECTION: Duration = Duration::from_millis(900);

/// Refreshes of every view that must name the same leader.
const AGREEING_REFRESHES: u32 = 2;

/// Before a leader resigns its lowered priority must be seen in its own entry: one interval at most.
const PRIORITY_GATE: Duration = GOSSIP_INTERVAL;

/// Before the former leader is stopped all views must agree on the new one in two refreshes in a row. The last of several nodes
/// to tick does so nearly a whole interval after the election, and a second time an interval later: two intervals.
///
/// Before any other stop agreement is due as well, but there the node before has just been judged caught up, which includes it:
/// it costs nothing.
const AGREEMENT_GATE: Duration = GOSSIP_INTERVAL.saturating_mul(AGREEING_REFRESHES);

/// EC2 has to say twice, this far apart, that the tag stands, before the stop, and that it is gone, before the next node.
const FENCE_GATE: Duration = FENCE_APART.saturating_mul(2);

/// The tag is not removed sooner than this after it was asked for: a call that writes it may be under way for as long. A node that is away
/// and catches up for longer has it behind it.
const TAG_SETTLED: Duration = ACT_WINDOW.saturating_add(EC2_CALL_TIMEOUT);

/// A node has caught up after three refreshes within the limit that span two seconds. The first comes with its new role, the other
/// two an interval each later: four seconds. (A process that has just started ticks every 0.1 s for two seconds and may give
/// the three sooner; then the span counts. Joining takes it about that long, so that this helps little.)
fn catch_up_gate() -> Duration {
    let intervals = u32::try_from(REFRESHES_NEEDED.saturating_sub(1)).unwrap_or(u32::MAX);
    GOSSIP_INTERVAL.saturating_mul(intervals).max(SPAN_NEEDED)
}

/// What an update has to wait for, and how a run compares with that.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Waits {
    /// For EC2, boot, missed bytes and one election.
    pub unavoidable_seconds: f64,
    /// For our own gates.
    pub gates_seconds: f64,
    /// The run's wall time over both.
    pub ratio: f64,
}

impl Waits {
    /// The waits of an update of every node of this world, one by one, that took `wall`.
    pub fn of(config: &WorldConfig, wall: Duration) -> Waits {
        let nodes = u32::try_from(config.voters + config.replicas).unwrap_or(u32::MAX);
        let away = config.ec2_stop + config.ec2_start + config.boot;
        let missed = away.as_secs_f64() * config.load_bytes_per_second as f64;
        let fetch = Duration::from_secs_f64(missed / config.catch_up_bytes_per_second.max(1) as f64);
        // A sole voter is stopped as it leads: nobody could take over.
        let resignations = u32::from(config.voters > 1);
        let unavoidable = (away + fetch) * nodes + ELECTION;
        let tagged_for = FENCE_APART + away + fetch + catch_up_gate();
        let untag_gate = TAG_SETTLED.saturating_sub(tagged_for);
        let gates =
            (FENCE_GATE + catch_up_gate() + untag_gate) * nodes + (PRIORITY_GATE + AGREEMENT_GATE) * resignations;
        let ratio = wall.as_secs_f64() / (unavoidable + gates).as_secs_f64();
        Waits {
            unavoidable_seconds: tenths(unavoidable),
            gates_seconds: tenths(gates),
            ratio: (ratio * 100.0).round() / 100.0,
        }
    }
}

/// Seconds, to a tenth.
pub(super) fn tenths(d: Duration) -> f64 {
    (d.as_secs_f64() * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rehearsal::stage::{Wishes, world_config};

    #[test]
    fn four_nodes_at_speed_ten() {
        let wishes = Wishes {
            seed: 1,
            speed: 10.0,
            voters: 3,
            replicas: 1,
            version: "23.10.5.0".into(),
            target_type: "m6i.xlarge".into(),
            fallback_types: Vec::new(),
            faults: vec![],
            tls: None,
            atom_pub: false,
        };
        let config = world_config(&wishes, vec![]).unwrap();
        let waits = Waits::of(&config, Duration::from_secs(60));
        // 4 × (4.5 + 2.5 + 1.0 + 8 MB at 20 MB/s) + 0.9, and 4 × (2 + 4 + (15 − (1 + 8 + 0.4 + 4))) + 2 + 4.
        assert_eq!((waits.unavoidable_seconds, waits.gates_seconds), (34.5, 36.4));
        assert_eq!(waits.ratio, 0.85);

        // At EC2's real pace no tag is waited for: 4 × (45 + 25 + 10 + 80 MB at 20 MB/s) + 0.9, and 4 × (2 + 4) + 2 + 4.
        let real = world_config(&Wishes { speed: 1.0, ..wishes }, vec![]).unwrap();
        let waits = Waits::of(&real, Duration::from_secs(60));
        assert_eq!((waits.unavoidable_seconds, waits.gates_seconds), (336.9, 30.0));
    }
}
