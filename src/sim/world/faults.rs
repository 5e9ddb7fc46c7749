//! Faults by name, for the command line.

use std::time::Duration;

use crate::sim::model::{Fault, WorldConfig};

/// For so long EC2 has no capacity at all: longer than all that is tried before a person is called. A world's speed does not shorten it.
const NO_CAPACITY: Duration = Duration::from_secs(5 * 60);

/// For so long credentials are not accepted: longer than it takes until a person is called. A world's speed does not shorten it.
const NO_CREDENTIALS: Duration = Duration::from_secs(3 * 60);

/// For so long other voters are frozen, or their volumes hang: the store is given up after 10 s without a leader, or a minute without an append.
/// A world's speed does not shorten it.
const FROZEN: Duration = Duration::from_secs(2 * 60);

/// From one write of a crawling volume to the next: an append that waits for it is acknowledged later than its call may be made.
/// A world's speed does not shorten it.
const CRAWLING: Duration = Duration::from_secs(12);

/// For so long it crawls: longer than a stop, and the minute of such appends after which the store is given up. A world's speed does not shorten
/// it.
const CRAWLS: Duration = Duration::from_secs(4 * 60);

/// From `running` until the next node is in hand, at any speed: our own gates.
const DONE_WITH: Duration = Duration::from_secs(8);

/// A hanging stop, in ordinary stops (45 s at speed 1): 20 minutes.
const HANGING_STOPS: u32 = 27;

/// A process that is late, in ordinary boots (10 s at speed 1): two minutes.
const LATE_BOOTS: u32 = 12;

impl Fault {
    /// Names that [`Fault::by_name`] knows, and what each fault does. Where each ends: `docs/ec2-failures.md`.
    pub const NAMES: &[(&str, &str)] = &[
        ("capacity", "EC2 never has capacity for the target type"),
        ("start-capacity", "EC2 has no capacity for the target type, the first two times"),
        (
            "falls-back-to-stopped",
            "the first voter's instance falls back to stopped after its start, once, for want of capacity",
        ),
        ("capacity-both-ways", "EC2 has no capacity for any type, for five minutes from the first start on"),
        ("start-unsupported", "the zone does not support the target type"),
        ("quota", "the account's vCPU quota has no room for the target type"),
        ("kms", "no instance starts again: whoever starts it may not use the key of its volumes"),
        ("host-fault", "the first voter's start fails inside EC2, twice"),
        ("throttled", "EC2 throttles one call in five"),
        ("credentials-expire", "EC2 accepts nobody's credentials, for three minutes from the first stop on"),
        ("stop-hangs", "the stop of the first voter's instance hangs, for 20 minutes at speed 1"),
        ("no-rejoin", "the first voter's process never answers after its instance was started, until it is rebooted"),
        ("stays-silent", "the first voter's process does not answer after its start, for two minutes at speed 1"),
        ("exits-once", "the first voter's process exits with code 0 once after it rejoined"),
        ("data-lost", "the first voter comes back without its data"),
        ("resign-ignored", "the first resignation is answered 200 and changes nothing"),
        ("leader-reelected", "the first leader to resign wins the election again"),
        ("store-lost", "another voter freezes as the first one's instance is stopped: the store has no leader"),
        (
            "store-hangs",
            "another voter's volume hangs as the first one's instance is stopped: the store has a leader, and takes no append",
        ),
        (
            "store-slow",
            "another voter's volume writes every 12 s only, from the stop of the first one's instance on: the store has a leader, and takes every append too late",
        ),
        ("foreign-type", "somebody gives the first instance that is stopped a third type"),
        ("foreign-stop", "somebody stops the first voter's instance just after its start"),
        ("scheduled-stop", "AWS stops the last node's instance for a scheduled event, while the next node is in hand"),
    ];

    /// Names that were given up, and the one that says the same.
    pub const FORMER_NAMES: &[(&str, &str)] = &[
        ("start-capacity-forever", "capacity"),
        ("resigned-wins-again", "leader-reelected"),
        ("comes-back-empty", "data-lost"),
    ];

