//! What strikes rarely, or lasts: drawn beside the rest by a generator of its own.

use std::time::Duration;

use esdb_rollout::sim::model::Fault;
use esdb_rollout::sim::world::Random;

use crate::scenario::{Act, EC2_CODES, OLD, Scenario};

/// What this seed draws after everything else.
pub fn draw(s: &mut Scenario) {
    let mut r = Random::named(s.seed, "rare");
    let (voters, count) = (s.world.voters, s.world.voters + s.world.replicas);
    let end = s.heal_at.as_millis() as u64;
    let node = |r: &mut Random| r.below(count as u64) as usize;
    let mut faults = Vec::new();
    if r.percent(6) {
        let most = if r.percent(20) { 20 * 60_000 } else { 90_000 };
        faults.push(Fault::StopHangs { node: node(&mut r), for_: r.millis(15_000, most) });
    }
    if r.percent(6) {
        let code = r.pick(EC2_CODES).expect("there are codes").to_owned();
        faults.push(Fault::EveryStartFails { code, for_: r.millis(5_000, 300_000) });
    }
    if r.percent(5) {
        faults.push(Fault::CredentialsExpire { for_: r.millis(5_000, 300_000) });
    }
    if r.percent(6) {
        let reasons = ["Server.ScheduledStop", "Client.UserInitiatedShutdown", "Client.InstanceInitiatedShutdown"];
        let reason = r.pick(&reasons).expect("there are reasons").to_owned();
        faults.push(Fault::SomebodyStops { node: node(&mut r), reason, after: r.millis(100, 30_000) });
    }
    if r.percent(4) {
        let to = r.pick(&["m6i.2xlarge", OLD]).expect("there are types").to_owned();
        faults.push(Fault::SomebodyChangesType { to });
    }
    if r.percent(6) && voters > 2 {
        faults.push(Fault::OthersFreeze { for_: r.millis(5_000, 180_000) });
    }
    if r.percent(10) {
        for _ in 0..1 + r.below(2) {
            let (at, n) = (r.millis(0, end), r.below(voters as u64) as usize);
            let later = at + r.millis(5_000, 150_000);
            s.acts.extend([(at, Act::HangVolume(n)), (later, Act::FreeVolume(n))]);
        }
        s.acts.sort_by_key(|(at, _)| *at);
    }
    // A clone for hours, which is as long to play.
    if r.below(500) == 0 && voters > 2 {
        faults.push(Fault::ComesBackEmpty { node: node(&mut r) });
        s.world.initial_log_bytes = 10_000_000;
        // What is written meanwhile comes to 1.4 kB/s.
        s.world.catch_up_bytes_per_second = 2_500 + r.below(1_500);
        s.world.load_bytes_per_second = 100;
        s.ends_within += Duration::from_secs(4 * 3600);
    }
    if r.percent(8) {
        for _ in 0..1 + r.below(2) {
            let (at, least) = (r.millis(0, end), r.millis(1_000, 6_000));
            let later = at + r.millis(10_000, 180_000);
            s.acts.extend([(at, Act::StoreIsSlow(least)), (later, Act::StoreIsQuick)]);
        }
        s.acts.sort_by_key(|(at, _)| *at);
    }
    if r.percent(8) && voters > 2 {
        faults.push(Fault::OthersVolumesCrawl { every: r.millis(1_000, 15_000), for_: r.millis(20_000, 300_000) });
    }
    s.world.faults.extend(faults);
    let crawls = s.world.faults.iter().any(|fault| matches!(fault, Fault::OthersVolumesCrawl { .. }));
    if crawls || s.acts.iter().any(|(_, act)| matches!(act, Act::HangVolume(_))) {
        // Where one voter lags and another loses its data, what a quorum has acknowledged is lost with the next leader, and nobody can mend that.
        s.acts.retain(|(_, act)| !matches!(act, Act::LoseData(..)));
        s.world.faults.retain(|fault| !matches!(fault, Fault::ComesBackEmpty { .. }));
    }
}
