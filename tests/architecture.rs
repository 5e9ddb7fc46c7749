//! Who may know whom. Reads the sources: a rule that nobody checks is a wish.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// A module at the top of the crate, and the modules at the top that it may name beside itself.
struct Room {
    name: &'static str,
    may_know: &'static [&'static str],
    pure: bool,
}

const fn room(name: &'static str, may_know: &'static [&'static str]) -> Room {
    Room { name, may_know, pure: false }
}

const fn pure(name: &'static str, may_know: &'static [&'static str]) -> Room {
    Room { name, may_know, pure: true }
}

/// Dependencies point inwards. `update::action` (calls as data) may be named by ports, and needs no rule of its own.
const HOUSE: &[Room] = &[
    pure("domain", &[]),
    pure("update", &["domain"]),
    pure("lease", &["domain"]),
    pure("views", &["domain", "update", "lease"]),
    room("ports", &["domain", "update::action"]),
    room("codec", &["domain", "update", "lease", "ports"]),
    room("worker", &["domain", "update", "lease", "codec", "ports"]),
    room("esdb", &["domain", "codec", "ports"]),
    room("ec2", &["domain", "codec", "ports"]),
    room("sim", &["domain", "ports"]),
    room("exit", &["domain", "update"]),
    room("config", &["domain"]),
    room("rehearsal", ANYTHING),
    room("cli", ANYTHING),
    room("lib", &[]),
    room("main", ANYTHING),
];

const ANYTHING: &[&str] = &["*"];

/// Words that pure rooms do not say: I/O, clocks, randomness, and orders that differ from run to run.
const IMPURE: &[&str] = &[
    "tokio",
    "std::time::Instant",
    "SystemTime",
    "HashMap",
    "HashSet",
    "rand",
    "std::fs",
    "std::net::Tcp",
    "std::env",
    "reqwest",
];

/// Crates that one room alone may name.
const OWNED: &[(&str, &str)] = &[("eventstore::", "esdb"), ("aws_", "ec2"), ("rquickjs", "sim")];

/// A broken rule.
#[derive(Debug, PartialEq, Eq)]
struct Breach {
    file: String,
    line: usize,
    rule: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.rule)
    }
}

/// The room of a file below `src`.
fn room_of(file: &str) -> &str {
    let first = file.split('/').next().unwrap_or(file);
    first.strip_suffix(".rs").unwrap_or(first)
}

/// The source without comments and without what stands between quotes; as many lines as before.
fn code_only(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let bytes: Vec<char> = source.chars().collect();
    let at = |i: usize| bytes.get(i).copied().unwrap_or('\0');
    let mut i = 0;
    while i < bytes.len() {
        let c = at(i);
        let raw = c == 'r'
            && (at(i + 1) == '"' || at(i + 1) == '#')
            && !(i > 0 && (at(i - 1).is_alphanumeric() || at(i - 1) == '_'));
        if c == '/' && at(i + 1) == '/' {
            while i < bytes.len() && at(i) != '\n' {
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            let mut depth = 0;
            while i < bytes.len() {
                match (at(i), at(i + 1)) {
                    ('/', '*') => (depth, i) = (depth + 1, i + 2),
                    ('*', '/') => (depth, i) = (depth - 1, i + 2),
                    (other, _) => {
                        if other == '\n' {
                            code.push('\n');
                        }
                        i += 1;
                    }
                }
                if depth == 0 {
                    break;
                }
            }
        } else if raw && {
            let hashes = (i + 1..).take_while(|j| at(*j) == '#').count();
            at(i + 1 + hashes) == '"'
        } {
            let hashes = (i + 1..).take_while(|j| at(*j) == '#').count();
            i += 2 + hashes;
            while i < bytes.len() && !(at(i) == '"' && (1..=hashes).all(|h| at(i + h) == '#')) {
                if at(i) == '\n' {
                    code.push('\n');
                }
                i += 1;
            }
            i += 1 + hashes;
        } else if c == '"' {
            i += 1;
            while i < bytes.len() && at(i) != '"' {
                if at(i) == '\n' {
                    code.push('\n');
                }
                i += if at(i) == '\\' && at(i + 1) != '\n' { 2 } else { 1 };
            }
            i += 1;
        } else if c == '\'' && at(i + 1) == '\\' {
            // An escaped character; a lifetime has no backslash.
            i += 3;
            while i < bytes.len() && at(i) != '\'' {
                i += 1;
            }
            i += 1;
        } else if c == '\'' && at(i + 2) == '\'' {
            i += 3;
        } else {
            code.push(c);
            i += 1;
        }
    }
    code
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Offsets at which `word` stands as a word (or as the beginning of one, if it ends with `_` or `:`).
fn says<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = code[..*at].chars().next_back().is_none_or(|c| !is_word(c));
        let open = word.ends_with(['_', ':']);
        before && (open || code[at + word.len()..].chars().next().is_none_or(|c| !is_word(c)))
    })
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

