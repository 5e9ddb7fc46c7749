//! Maintenance windows: when they open by a cron pattern in a time zone, and for how long they stay open.

use croner::Cron;
use croner::parser::{CronParser, Seconds};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp};

use super::event::{Reason, Window};

/// The longest window, minutes: a week.
const MINUTES_MAX: u32 = 7 * 24 * 60;

/// What is wrong with a window.
pub fn check(window: &Window) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let mut bad = |found: String, wanted: &str| {
        reasons.push(Reason {
            code: "badWindow".into(),
            found,
            wanted: wanted.into(),
            remedy: "ask again with a corrected window (`start --window CRON/MINUTES/ZONE`)".into(),
        });
    };
    if let Err(error) = cron(window) {
        bad(
            format!("cron {:?}: {error}", window.cron),
            "minute, hour, day of month, month, day of week: `0 2 * * SAT`",
        );
    }
    if !(1..=MINUTES_MAX).contains(&window.minutes) {
        bad(format!("minutes {}", window.minutes), "from 1 to 10080, a week");
    }
    if zone(window).is_none() {
        bad(format!("timeZone {:?}", window.time_zone), "a name of the IANA time zone database: `Europe/Madrid`");
    }
    reasons
}

/// Whether the window is open: whether one of its openings lies within its length before `now`. A window that cannot be read is never open.
///
/// Openings are local times: one that a change of the clocks skips does not come that day, one that comes twice opens twice.
pub fn is_open(window: &Window, now: Timestamp) -> bool {
    let (Ok(cron), Some(zone)) = (cron(window), zone(window)) else { return false };
    let minute = Timestamp::from_second(now.as_second().div_euclid(60) * 60).unwrap_or(now);
    (0..window.minutes.min(MINUTES_MAX)).any(|ago| {
        let at = minute.checked_sub(SignedDuration::from_mins(i64::from(ago)));
        at.is_ok_and(|at| cron.is_time_matching(&at.to_zoned(zone.clone())).unwrap_or(false))
    })
}

fn cron(window: &Window) -> Result<Cron, String> {
    CronParser::builder().seconds(Seconds::Disallowed).build().parse(&window.cron).map_err(|e| e.to_string())
}

/// From the data that this program brings along: the same on every worker.
fn zone(window: &Window) -> Option<TimeZone> {
    TimeZoneDatabase::bundled().get(&window.time_zone).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(cron: &str, minutes: u32, time_zone: &str) -> Window {
        Window { cron: cron.into(), minutes, time_zone: time_zone.into() }
    }

    #[test]
    fn table() {
        let nights = window("0 2 * * SAT,SUN", 180, "Europe/Madrid");
        let rows = [
            // In summer Madrid is two hours ahead.
            (&nights, "2026-07-03T23:59:59Z", false),
            (&nights, "2026-07-04T00:00:00Z", true),
            (&nights, "2026-07-04T02:59:59Z", true),
            (&nights, "2026-07-04T03:00:00Z", false),
            (&nights, "2026-07-06T00:30:00Z", false),
            // In winter one.
            (&nights, "2026-01-03T00:30:00Z", false),
            (&nights, "2026-01-03T01:00:00Z", true),
            // On that Sunday the clocks go from 02:00 to 03:00: 02:00 does not come.
            (&nights, "2026-03-29T01:30:00Z", false),
            // And on this one 02:00 comes twice: it is open from the first to three hours after the second.
            (&nights, "2026-10-25T00:00:00Z", true),
            (&nights, "2026-10-25T03:59:00Z", true),
            (&nights, "2026-10-25T04:00:00Z", false),
            // Past midnight.
            (&window("30 23 * * *", 60, "UTC"), "2026-07-04T00:29:00Z", true),
            (&window("30 23 * * *", 60, "UTC"), "2026-07-04T00:30:00Z", false),
            // What cannot be read is never open.
            (&window("every night", 60, "UTC"), "2026-07-04T00:29:00Z", false),
            (&window("* * * * *", 1, "Mars/Olympus"), "2026-07-04T00:29:00Z", false),
        ];
        for (window, now, open) in rows {
            assert_eq!(is_open(window, now.parse().unwrap()), open, "{window:?} at {now}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        assert_eq!(check(&window("0 2 * * SAT", 60, "Europe/Madrid")), []);
        let found: Vec<String> = check(&window("0 2 * *", 0, "Mars/Olympus"))
            .into_iter()
            .map(|r| format!("{} {}", r.code, r.found))
            .collect();
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found.iter().all(|f| f.starts_with("badWindow")), "{found:?}");
        assert_eq!(check(&window("0 0 2 * * SAT", 60, "UTC")).len(), 1, "seconds are not taken");
    }
}
