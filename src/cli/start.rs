//! `start`: asks for an update.

use std::time::Duration;

use clap::Args;

use crate::cli::failure::Failure;
use crate::cli::follow::{Follow, follow, show};
use crate::cli::request::{FROM_HELP, RequestArgs, Wish};
use crate::cli::store::{self, Followed};
use crate::cli::untaken::say_if_not_initialised;
use crate::cli::watch::JSON_HELP;
use crate::cli::{Output, duration, fresh_id, note, print};
use crate::config::Config;
use crate::domain::ids::{ClusterName, UpdateId};
use crate::exit::{self, Exit};
use crate::ports::{Clock, EventLog};
use crate::update::event::Event;
use crate::update::plan::check_request;

/// Options of `start`.
#[derive(Args, Debug)]
#[command(after_help = format!("\
The request is appended as the first event of a stream of its own, clusterUpdate-ID, and the waivers with it; a worker that knows the
cluster takes it. `esdb-rollout plan` with the same options shows beforehand what it will make of it. The id
is printed on stdout. With --wait the update is followed as by `watch`; Ctrl-C ends the waiting, not the update.

With --supersede the active update is asked to end at once, as `cancel` would, and the new one begins when it has: with every node of it
running, by its own rules. Until then `status`, `watch` and `list` say what it waits for. An update that is not the active one, or for which
another request waits already, is refused.

{FROM_HELP}

{JSON_HELP}

{}

Examples:
  esdb-rollout start --cluster prod --target-type m6i.xlarge --why 'more memory' --wait
  esdb-rollout start --cluster prod --target-type m7i.large --fallback-types m6i.xlarge --gates beforeLeader
  esdb-rollout start --cluster prod --strategy Ec2InstanceRestart --nodes esdb-2,esdb-3
  esdb-rollout start --cluster prod --target-type m7i.large --supersede 6f1c2a34-5b6c-4d7e-8f90-a1b2c3d4e5f6
  esdb-rollout start --from input.json --cluster prod --wait --timeout 3h --output json", exit::HELP))]
pub struct StartArgs {
    /// What is asked for.
    #[command(flatten)]
    pub request: RequestArgs,
    /// Follow the update, and end with its exit code
    #[arg(long)]
    pub wait: bool,
    /// With --wait: give up waiting after this long: 90, 15m, 2h
    #[arg(long, requires = "wait", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// With --wait: go on while it is parked or waits for an approval, in place of ending with 7
    #[arg(long, requires = "wait")]
    pub stay: bool,
    /// table: the id on stdout; json: the object
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

/// Asks for an update.
pub async fn run(args: StartArgs, config: &Config, log: &dyn EventLog, clock: &dyn Clock) -> Result<Exit, Failure> {
    let Wish { request, waivers } = args.request.wish(config)?;
    let reasons = check_request(&request, &[]);
    if !reasons.is_empty() {
        let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
        return Err(Failure::refused(reasons.join("\n")).during("nothing was asked for"));
    }
    let cluster = &request.cluster;
    if !config.clusters.is_empty() && !config.clusters.contains_key(cluster) {
        let known: Vec<&str> = config.clusters.keys().map(ClusterName::as_str).collect();
        note(&format!(
            "cluster {cluster} is not in the configuration here, which has {}; it is refused unless a worker's configuration has it",
            known.join(", ")
        ));
    }
    say_if_not_initialised(log).await;
    let update = UpdateId(fresh_id());
    let mut commands = vec![Event::from(request)];
    commands.extend(waivers.into_iter().map(Event::from));
    store::request(log, clock, update, &commands).await?;
    if args.output == Output::Table {
        print(&update.to_string())?;
    }
    if args.wait {
        let StartArgs { timeout, stay, output, .. } = args;
        return follow(log, clock, Follow { update, timeout, stay, output, events_are_data: false }).await;
    }
    if args.output == Output::Json {
        show(&Followed::read(log, clock, update).await?.progress(clock), Output::Json)?;
    }
    note(&format!("asked for; follow it with: esdb-rollout watch {update}"));
    Ok(Exit::Completed)
}
