//! `docs/install.md` says what is so: its keys and defaults are those of the configuration's parser, its policy names the calls that are
//! made, its variables are those that are read, its unit has the exit codes and limits of the source, and its links lead somewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use esdb_rollout::config::{ConfigError, parse};
use esdb_rollout::domain::ids::{ClusterName, NodeName};
use esdb_rollout::domain::inspection::Verb;
use esdb_rollout::domain::instance::FENCE_TAG;
use esdb_rollout::exit::Exit;
use esdb_rollout::lease::{HEARTBEAT_EVERY, LEASE};
use esdb_rollout::update::limits::{FIRST_ANSWER_TIMEOUT, START_TIMEOUT, STOP_TIMEOUT};
use serde_json::Value;

const DOC: &str = include_str!("../docs/install.md");

const KEYS: &str = "| key | meaning | unit | default |";
const VARIABLES: &str = "| variable | says | where it is not set |";
const EXIT_CODES: &str = "| exit code of a worker | when | and then |";

/// Each section with what it must have, and a key that nobody knows.
const PROBE: &str = r#"
unknown = 1
[store]
connection = "esdb://a"
unknown = 1
[clusters.NAME]
seeds = ["a:1"]
unknown = 1
[clusters.NAME.aws]
unknown = 1
[clusters.NAME.nodes.NODE]
instance_id = "i-1"
unknown = 1
"#;

/// Each section that must have something, without it.
const EMPTY: &str = "[store]\n[clusters.NAME]\n[clusters.NAME.nodes.NODE]\n";

/// The blocks of one language, without the indentation that a list gives them.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(said) = line.trim_start().strip_prefix("```") else { continue };
        let indent = line.len() - line.trim_start().len();
        let body = lines.by_ref().take_while(|l| l.trim() != "```");
        let body: Vec<&str> = body.map(|l| l.get(indent..).unwrap_or_default()).collect();
        if said == language {
            found.push(body.join("\n"));
        }
    }
    found
}

/// The cells below the first line of a table.
fn table<'a>(page: &'a str, head: &str) -> Vec<Vec<&'a str>> {
    let after = page.split_once(&format!("\n{head}\n")).unwrap_or_else(|| panic!("no table {head}")).1;
    let rows = after.lines().skip(1).take_while(|l| l.starts_with('|'));
    rows.map(|l| l.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

/// What stands between backticks, and nothing beside them.
fn ticked(cell: &str) -> &str {
    let inner = cell.strip_prefix('`').and_then(|c| c.strip_suffix('`'));
    inner.unwrap_or_else(|| panic!("expected something in backticks, found {cell}"))
}

/// The page as one line: where its lines end is nobody's affair.
fn prose() -> String {
    DOC.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The text of each source at or below a path, without its tests.
fn sources(below: &str) -> Vec<String> {
    let mut left = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(below)];
    let mut found = Vec::new();
    while let Some(path) = left.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            left.extend(entries.map(|entry| entry.expect("an entry of the directory").path()));
        } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("tests.rs") {
            let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            found.push(text.split("#[cfg(test)]").next().unwrap_or_default().to_owned());
        }
    }
    assert!(!found.is_empty(), "no source at {below}");
    found
}

/// The keys that the parser knows, by their whole paths and without the sections: it names them where it finds one that it does not know.
fn known_keys() -> BTreeSet<String> {
    let ConfigError { problems } = parse(Path::new("x.toml"), PROBE).expect_err("keys that nobody knows");
    assert_eq!(problems.len(), PROBE.matches("unknown").count(), "{problems:?}");
    let mut known = BTreeSet::new();
    for problem in &problems {
        let section = problem.key.strip_suffix("unknown").unwrap_or_else(|| panic!("{problem}"));
        let names = problem.expected.strip_prefix("one of ").unwrap_or_else(|| panic!("{problem}"));
        known.extend(names.split(", ").map(|name| format!("{section}{name}")));
    }
    let is_section = |key: &str| known.iter().any(|other| other.starts_with(&format!("{key}.")));
    known.iter().filter(|key| !is_section(key)).cloned().collect()
}

