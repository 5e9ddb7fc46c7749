//! The whole product in a world where things go wrong: the worker's own loop over simulated ports, in virtual time, by seed.
//!
//! `cargo simulate` plays them by the thousand. A seed that breaks a rule is printed with the end of its trace and the command that plays it
//! again; `ESDB_ROLLOUT_SEED` names one seed, `ESDB_ROLLOUT_SEEDS` says how many (from that one on).

mod bugs;
mod exhaustive;
mod judge;
mod people;
mod play;
mod policy;
mod ports;
mod rare;
mod scenario;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bugs::Bug;
use play::{Played, play};
use scenario::{Act, Planned, Scenario, Side, Site, Wrong};

/// Seeds played where nobody says how many: enough to notice what is broken at large; `cargo simulate` is told more.
const FEW: u64 = 40;

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, it is {text:?}")))
}

/// The last lines of a trace, with what was drawn.
fn excerpt(played: &Played) -> String {
    let lines: Vec<&str> = played.trace.lines().collect();
    let broken = lines.iter().position(|l| l.contains("!!!")).unwrap_or(lines.len());
    let from = broken.saturating_sub(40).max(1);
    let to = (broken + 3).min(lines.len());
    format!("{}\n   …\n{}", lines.first().unwrap_or(&""), lines[from.min(to)..to].join("\n"))
}

fn again(seed: u64) -> String {
    format!("Again, with the whole trace:\n    ESDB_ROLLOUT_SEED={seed} cargo simulate -- one_seed --nocapture\n")
}

fn report(seed: u64, played: &Played) -> String {
    let rules: Vec<String> = played.breaches.iter().take(3).map(|b| format!("{}: {}", b.rule, b.what)).collect();
    format!("seed {seed} broke {}\n{}\n{}", rules.join("; "), excerpt(played), again(seed))
}

/// Plays seeds on as many threads as there are processors.
fn play_all(first: u64, count: u64, each: impl Fn(u64, Played) + Sync) {
    on_all_processors(first, count, |seed| {
        let played = std::panic::catch_unwind(|| play(&Scenario::drawn(seed), None)).unwrap_or_else(|panic| {
            eprintln!("seed {seed} panicked. {}", again(seed));
            std::panic::resume_unwind(panic)
        });
        each(seed, played);
    });
}

/// Does something for each number, on as many threads as there are processors.
fn on_all_processors(first: u64, count: u64, each: impl Fn(u64) + Sync) {
    let next = AtomicU64::new(first);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number >= first + count {
                        return;
                    }
                    each(number);
                }
            });
        }
    });
}

#[test]
fn no_seed_breaks_a_rule() {
    let first = from_environment("ESDB_ROLLOUT_SEED").unwrap_or(1);
    let count = from_environment("ESDB_ROLLOUT_SEEDS").unwrap_or(FEW);
    let failures: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let broken: Mutex<BTreeMap<&'static str, Vec<u64>>> = Mutex::default();
    let verdicts: Mutex<BTreeMap<String, u64>> = Mutex::default();
    let (calls, virtual_seconds) = (AtomicU64::new(0), AtomicU64::new(0));
    play_all(first, count, |seed, played| {
        *verdicts.lock().unwrap().entry(played.verdict.clone()).or_default() += 1;
        calls.fetch_add(played.calls, Ordering::Relaxed);
        virtual_seconds.fetch_add(played.lasted.as_secs(), Ordering::Relaxed);
        if let Some(breach) = played.breaches.first() {
            broken.lock().unwrap().entry(breach.rule).or_default().push(seed);
            let mut failures = failures.lock().unwrap();
            if failures.len() < 10 {
                failures.push(report(seed, &played));
            }
        }
    });
    println!(
        "{count} seeds from {first}: {} virtual hours, {} calls",
        virtual_seconds.into_inner() / 3600,
        calls.into_inner()
    );
    for (verdict, times) in verdicts.into_inner().unwrap() {
        println!("{times:>8} {verdict}");
    }
    let failures = failures.into_inner().unwrap();
    let mut broken = broken.into_inner().unwrap();
    broken.values_mut().for_each(|seeds| seeds.sort_unstable());
    assert!(failures.is_empty(), "{}\n{broken:?}", failures.join("\n"));
}

#[test]
fn one_seed() {
    let Some(seed) = from_environment("ESDB_ROLLOUT_SEED") else { return };
    let played = play(&Scenario::drawn(seed), None);
    println!("{}", played.trace);
    println!("{} after {} s, {} calls", played.verdict, played.lasted.as_secs(), played.calls);
    assert!(played.breaches.is_empty(), "{}", report(seed, &played));
}