    /// The name that says the same as one that was given up.
    pub fn renamed(name: &str) -> Option<&'static str> {
        Self::FORMER_NAMES.iter().find(|(former, _)| *former == name).map(|(_, now)| *now)
    }

    /// The fault of this name, for a world of this configuration and an update to this type. `None` if there is no such name.
    pub fn by_name(name: &str, config: &WorldConfig, target_type: &str) -> Option<Fault> {
        let node = 0;
        let start = |code: &str, times| Fault::StartFails {
            instance_type: target_type.to_owned(),
            code: code.to_owned(),
            times,
        };
        let falls_back =
            |node, reason: &str, times| Fault::FallsBackToStopped { node, reason: reason.to_owned(), times };
        // A type that the instance may have, and that is neither the old one nor the wanted one.
        let third = || {
            let architecture = |t: &str| config.offered_types.iter().find(|(name, _)| name == t).map(|(_, a)| a);
            let fits = |t: &&(String, String)| {
                t.0 != config.instance_type && t.0 != target_type && Some(&t.1) == architecture(&config.instance_type)
            };
            config.offered_types.iter().find(fits).map_or_else(|| config.instance_type.clone(), |(t, _)| t.clone())
        };
        Some(match Self::renamed(name).unwrap_or(name) {
            "capacity" => start("InsufficientInstanceCapacity", u32::MAX),
            "start-capacity" => start("InsufficientInstanceCapacity", 2),
            "falls-back-to-stopped" => falls_back(Some(node), "Server.InsufficientInstanceCapacity", 1),
            "capacity-both-ways" => {
                Fault::EveryStartFails { code: "InsufficientInstanceCapacity".to_owned(), for_: NO_CAPACITY }
            }
            "start-unsupported" => start("Unsupported", u32::MAX),
            "quota" => start("VcpuLimitExceeded", u32::MAX),
            "kms" => falls_back(None, "Client.InternalError", u32::MAX),
            "host-fault" => falls_back(Some(node), "Server.InternalError", 2),
            "throttled" => Fault::Throttled { percent: 20 },
            "credentials-expire" => Fault::CredentialsExpire { for_: NO_CREDENTIALS },
            "stop-hangs" => Fault::StopHangs { node, for_: config.ec2_stop * HANGING_STOPS },
            "no-rejoin" => Fault::StaysSilent { node, for_: None },
            "stays-silent" => Fault::StaysSilent { node, for_: Some(config.boot * LATE_BOOTS) },
            "exits-once" => Fault::ExitsOnceAfterRejoining { node },
            "data-lost" => Fault::ComesBackEmpty { node },
            "resign-ignored" => Fault::ResignationsIgnored { times: 1 },
            "leader-reelected" => Fault::ResignedLeaderWinsAgain { times: 1 },
            "store-lost" => Fault::OthersFreeze { for_: FROZEN },
            "store-hangs" => Fault::OthersVolumesHang { for_: FROZEN },
            "store-slow" => Fault::OthersVolumesCrawl { every: CRAWLING, for_: CRAWLS },
            "foreign-type" => Fault::SomebodyChangesType { to: third() },
            "foreign-stop" => Fault::SomebodyStops {
                node,
                reason: "Client.UserInitiatedShutdown".to_owned(),
                after: Duration::from_secs(1),
            },
            "scheduled-stop" => Fault::SomebodyStops {
                node: (config.voters + config.replicas).saturating_sub(1),
                reason: "Server.ScheduledStop".to_owned(),
                after: config.ec2_start * 2 + DONE_WITH,
            },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::world::tests::config;

    #[test]
    fn every_name_is_known_and_former_ones_say_the_same_as_their_successors() {
        let by_name = |name| Fault::by_name(name, &config(1), "m6i.xlarge");
        for (name, _) in Fault::NAMES {
            assert!(by_name(name).is_some(), "{name}");
        }
        for (former, now) in Fault::FORMER_NAMES {
            assert!(Fault::NAMES.iter().any(|(name, _)| name == now), "{now}");
            assert!(!Fault::NAMES.iter().any(|(name, _)| name == former), "{former}");
            assert_eq!(by_name(former), by_name(now));
        }
        assert_eq!(by_name("no such fault"), None);
    }
}
