//! The worker dies at each append and around each call of an update, one by one; another process of the same name goes on.

mod rig;

use std::time::Duration;

use esdb_rollout::update::state::End;
use rig::bomb::{Bomb, When, mined};
use rig::{Rig, lines, outline, quick_world, request};

/// Intents may be written again after a crash, and what waits may be said again; everything else is said once.
fn may_repeat(line: &str) -> bool {
    let name = line.split(' ').next().unwrap_or_default();
    name.ends_with("Requested") || name == "StepDelayed" || name == "WorkerAssigned"
}

async fn dies_at(at: usize, when: When) -> bool {
    let rig = Rig::new(quick_world(11));
    let truth = rig.watch_truth();
    rig.append(request("m6i.xlarge").into(), 1).await;
    let bomb = Bomb::new(at, when);
    let (worker, _stop) = mined(&rig, &bomb).spawn(0);
    tokio::select! {
        () = bomb.gone.notified() => {}
        // An update of a few minutes that ends without reaching that many appends and calls: there are no more.
        _ = rig.ended(Duration::from_secs(3600)) => {
            worker.abort();
            return false;
        }
    }
    worker.abort();
    let _ = worker.await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (successor, _stop) = rig.spawn(1);
    let (history, state) = rig.ended(Duration::from_secs(3600)).await;
    successor.abort();
    let shown = lines(&history);
    let which = format!("died {when:?} number {at}");
    assert!(matches!(state.end, Some(End::Completed(_))), "{which}: {:?}\n{shown}", state.end);
    assert_eq!(truth.check(), [1, 1, 1, 1], "{which}: each instance is stopped once\n{shown}");
    let outline = outline(&history);
    let mut once: Vec<&str> = outline.lines().filter(|l| !may_repeat(l)).collect();
    let all = once.len();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), all, "{which}: each fact stands once\n{shown}");
    true
}

async fn dies_at_each(when: When) {
    let mut at = 0;
    while dies_at(at, when).await {
        at += 1;
    }
    assert!(at > 60, "an update has more than 60 appends and calls, this one had {at}");
}

#[tokio::test(start_paused = true)]
async fn dying_before_each_append_and_call_loses_nothing_and_stops_nothing_twice() {
    dies_at_each(When::Before).await;
}

#[tokio::test(start_paused = true)]
async fn dying_after_each_append_and_call_loses_nothing_and_stops_nothing_twice() {
    dies_at_each(When::After).await;
}