/// Its owner accepts the downtime; the store is elsewhere.
fn few(voters: usize, replicas: usize) -> Scenario {
    let mut s = Scenario::calm(5);
    (s.world.voters, s.world.replicas) = (voters, replicas);
    s.world.addresses.truncate(voters + replicas);
    s.world.names.truncate(voters + replicas);
    s.store_elsewhere = true;
    s.request["acceptDowntime"] = serde_json::json!(true);
    s.steered = true;
    s
}

#[test]
fn clusters_of_one_and_two_voters_are_updated() {
    let check = |s: &Scenario| {
        let played = play(s, None);
        let seen = (played.verdict.as_str(), played.breaches.len(), &played.stops);
        assert_eq!(seen, ("UpdateCompleted", 0, &vec![1; s.world.names.len()]), "{}", played.trace);
        played.counted[Site::Append as usize]
    };
    for (voters, replicas) in [(1, 2), (2, 0), (2, 1)] {
        check(&few(voters, replicas));
    }
    // A sole node has nobody to gossip with: what is known of it does not rest on its entry being refreshed.
    for at in 0..check(&few(1, 0)) {
        for wrong in [Wrong::DoneUnheard, Wrong::LostUnheard, Wrong::CrashAfter] {
            check(&Scenario { planned: Some(Planned { site: Site::Append, at, wrong }), ..few(1, 0) });
        }
    }
}

#[test]
fn a_worker_that_is_cut_off_from_the_nodes_reboots_none_of_them() {
    let mut s = Scenario::calm(5);
    s.store_elsewhere = true;
    s.request["onSilentNode"] = serde_json::json!("reboot");
    s.first_answer_timeout = Duration::from_secs(60);
    s.heal_at = Duration::from_secs(400);
    // Of the replica, the first that is taken, it hears nothing more from its stop on.
    s.acts = vec![(Duration::from_secs(8), Act::CutOff(0, Side::Nodes, Duration::from_secs(300)))];
    s.steered = true;
    let played = play(&s, None);
    assert!(played.breaches.is_empty() && played.verdict == "UpdateCompleted", "{}", played.trace);
    assert!(played.trace.contains("InstanceStarted") && !played.trace.contains("Reboot"), "{}", played.trace);
}

/// Tokio's own random choices are seeded under its flag only, which `cargo simulate` sets.
#[cfg(tokio_unstable)]
#[test]
fn the_same_seed_gives_the_same_bytes() {
    for seed in [3, 17, 40, 41, 42] {
        let (one, other) = (play(&Scenario::drawn(seed), None), play(&Scenario::drawn(seed), None));
        let differs = one.trace.lines().zip(other.trace.lines()).find(|(a, b)| a != b);
        assert!(one.trace == other.trace, "seed {seed} gave two histories: {differs:?}");
        assert!(one.trace.lines().count() > 5, "seed {seed} is no history");
    }
    assert_ne!(play(&Scenario::drawn(3), None).trace, play(&Scenario::drawn(17), None).trace);
}

#[test]
fn the_page_names_each_bug_and_the_rule_that_catches_it() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/faults.md")).unwrap();
    let (_, table) = page.split_once("| bug | rule |\n| --- | --- |\n").unwrap();
    let rows: Vec<&str> = table.lines().take_while(|line| line.starts_with('|')).collect();
    let wanted: Vec<String> = Bug::ALL.iter().map(|(bug, rule)| format!("| `{bug:?}` | {rule} |")).collect();
    assert_eq!(rows, wanted);
}

/// Does the net catch fish?
#[test]
fn every_seeded_bug_is_caught_by_the_rule_that_forbids_it() {
    const SEEDS: u64 = 60;
    let mut missed = Vec::new();
    for (bug, rule) in Bug::ALL {
        // People who stop a voter pause the update now, so that few seeds come as far as the bug.
        let seeds = if *bug == Bug::SkipsQuorumCheck { 20 * SEEDS } else { SEEDS };
        let caught = (1..=seeds).find_map(|seed| {
            let played = play(&bug.scenario(seed), Some(*bug));
            played.breaches.into_iter().find(|b| b.rule == *rule).map(|b| (seed, b))
        });
        match caught {
            Some((seed, breach)) => println!("{:<24} {rule:<10} seed {seed:<3} {}", format!("{bug:?}"), breach.what),
            None => missed.push(format!("{bug:?} was not caught by {rule} in {seeds} seeds")),
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}
