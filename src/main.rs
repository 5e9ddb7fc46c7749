//! `esdb-rollout`: see `esdb-rollout --help`.

use std::process::ExitCode;

#[cfg(all(feature = "esdb", feature = "ec2"))]
fn main() -> ExitCode {
    use std::time::Duration;

    use clap::Parser;
    use esdb_rollout::cli::failure::Failure;
    use esdb_rollout::cli::{Cli, note, wire};
    use esdb_rollout::exit::Exit;

    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            note(&format!("error: no runtime can be made: {error}"));
            return Exit::Other.into();
        }
    };
    let result = runtime.block_on(wire::run(cli));
    // Connections of the client library may linger; nothing is owed to them.
    runtime.shutdown_timeout(Duration::from_millis(200));
    match result {
        Ok(exit) => exit.into(),
        Err(Failure::BrokenPipe) => Failure::BrokenPipe.exit().into(),
        Err(failure) => {
            note(&format!("error: {failure}"));
            failure.exit().into()
        }
    }
}

#[cfg(not(all(feature = "esdb", feature = "ec2")))]
fn main() -> ExitCode {
    use esdb_rollout::exit::Exit;

    let features = [("esdb", cfg!(feature = "esdb")), ("ec2", cfg!(feature = "ec2"))];
    let missing: Vec<&str> = features.iter().filter(|(_, there)| !there).map(|(name, _)| *name).collect();
    esdb_rollout::cli::note(&format!(
        "error: built without {}; build it with the default features",
        missing.join(" and ")
    ));
    Exit::Usage.into()
}
