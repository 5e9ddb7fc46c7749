//! Small cases, all of them: an update of three voters and a replica, in which one thing goes wrong once. Each append and each call that changes
//! something is refused in each class, done unheard, lost unheard, late, delivered twice, and survived by nobody; the judge of the seeds judges.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::on_all_processors;
use crate::play::{Played, play};
use crate::scenario::{Planned, Scenario, Site, Wrong};

/// What can go wrong with an append. A refusal for good is no fault of one append, but of the store's rights.
const OF_APPENDS: &[Wrong] = &[
    Wrong::LostUnheard,
    Wrong::DoneUnheard,
    Wrong::Late,
    Wrong::Twice(0),
    Wrong::Twice(3_000),
    Wrong::CrashBefore,
    Wrong::CrashAfter,
];

/// What can go wrong with a call.
const OF_CALLS: &[Wrong] = &[
    Wrong::Soon,
    Wrong::Capacity,
    Wrong::Unsettled,
    Wrong::Mending,
    Wrong::Credentials,
    Wrong::Never,
    Wrong::DoneUnheard,
    Wrong::LostUnheard,
    Wrong::Late,
    Wrong::Twice(0),
    Wrong::Twice(3_000),
    Wrong::CrashBefore,
    Wrong::CrashAfter,
];

fn scenario(planned: Option<Planned>) -> Scenario {
    Scenario { planned, ..Scenario::calm(7) }
}

/// What a single fault may cost, beside what the judge allows: nothing, unless somebody said no for good.
fn wanting(planned: Planned, played: &Played) -> Option<String> {
    if let Some(breach) = played.breaches.first() {
        return Some(format!("{}: {}", breach.rule, breach.what));
    }
    let final_word = matches!(planned.wrong, Wrong::Mending | Wrong::Never);
    let completed = played.verdict == "UpdateCompleted";
    if !(completed || final_word && played.verdict.starts_with("UpdateFailed")) {
        return Some(format!("ended as {}", played.verdict));
    }
    let twice = played.stops.iter().any(|n| *n > if final_word { 2 } else { 1 });
    let never = completed && played.stops.contains(&0);
    (twice || never).then(|| format!("{}, instances stopped {:?} times", played.verdict, played.stops))
}

#[test]
fn each_append_and_each_call_goes_wrong_once_in_each_way() {
    let calm = play(&scenario(None), None);
    assert_eq!((calm.verdict.as_str(), &calm.breaches), ("UpdateCompleted", &vec![]), "{}", calm.trace);
    let [appends, calls] = calm.counted;
    assert!(appends > 40 && calls >= 14, "{appends} appends, {calls} calls");
    let mut cases = Vec::new();
    for (site, count, wrongs) in [(Site::Append, appends, OF_APPENDS), (Site::Call, calls, OF_CALLS)] {
        cases.extend((0..count).flat_map(|at| wrongs.iter().map(move |wrong| Planned { site, at, wrong: *wrong })));
    }
    let verdicts: Mutex<BTreeMap<String, u32>> = Mutex::default();
    let failures: Mutex<Vec<(u64, String)>> = Mutex::default();
    on_all_processors(0, cases.len() as u64, |number| {
        let planned = cases[number as usize];
        let played = play(&scenario(Some(planned)), None);
        let hit = played.trace.contains(&format!(" {:?}\n", planned.wrong));
        let wrong = if hit { wanting(planned, &played) } else { Some("it never came to that".into()) };
        let verdict = format!("{:?} {:?}: {}", planned.site, planned.wrong, played.verdict);
        *verdicts.lock().unwrap().entry(verdict).or_default() += 1;
        if let Some(wrong) = wrong {
            let trace = if failures.lock().unwrap().is_empty() { played.trace.as_str() } else { "" };
            failures.lock().unwrap().push((number, format!("{planned:?}: {wrong}\n{trace}")));
        }
    });
    println!("{} cases: {appends} appends, {calls} calls", cases.len());
    for (verdict, times) in verdicts.into_inner().unwrap() {
        println!("{times:>8} {verdict}");
    }
    let failures = failures.into_inner().unwrap();
    let shown: Vec<&str> = failures.iter().map(|(_, text)| text.as_str()).collect();
    assert!(shown.is_empty(), "{} of {} cases\n{}", shown.len(), cases.len(), shown.join("\n"));
}
