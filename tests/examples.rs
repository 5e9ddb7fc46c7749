//! The examples of `docs/events.md` are the files that `tests/processes.rs` runs.

use std::fs;
use std::path::Path;

const REFRESH: &str = "ESDB_ROLLOUT_REFRESH_DOCS=1 cargo test --no-default-features --test examples";

/// The page with each block that stands below `<!-- tests/FILE -->` as that file is; and the files.
fn with_files(page: &str, read: impl Fn(&str) -> String) -> (String, Vec<String>) {
    let mut made = String::new();
    let mut files = Vec::new();
    let mut lines = page.split_inclusive('\n');
    while let Some(line) = lines.next() {
        made.push_str(line);
        let Some(file) = line.strip_prefix("<!-- tests/").and_then(|l| l.strip_suffix(" -->\n")) else { continue };
        let fence = lines.next().expect("a block follows");
        assert!(fence.starts_with("```"), "{file}: {fence}");
        made.push_str(fence);
        made.push_str(&read(file));
        let end = lines.find(|l| *l == "```\n").expect("the block ends");
        made.push_str(end);
        files.push(file.to_owned());
    }
    (made, files)
}

#[test]
fn the_examples_of_the_page_are_the_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = root.join("docs/events.md");
    let kept = fs::read_to_string(&page).expect("the page");
    let read = |file: &str| fs::read_to_string(root.join("tests").join(file)).expect("the example");
    let (made, files) = with_files(&kept, read);
    assert_eq!(files, ["curl/update.sh", "python/start_update.py", "node/update.js", "rust/update.rs"]);
    if std::env::var_os("ESDB_ROLLOUT_REFRESH_DOCS").is_some() {
        fs::write(&page, &made).expect("the page is written");
    } else {
        assert!(kept == made, "an example of docs/events.md is not its file; refresh it: {REFRESH}");
    }
}

/// A page that was changed by hand would be seen.
#[test]
fn a_block_that_differs_from_its_file_is_replaced() {
    let page = "a\n<!-- tests/x.sh -->\n```sh\nold\n```\nb\n```sh\nits own\n```\n";
    let (made, files) = with_files(page, |file| format!("new {file}\n"));
    assert_eq!(made, "a\n<!-- tests/x.sh -->\n```sh\nnew x.sh\n```\nb\n```sh\nits own\n```\n");
    assert_eq!(files, ["x.sh"]);
}