#[test]
fn its_keys_are_those_that_the_parser_knows() {
    let rows = table(DOC, KEYS);
    let told: BTreeSet<String> = rows.iter().map(|row| ticked(row[0]).to_owned()).collect();
    assert_eq!(told.len(), rows.len(), "a key stands there twice");
    assert_eq!(told, known_keys());
}

#[test]
fn what_it_calls_required_the_parser_requires() {
    let ConfigError { problems } = parse(Path::new("x.toml"), EMPTY).expect_err("sections without what they must have");
    let required: BTreeSet<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
    let rows = table(DOC, KEYS);
    let told: BTreeSet<&str> =
        rows.iter().filter(|row| row[1].contains("required")).map(|row| ticked(row[0])).collect();
    assert_eq!(told, required);
}

#[test]
fn its_defaults_are_those_of_the_source() {
    let least: String = PROBE.split_inclusive('\n').filter(|line| !line.starts_with("unknown")).collect();
    let config = parse(Path::new("x.toml"), &least).expect("a least configuration");
    let store = config.store.as_ref().expect("a store");
    let cluster = &config.clusters[&ClusterName::from("NAME")];
    let node = &cluster.nodes[&NodeName::from("NODE")];
    let first_answer = cluster.first_answer_timeout.unwrap_or(FIRST_ANSWER_TIMEOUT);
    let defaults = BTreeMap::from([
        ("store.max_concurrent_updates", store.max_concurrent_updates.to_string()),
        ("clusters.NAME.tls", cluster.tls.to_string()),
        ("clusters.NAME.max_replication_delay_seconds", cluster.max_replication_delay.as_secs_f64().to_string()),
        ("clusters.NAME.first_answer_timeout_seconds", first_answer.as_secs_f64().to_string()),
        ("clusters.NAME.fence", cluster.fence.to_string()),
        ("clusters.NAME.nodes.NODE.address_translated", node.address_translated.to_string()),
    ]);
    let rows = table(DOC, KEYS);
    let values = rows.iter().filter(|row| row[3].starts_with('`'));
    let told: BTreeMap<&str, String> = values.map(|row| (ticked(row[0]), ticked(row[3]).to_owned())).collect();
    assert_eq!(told, defaults);
}

#[test]
fn its_configuration_is_one_that_the_parser_takes() {
    let blocks = blocks(DOC, "toml");
    assert!(!blocks.is_empty(), "no configuration");
    for block in &blocks {
        let config = parse(Path::new("x.toml"), block).unwrap_or_else(|e| panic!("{e}\n{block}"));
        assert!(config.store.is_some() && !config.clusters.is_empty(), "{block}");
    }
}

/// A source without comments and blanks.
fn dense(source: &str) -> String {
    let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(str::chars).filter(|c| !c.is_whitespace()).collect()
}

/// The API's name of a method of the SDK.
fn action_of(method: &str) -> String {
    let word = |word: &str| word[..1].to_ascii_uppercase() + &word[1..];
    method.split('_').filter(|w| !w.is_empty()).map(word).collect()
}

/// The calls that are made: each is a method without arguments of the SDK's client, which is called `client` or `ec2`.
fn calls(source: &str) -> BTreeSet<String> {
    let code = dense(source);
    let mut found = BTreeSet::new();
    for receiver in ["client.", "ec2."] {
        for (at, _) in code.match_indices(receiver) {
            let rest = &code[at + receiver.len()..];
            let method: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            if rest[method.len()..].starts_with("()") {
                found.insert(action_of(&method));
            }
        }
    }
    found
}

/// The calls whose errors are named, by the name that people are told.
fn named_in_errors(source: &str) -> BTreeSet<String> {
    let code = dense(source);
    let names = code.split("failed(\"").skip(1).filter_map(|rest| rest.split('"').next());
    names.map(str::to_owned).collect()
}

