//! `docs/ec2-failures.md` says what is so: its codes are those of the one list there is, in their classes; its checks are in the catalogue,
//! its constants are limits, and the tests it names exist.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use esdb_rollout::domain::ec2::{CODES, CallClass, STOPPED_BY, classify};
use esdb_rollout::sim::model::Fault;
use esdb_rollout::update::plan::CATALOGUE;

const DOC: &str = include_str!("../docs/ec2-failures.md");
const LIMITS: &str = include_str!("../src/update/limits.rs");

/// Columns of the table of codes.
struct Row<'a> {
    symptom: &'a str,
    class: &'a str,
    checks: &'a str,
    reaction: &'a str,
    shown_by: &'a str,
}

fn rows() -> Vec<Row<'static>> {
    let head = "| code or symptom | class | when | checked before | while it runs | shown by |";
    let after = DOC.split_once(head).expect("the table of codes").1;
    let lines = after.lines().skip(2).take_while(|l| l.starts_with('|'));
    lines
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [symptom, class, _, checks, reaction, shown_by] = cells[..] else { panic!("six columns: {line}") };
            Row { symptom, class, checks, reaction, shown_by }
        })
        .collect()
}

/// What stands between backticks.
fn ticked(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn word(class: CallClass) -> &'static str {
    match class {
        CallClass::Retry => "retry",
        CallClass::Unknown => "unknown",
        CallClass::Wait => "wait",
        CallClass::Capacity => "capacity",
        CallClass::Terminal => "terminal",
        CallClass::Denied => "denied",
        CallClass::Unauthenticated => "unauthenticated",
    }
}

#[test]
fn each_code_stands_there_once_in_the_class_it_has() {
    let mut found: BTreeMap<&str, &str> = BTreeMap::new();
    for row in rows().iter().filter(|r| r.class != "–") {
        for code in ticked(row.symptom) {
            assert_eq!(found.insert(code, row.class), None, "{code} stands there twice");
        }
    }
    for (code, class) in &found {
        let told = STOPPED_BY.iter().any(|(known, _)| known == code);
        assert_eq!(*class, if told { "told" } else { word(classify(code)) }, "{code}");
    }
    let known: BTreeSet<&str> = CODES.iter().map(|(c, _)| *c).chain(STOPPED_BY.iter().map(|(c, _)| *c)).collect();
    assert_eq!(found.into_keys().collect::<BTreeSet<_>>(), known);
}

#[test]
fn checks_constants_and_tests_that_it_names_exist() {
    let rows = rows();
    assert!(rows.len() > 40, "{} rows", rows.len());
    for row in &rows {
        for check in ticked(row.checks) {
            assert!(CATALOGUE.iter().any(|c| c.code == check), "{}: no check {check}", row.symptom);
        }
        for name in ticked(row.reaction).filter(|w| w.contains('_') && !w.bytes().any(|b| b.is_ascii_lowercase())) {
            assert!(LIMITS.contains(&format!("pub const {name}:")), "{}: no limit {name}", row.symptom);
        }
        let tests: Vec<_> = ticked(row.shown_by).collect();
        assert!(!tests.is_empty() || row.shown_by.starts_with("not shown: "), "{}: {}", row.symptom, row.shown_by);
        for test in tests {
            let (file, name) = test.split_once("::").expect("file::test");
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
            let source = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{file}: {e}"));
            assert!(source.contains(&format!("fn {name}(")), "{}: {file} has no test {name}", row.symptom);
        }
    }
    for (former, now) in Fault::FORMER_NAMES {
        assert!(DOC.contains(&format!("`{former}` is")) && DOC.contains(&format!("`{now}`")), "{former}");
    }
}
