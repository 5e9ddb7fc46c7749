//! The generated modules are those that `proto/*.proto` gives.
#![cfg(feature = "esdb")]

use std::path::Path;

const REFRESH: &str = "ESDB_ROLLOUT_REFRESH_PROTO=1 cargo test --test wire_codegen";

#[test]
fn generated_modules_match_the_protos() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let checked_in = root.join("src/sim/wire/proto");
    let fresh = tempfile::tempdir().expect("a directory for the fresh modules");

    let files = ["shared", "status", "gossip", "operations", "projections", "server_features", "streams"]
        .map(|f| format!("{f}.proto"));
    let descriptors = protox::compile(files, [root.join("proto")]).expect("the protos compile");
    tonic_build::configure()
        .btree_map(["."])
        .extern_path(".event_store.client.Empty", "()")
        .out_dir(fresh.path())
        .compile_fds(descriptors)
        .expect("the modules are generated");

    for entry in std::fs::read_dir(fresh.path()).expect("the fresh modules") {
        let entry = entry.expect("an entry");
        let made = std::fs::read_to_string(entry.path()).expect("a fresh module");
        let kept = checked_in.join(entry.file_name());
        if std::env::var_os("ESDB_ROLLOUT_REFRESH_PROTO").is_some() {
            std::fs::write(&kept, &made).expect("the module is written");
        }
        let kept_text = std::fs::read_to_string(&kept).unwrap_or_default();
        assert!(kept_text == made, "{} is not what proto/ gives; refresh it: {REFRESH}", kept.display());
    }
}
