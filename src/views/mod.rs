//! What a person or a script is shown of an update: computed from its history alone, at a moment that the caller names.
//!
//! Pure: no I/O, no clock, no randomness. Knows [`crate::domain`], [`crate::update`] and [`crate::lease`] only.

pub mod article;
pub mod plan;
pub mod progress;
pub mod projected;
#[cfg(test)]
mod stories;
pub mod timeline;
pub mod why;

use std::collections::BTreeMap;

use crate::domain::ids::NodeName;
use crate::update::event::Event;
use crate::update::state::{Body, Recorded};

/// When a node was taken in hand, and when it was let go (absent while it is in hand).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    from: jiff::Timestamp,
    to: Option<jiff::Timestamp>,
}

impl Span {
    /// Seconds in hand up to `now`.
    fn seconds(self, now: jiff::Timestamp) -> f64 {
        seconds_between(self.from, self.to.unwrap_or(now))
    }
}

/// The time each node was in hand, the last time that it was taken.
fn spans(history: &[Recorded]) -> BTreeMap<NodeName, Span> {
    let mut spans: BTreeMap<NodeName, Span> = BTreeMap::new();
    for recorded in history {
        let Body::Event(event) = &recorded.body else { continue };
        if let Event::NodeSelected(e) = &**event {
            spans.insert(e.node.clone(), Span { from: recorded.at, to: None });
        }
        let done = if let Event::NodeUpdated(e) = &**event {
            Some(&e.node)
        } else if let Event::NodeRolledBack(e) = &**event {
            Some(&e.node)
        } else if let Event::NodeFailed(e) = &**event {
            Some(&e.node)
        } else {
            None
        };
        // Nothing is in hand after an end.
        if event.ends_the_update() {
            for span in spans.values_mut() {
                span.to.get_or_insert(recorded.at);
            }
        }
        if let Some(span) = done.and_then(|node| spans.get_mut(node)) {
            span.to.get_or_insert(recorded.at);
        }
    }
    spans
}

/// Seconds from `a` to `b`, never negative: writers' calendars differ.
fn seconds_between(a: jiff::Timestamp, b: jiff::Timestamp) -> f64 {
    crate::update::state::round_ms(b.duration_since(a).as_secs_f64().max(0.0))
}

/// Text for one line of a terminal: whoever can append an event must not be able to steer the terminal that shows it.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '·' } else { c }).collect()
}

/// Rows in aligned columns, two spaces apart, nothing at the ends of lines.
pub fn columns(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| plain(cell)).collect()).collect();
    let mut widths: Vec<usize> = Vec::new();
    for row in &rows {
        for (i, cell) in row.iter().enumerate() {
            let width = cell.chars().count();
            match widths.get_mut(i) {
                Some(known) => *known = (*known).max(width),
                None => widths.push(width),
            }
        }
    }
    let mut text = String::new();
    for row in &rows {
        let line: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// A duration for people: `42s`, `3m07s`, `2h05m`.
pub fn short_seconds(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s:02}s"),
        (h, m, _) => format!("{h}h{m:02}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_control_characters_shown_as_dots() {
        let rows = [vec!["NODE".into(), "ROLE".into()], vec!["esdb-\u{1b}[31m1".into(), "é".into()]];
        assert_eq!(columns(&rows), "NODE         ROLE\nesdb-·[31m1  é\n");
    }

    #[test]
    fn durations_for_people() {
        for (seconds, text) in [(0.4, "0s"), (59.6, "1m00s"), (187.0, "3m07s"), (7500.0, "2h05m"), (-3.0, "0s")] {
            assert_eq!(short_seconds(seconds), text);
        }
    }
}