/// The statements of the only policy.
fn statements() -> Vec<Value> {
    let parsed = |block: &String| serde_json::from_str(block).unwrap_or_else(|e| panic!("{e}: {block}"));
    let blocks: Vec<Value> = blocks(DOC, "json").iter().map(parsed).collect();
    let policies: Vec<&Value> = blocks.iter().filter(|block| block.get("Statement").is_some()).collect();
    assert_eq!(policies.len(), 1, "one policy");
    assert_eq!(policies[0]["Version"], "2012-10-17");
    policies[0]["Statement"].as_array().expect("a list of statements").clone()
}

/// What a statement allows, by the API's names.
fn actions(statement: &Value) -> Vec<&str> {
    let actions = statement["Action"].as_array().expect("a list of actions").iter();
    actions.map(|a| a.as_str().and_then(|a| a.strip_prefix("ec2:")).unwrap_or_else(|| panic!("{a}"))).collect()
}

#[test]
fn its_policy_allows_the_calls_that_are_made_and_no_other() {
    let (mut made, mut named) = (BTreeSet::new(), BTreeSet::new());
    for source in sources("src/ec2") {
        made.extend(calls(&source));
        named.extend(named_in_errors(&source));
    }
    named.extend(Verb::ALL.map(|verb| verb.action().to_owned()));
    assert_eq!(made, named, "a call is made, or named in its error, in a way that this test does not see");
    let statements = statements();
    let allowed: Vec<&str> = statements.iter().flat_map(actions).collect();
    let each: BTreeSet<String> = allowed.iter().map(|action| (*action).to_owned()).collect();
    assert_eq!(allowed.len(), each.len(), "an action is allowed twice: {allowed:?}");
    assert_eq!(each, made);
}

#[test]
fn its_policy_binds_what_changes_something_to_a_tag_and_tags_to_their_key() {
    let mut of_tags = 0;
    for statement in statements() {
        assert_eq!(statement["Effect"], "Allow");
        let (actions, condition) = (actions(&statement), &statement["Condition"]);
        let changes: Vec<bool> = actions.iter().map(|a| Verb::ALL.iter().any(|verb| verb.action() == *a)).collect();
        let tag =
            condition["StringEquals"].as_object().and_then(|c| c.keys().find(|k| k.starts_with("aws:ResourceTag/")));
        assert!(changes.iter().all(|c| *c == tag.is_some()), "{statement}");
        let tags = actions.iter().filter(|a| a.ends_with("Tags")).count();
        if tags > 0 {
            of_tags += tags;
            assert_eq!(tags, actions.len(), "what is no tag has no key: {statement}");
            assert_eq!(condition["ForAllValues:StringEquals"]["aws:TagKeys"], FENCE_TAG);
            assert_eq!(condition["Null"]["aws:TagKeys"], "false", "else a call without any key is allowed");
            assert_ne!(tag.map(String::as_str), Some(format!("aws:ResourceTag/{FENCE_TAG}").as_str()));
        }
    }
    assert_eq!(of_tags, 2, "CreateTags and DeleteTags");
}

/// The variables of the environment that a source names.
fn variables(source: &str) -> BTreeSet<String> {
    let ways = ["env = \"", "env::var(\"", "env::var_os(\""];
    let named = ways.iter().flat_map(|way| source.split(way).skip(1)).filter_map(|rest| rest.split('"').next());
    named.map(str::to_owned).collect()
}

#[test]
fn its_variables_are_those_that_are_read() {
    let sources = [sources("src/cli"), sources("src/config.rs"), sources("src/main.rs")].concat();
    let read: BTreeSet<String> = sources.iter().flat_map(|source| variables(source)).collect();
    let rows = table(DOC, VARIABLES);
    let told: BTreeSet<String> = rows.iter().map(|row| ticked(row[0]).to_owned()).collect();
    assert_eq!(told.len(), rows.len(), "a variable stands there twice");
    assert_eq!(told, read);
    // And no other is spoken of.
    let words = DOC.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    for word in words.filter(|word| word.starts_with("ESDB_ROLLOUT_")) {
        assert!(read.contains(word), "{word} is read by nobody");
    }
}