/// Paths below the crate's root that `rest` begins with: one, or those of a braced list, two segments deep.
fn paths(rest: &str) -> Vec<String> {
    let rest = rest.trim_start();
    if let Some(list) = rest.strip_prefix('{') {
        let mut depth = 0;
        let mut items = vec![String::new()];
        for c in list.chars() {
            match c {
                '}' if depth == 0 => break,
                ',' if depth == 0 => items.push(String::new()),
                _ => {
                    depth += i32::from(c == '{') - i32::from(c == '}');
                    if let Some(item) = items.last_mut() {
                        item.push(c);
                    }
                }
            }
        }
        return items.iter().filter(|i| !i.trim().is_empty()).flat_map(|i| paths(i)).collect();
    }
    let head: String = rest.chars().take_while(|c| is_word(*c)).collect();
    let tail = rest[head.len()..].strip_prefix("::").map(str::trim_start);
    let second: String = tail.map(|t| t.chars().take_while(|c| is_word(*c)).collect()).unwrap_or_default();
    vec![if second.is_empty() { head } else { format!("{head}::{second}") }]
}

/// What a file may not say.
fn check(file: &str, source: &str) -> Vec<Breach> {
    let code = code_only(source);
    let mut breaches = Vec::new();
    let mut breach =
        |at: usize, rule: String| breaches.push(Breach { file: format!("src/{file}"), line: line_of(&code, at), rule });
    let name = room_of(file);
    let Some(room) = HOUSE.iter().find(|r| r.name == name) else {
        breach(0, format!("no rule says whom `{name}` may know: add it to HOUSE"));
        return breaches;
    };
    for root in ["crate::", "esdb_rollout::"] {
        for at in says(&code, root) {
            for path in paths(&code[at + root.len()..]) {
                let top = path.split("::").next().unwrap_or_default();
                let known = HOUSE.iter().any(|r| r.name == top);
                let allowed = top == name
                    || room.may_know.contains(&"*")
                    || room.may_know.contains(&top)
                    || room.may_know.contains(&path.as_str());
                if known && !allowed {
                    let may =
                        if room.may_know.is_empty() { "nothing of ours".into() } else { room.may_know.join(", ") };
                    breach(at, format!("`{name}` may not know `{path}`: it may know {may}"));
                }
            }
        }
    }
    for word in IMPURE.iter().filter(|_| room.pure) {
        for at in says(&code, word) {
            breach(at, format!("`{name}` is pure and may not say `{word}`"));
        }
    }
    for (word, owner) in OWNED.iter().filter(|(_, owner)| *owner != name) {
        for at in says(&code, word) {
            // A word of ours with a `::` before it is a module's or a variant's, no crate's.
            if !code[..at].ends_with("::") || code[..at].ends_with("use ::") {
                breach(at, format!("only `{owner}` may say `{word}`"));
            }
        }
    }
    breaches
}

