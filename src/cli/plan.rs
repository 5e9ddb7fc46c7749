//! `plan`: looks at everything, and does nothing.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use crate::cli::failure::Failure;
use crate::cli::request::{FROM_HELP, RequestArgs, Wish};
use crate::cli::untaken::say_if_not_initialised;
use crate::cli::{Output, note, print};
use crate::config::Config;
use crate::domain::ids::ClusterName;
use crate::exit::Exit;
use crate::ports::{Clock, EventLog};
use crate::update::limits::SURVEY_TIMEOUT;
use crate::update::plan::Waiver;
use crate::views::plan::PlanView;
use crate::worker::{ClusterHandle, preview};

/// A cluster that answers has been seen within this time.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Options of `plan`.
#[derive(Args, Debug)]
#[command(after_help = format!("\
Looks at the cluster and at EC2 as a worker would, from here and with the configuration and credentials that are here, and does nothing.
A cluster that does not answer in full is looked at for up to 60 s. Whether another update of the cluster is active is read from the store.
Prints every check, what refuses and what warns first, with its remedy; the steps in order, with the elections they will cause and the
time out of service that past updates foretell; and the plan's digest. `start --plan-digest` refuses if the plan is another by then: if
members, roles, types or what is wrong have changed. docs/checks.md lists the checks. A configuration with keys that are not known is
refused, and every one of them named.

{FROM_HELP}

--output json prints one object: verdict (ready, readyWithWarnings, refused), cluster, strategy, targetInstanceType, digest, voters,
steps[] (node, role, instance, address, zone, fromType, toType, elections, outOfServiceSeconds, already), elections, exposureSeconds,
reasons[] (code, found, wanted, remedy) and checks[] (code, found, outcome: passed, failed or unknown, severity: refuse, warn or info,
node, wanted, remedy, waivedBy, why, until), null or absent where not known.

Exit codes:
  0 ready, with or without warnings     3 refused; with --strict, warnings as well
  2 usage or configuration              1 anything else

Examples:
  esdb-rollout plan --cluster prod --target-type m6i.xlarge
  esdb-rollout plan --cluster prod --target-type m6i.xlarge --strict --output json | jq -r .digest
  esdb-rollout plan --cluster prod --target-type m6i.xlarge --waive stopProtection@esdb-2 --why 'lifted at noon'"))]
pub struct PlanArgs {
    /// What would be asked for.
    #[command(flatten)]
    pub request: RequestArgs,
    /// End with 3 if there are warnings that are not waived
    #[arg(long)]
    pub strict: bool,
    /// table: for people; json: one object
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

/// Shows the plan of what would be asked for. The cluster was made of the wish's own name.
pub async fn run(
    args: &PlanArgs,
    wish: Wish,
    cluster: &ClusterHandle,
    log: &dyn EventLog,
    clock: Arc<dyn Clock>,
) -> Result<Exit, Failure> {
    let Wish { request, waivers } = wish;
    say_if_not_initialised(log).await;
    let waivers: Vec<Waiver> = waivers.iter().filter_map(|w| Waiver::of(w.answers, w)).collect();
    let found = {
        let looking = std::pin::pin!(preview(cluster, log, &clock, &request, &waivers));
        patiently(looking, &request.cluster).await
    };
    let view = PlanView::of(&request, &found.assessment, found.refused);
    match args.output {
        Output::Table => print(&view.to_string())?,
        Output::Json => print(&serde_json::to_string(&view).map_err(Failure::other)?)?,
    }
    Ok(match view.verdict {
        "ready" => Exit::Completed,
        "readyWithWarnings" if !args.strict => Exit::Completed,
        _ => Exit::Refused,
    })
}

/// Says on stderr, while it lasts, that a cluster has not been seen in full.
async fn patiently<T>(mut looking: impl Future<Output = T> + Unpin, cluster: &ClusterName) -> T {
    loop {
        match tokio::time::timeout(SAY_EVERY, &mut looking).await {
            Ok(found) => return found,
            Err(_) => note(&format!(
                "cluster {cluster} has not been seen in full yet; it is looked at for up to {} s",
                SURVEY_TIMEOUT.as_secs()
            )),
        }
    }
}

/// The configured cluster that a wish is about.
pub fn cluster_of<'a>(wish: &Wish, config: &'a Config) -> Result<&'a crate::config::Cluster, Failure> {
    let name = &wish.request.cluster;
    config.clusters.get(name).ok_or_else(|| {
        Failure::usage(format!(
            "cluster {name} is not in the configuration here: add [clusters.{name}], or run `plan` where the worker runs"
        ))
    })
}