#[test]
fn its_unit_has_the_exit_codes_and_the_limits_of_the_source() {
    let units = blocks(DOC, "ini");
    assert_eq!(units.len(), 1, "one unit");
    let minutes = [STOP_TIMEOUT, START_TIMEOUT, FIRST_ANSWER_TIMEOUT].map(|limit| limit.as_secs() / 60);
    let usage = format!("RestartPreventExitStatus={}", Exit::Usage.code());
    let patience = format!("TimeoutStopSec={}min", minutes.iter().sum::<u64>());
    for line in [usage, patience] {
        assert!(units[0].lines().any(|l| l == line), "the unit does not say {line}");
    }
    let codes: Vec<&str> = table(DOC, EXIT_CODES).iter().map(|row| row[0]).collect();
    let ends = [Exit::Completed, Exit::Other, Exit::Usage, Exit::Unreachable].map(|exit| exit.code().to_string());
    assert_eq!(codes, ends);
    let [stop, start, answer] = minutes;
    let day = 24 * 60 * 60 / HEARTBEAT_EVERY.as_secs();
    let prose = prose();
    for said in [
        format!("{stop} min until its instance has stopped, {start} until it runs, {answer} until its process answers"),
        format!("Another worker takes over after {} s of silence", LEASE.as_secs()),
        format!("one takes over {} s or so after the other fell silent", LEASE.as_secs()),
        format!("keeps every heartbeat, {},{:03} a day", day / 1000, day % 1000),
    ] {
        assert!(prose.contains(&said), "the page does not say: {said}");
    }
}

/// The anchor that a heading gets.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn its_links_lead_somewhere() {
    let prose = prose();
    let links: Vec<&str> = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect();
    assert!(!links.is_empty(), "no links");
    for link in links {
        let (file, heading) = link.split_once('#').map_or((link, None), |(file, heading)| (file, Some(heading)));
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(file);
        let page = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{link}: {e}"));
        let mut headings = page.lines().filter(|l| l.starts_with('#')).map(anchor);
        assert!(heading.is_none_or(|wanted| headings.any(|h| h == wanted)), "{link}: no such heading");
    }
}

/// What is read here would be missed if it were read wrongly: a page and a source of which the answer is known.
#[test]
fn the_readers_see_what_is_there() {
    let page = "a\n- b\n\n  ```toml\n  [x]\n  y = 1\n  ```\n```json\n{}\n```\n\n| k | v |\n| --- | --- |\n| `a` | |\n| `b` | 2 |\nc\n";
    assert_eq!(blocks(page, "toml"), ["[x]\ny = 1"]);
    assert_eq!(blocks(page, "json"), ["{}"]);
    assert_eq!(table(page, "| k | v |"), [["`a`", ""], ["`b`", "2"]]);
    let source = "// client.stop_instances()\nlet x = self\n    .client\n    .describe_spot_requests()\n    .send();\n\
                  ec2.create_tags().x(); client.get(\"y\"); let e = failed(\n    \"DescribeSpotRequests\", e);";
    assert_eq!(Vec::from_iter(calls(source)), ["CreateTags", "DescribeSpotRequests"]);
    assert_eq!(Vec::from_iter(named_in_errors(source)), ["DescribeSpotRequests"]);
    let source = "#[arg(long, env = \"ONE\")] std::env::var(\"TWO\") std::env::var_os(\"THREE\") env!(\"FOUR\")";
    assert_eq!(Vec::from_iter(variables(source)), ["ONE", "THREE", "TWO"]);
    assert_eq!(anchor("## Who may write, `x`"), "who-may-write-x");
}
