//! Faults by name, for the command line.

use std::time::Duration;

use crate::sim::model::{Fault, WorldConfig};

impl Fault {
    /// Names that [`Fault::by_name`] knows, and what each fault does.
    pub const NAMES: &[(&str, &str)] = &[
        ("start-capacity", "EC2 has no capacity for the target type, the first two times"),
        ("start-capacity-forever", "EC2 has no capacity for the target type, ever"),
        ("start-unsupported", "the zone does not support the target type"),
        ("resign-ignored", "the first resignation is answered 200 and changes nothing"),
        ("resigned-wins-again", "the first leader to resign wins the election again"),
        ("comes-back-empty", "the first voter comes back without its data"),
        ("stays-silent", "the first voter's process does not answer for two minutes after its instance was started"),
        ("exits-once", "the first voter's process exits with code 0 once after it rejoined"),
        ("throttled", "EC2 throttles one call in five"),
        (
            "falls-back-to-stopped",
            "the first voter's instance falls back to stopped after its start, once, for want of capacity",
        ),
    ];

    /// The fault of this name, for a world of this configuration and an update to this type. `None` if there is no such name.
    pub fn by_name(name: &str, _config: &WorldConfig, target_type: &str) -> Option<Fault> {
        let node = 0;
        let start = |code: &str, times| Fault::StartFails {
            instance_type: target_type.to_owned(),
            code: code.to_owned(),
            times,
        };
        Some(match name {
            "start-capacity" => start("InsufficientInstanceCapacity", 2),
            "start-capacity-forever" => start("InsufficientInstanceCapacity", u32::MAX),
            "start-unsupported" => start("Unsupported", u32::MAX),
            "resign-ignored" => Fault::ResignationsIgnored { times: 1 },
            "resigned-wins-again" => Fault::ResignedLeaderWinsAgain { times: 1 },
            "comes-back-empty" => Fault::ComesBackEmpty { node },
            "stays-silent" => Fault::StaysSilent { node, for_: Some(Duration::from_secs(120)) },
            "exits-once" => Fault::ExitsOnceAfterRejoining { node },
            "throttled" => Fault::Throttled { percent: 20 },
            "falls-back-to-stopped" => {
                Fault::FallsBackToStopped { node, reason: "Server.InsufficientInstanceCapacity".to_owned() }
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::world::tests::config;

    #[test]
    fn every_name_is_known() {
        for (name, _) in Fault::NAMES {
            assert!(Fault::by_name(name, &config(1), "m6i.xlarge").is_some(), "{name}");
        }
        assert_eq!(Fault::by_name("no such fault", &config(1), "m6i.xlarge"), None);
    }
}
