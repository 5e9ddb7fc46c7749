//! What people write: a request document (`start --from`, JSON), or else a configuration (TOML). Told what is wrong, never a panic; a request
//! that is accepted is the same when it is read again as it is stored.
#![no_main]

use std::path::Path;
use std::sync::OnceLock;

use clap::Parser;
use esdb_rollout::cli::request::{RequestArgs, with_document};
use esdb_rollout::cli::{Cli, Command};
use esdb_rollout::config::{Config, parse};
use esdb_rollout::update::event::UpdateRequested;
use esdb_rollout::update::plan::check_request;
use esdb_rollout::update::window;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fn args() -> &'static RequestArgs {
    static ARGS: OnceLock<RequestArgs> = OnceLock::new();
    ARGS.get_or_init(|| {
        match Cli::try_parse_from(["esdb-rollout", "start", "--cluster", "prod"]).map(|cli| cli.command) {
            Ok(Command::Start(args)) => args.request,
            Ok(_) | Err(_) => panic!("no start command"),
        }
    })
}

fn request(text: &str) {
    let Ok(document) = serde_json::from_str::<Value>(text) else { return };
    let Ok(request) = with_document(args(), Some(document), &Config::default()) else { return };
    let again: UpdateRequested =
        serde_json::from_value(serde_json::to_value(&request).expect("a request is JSON")).expect("as it is stored");
    assert_eq!(again, request);
    if check_request(&request, &[]).is_empty()
        && let Some(window) = &request.window
    {
        window::is_open(window, jiff::Timestamp::UNIX_EPOCH);
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if text.starts_with('{') {
        request(text);
    } else if let Err(error) = parse(Path::new("esdb-rollout.toml"), text) {
        assert!(!error.to_string().is_empty());
    }
});