fn files(below: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(below).unwrap_or_else(|e| panic!("{}: {e}", below.display())) {
        let path = entry.expect("an entry of the directory").path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn dependencies_point_inwards() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    files(&root, &mut found);
    found.sort();
    assert!(found.len() > 20, "the sources are not where they were: {found:?}");
    let mut breaches = Vec::new();
    let mut rooms = BTreeSet::new();
    for path in &found {
        let file = path.strip_prefix(&root).expect("below src").to_str().expect("UTF-8").replace('\\', "/");
        // Code made by a generator from the server's protocol.
        if file.starts_with("sim/wire/proto/") {
            continue;
        }
        rooms.insert(room_of(&file).to_owned());
        breaches.extend(check(&file, &fs::read_to_string(path).unwrap_or_else(|e| panic!("{file}: {e}"))));
    }
    let shown: Vec<String> = breaches.iter().map(ToString::to_string).collect();
    assert!(breaches.is_empty(), "\n{}\n", shown.join("\n"));
    for room in HOUSE {
        assert!(rooms.contains(room.name), "HOUSE has a room `{}` that does not exist", room.name);
    }
}

/// What the image is built from: what `Dockerfile` copies, and `.dockerignore` lets it see. A file that the sources take in from elsewhere is
/// missed only there, where nobody builds every day.
#[test]
fn the_image_is_built_from_all_that_the_sources_take_in() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| fs::read_to_string(top.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let (dockerfile, ignore) = (read("Dockerfile"), read(".dockerignore"));
    let seen = |dir: &str| {
        dockerfile.lines().any(|l| l == format!("COPY {dir} {dir}")) && ignore.lines().any(|l| l == format!("!{dir}"))
    };
    let mut found = Vec::new();
    files(&top.join("src"), &mut found);
    let mut taken = BTreeSet::new();
    for path in &found {
        let source = fs::read_to_string(path).expect("a source");
        for named in source.split("include_str!(\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            let file = path.with_file_name("").join(named).canonicalize().unwrap_or_else(|e| panic!("{named}: {e}"));
            let file = file.strip_prefix(top.canonicalize().expect("a path")).expect("below the top").to_owned();
            taken.insert(file.iter().next().expect("a name").to_str().expect("UTF-8").to_owned());
        }
    }
    assert!(taken.contains("projections"), "{taken:?}");
    // The image is built without tests.
    for dir in taken.iter().filter(|d| *d != "tests") {
        assert!(seen(dir), "the sources take in a file of {dir}, which Dockerfile and .dockerignore leave out");
    }
}

#[test]
fn the_checker_finds_what_is_wrong() {
    let table = [
        (
            "domain/x.rs",
            "use crate::update::event::Event;",
            1,
            "`domain` may not know `update::event`: it may know nothing of ours",
        ),
        ("update/x.rs", "\n\nfn f() { crate::codec::decode() }", 3, "`update` may not know `codec::decode`"),
        ("update/x.rs", "use crate::{domain::ids, ports::{Clock, Fleet}};", 1, "`update` may not know `ports`"),
        ("update/x.rs", "use crate::{\n    domain::ids,\n    worker::{self},\n};", 1, "`update` may not know `worker`"),
        ("ports/x.rs", "use crate::update::event::Event;", 1, "`ports` may not know `update::event`"),
        ("worker/mod.rs", "use crate::esdb::EventStoreLog;", 1, "`worker` may not know `esdb::EventStoreLog`"),
        ("esdb/x.rs", "use crate::update::limits::ACT_WINDOW;", 1, "`esdb` may not know `update::limits`"),
        ("sim/x.rs", "use crate::esdb::Credentials;", 1, "`sim` may not know `esdb::Credentials`"),
        ("views/x.rs", "use crate::codec;", 1, "`views` may not know `codec`"),
        ("cli/x.rs", "// a comment\nuse eventstore::Client;", 2, "only `esdb` may say `eventstore::`"),
        ("worker/x.rs", "fn f(_: aws_sdk_ec2::Client) {}", 1, "only `ec2` may say `aws_`"),
        ("lease/x.rs", "use tokio::time;", 1, "`lease` is pure and may not say `tokio`"),
        ("update/x.rs", "use std::collections::{BTreeMap, HashMap};", 1, "`update` is pure and may not say `HashMap`"),
        (
            "domain/x.rs",
            "let s = \"a // b\"; let t = std::time::Instant::now();",
            1,
            "may not say `std::time::Instant`",
        ),
        ("domain/x.rs", "let q = '\"'; use crate::sim::model;", 1, "`domain` may not know `sim::model`"),
        ("attic/x.rs", "", 1, "no rule says whom `attic` may know"),
    ];
    for (file, source, line, rule) in table {
        let found = check(file, source);
        assert_eq!(found.len(), 1, "{file}: {source}: {found:?}");
        let shown = found[0].to_string();
        assert!(shown.starts_with(&format!("src/{file}:{line}: ")) && shown.contains(rule), "{shown}, expected {rule}");
    }
}

#[test]
fn the_checker_leaves_alone_what_is_right() {
    let table = [
        ("update/x.rs", "use crate::domain::ids::NodeName;\nuse super::event::*;\nuse crate::update::state;"),
        ("ports/x.rs", "use crate::update::action::Call; use tokio::sync::mpsc;"),
        ("domain/x.rs", "//! Knows nothing of [`crate::worker`], tokio or HashMap.\n/* tokio /* HashMap */ rand */"),
        ("domain/x.rs", "const HELP: &str = \"crate::worker \\\" tokio\"; let r = r#\"HashMap \" rand\"#;"),
        ("domain/x.rs", "fn f<'a>(x: &'a str, operand: u8, c: char) -> bool { c == 'a' || c == '\\'' || operand > 1 }"),
        ("esdb/x.rs", "use eventstore::Client; use crate::ports::EventLog;"),
        ("ec2/x.rs", "use aws_sdk_ec2::Client;"),
        (
            "cli/wire.rs",
            "use crate::{esdb::EventStoreLog, ec2::Ec2Fleet, worker::Worker}; let eventstore_log = 1; let x = my_aws_x;",
        ),
    ];
    for (file, source) in table {
        assert_eq!(check(file, source), [], "{file}: {source}");
    }
}
