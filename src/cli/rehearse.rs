//! `rehearse`: a whole update on a simulated cluster and EC2.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use clap::{Args, ValueEnum};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::cli::failure::Failure;
use crate::cli::request::word;
use crate::cli::{Output, duration, fresh_id, note, print};
use crate::domain::ids::{InstanceType, NodeName};
use crate::exit::{self, Exit};
use crate::rehearsal::{
    Folder, Look, Options, Progress, RehearsalError, START_TYPE, Stage, StageError, VERSION, Wishes,
    first_answer_timeout,
};
use crate::sim::model::Fault;
use crate::update::event::{OnFailure, OnSilentNode};
use crate::update::limits::FIRST_ANSWER_TIMEOUT;
use crate::update::strategy::Strategy;
use crate::views::timeline::Line;
use crate::views::{self, columns, plain};

/// Options of `rehearse`.
#[derive(Args, Debug)]
#[command(after_help = after_help())]
pub struct RehearseArgs {
    /// Seed of the simulated world: the same seed gives the same world [default: a random one, which is printed]
    #[arg(long)]
    pub seed: Option<u64>,
    /// How much quicker than real EC2 transitions, boot and catch-up are; all else takes its real time
    #[arg(long, default_value_t = 10.0)]
    pub speed: f64,
    /// Voting nodes
    #[arg(long, default_value_t = 3)]
    pub nodes: usize,
    /// Read-only replicas
    #[arg(long, default_value_t = 1)]
    pub replicas: usize,
    /// What is done to each node
    #[arg(long, value_enum, default_value_t)]
    pub strategy: StrategyName,
    /// The wanted instance type
    #[arg(long, default_value = "m6i.xlarge", help = format!("The wanted instance type; the nodes have {START_TYPE} [default: m6i.xlarge]"), hide_default_value = true)]
    pub target_type: String,
    /// Types to try, in order, where the wanted one will not start
    #[arg(long, visible_alias = "fallback-type", value_name = "TYPE,…", value_delimiter = ',')]
    pub fallback_types: Vec<String>,
    /// What to do after a failure [default: rollBackNode]
    #[arg(long, value_parser = word::<OnFailure>(&["rollBackNode", "rollBackAll", "hold"]))]
    pub on_failure: Option<OnFailure>,
    /// What to do with a node that stays silent while its instance runs [default: hold]
    #[arg(long, value_parser = word::<OnSilentNode>(&["hold", "reboot"]))]
    pub on_silent_node: Option<OnSilentNode>,
    /// A fault to play, or `list`; may be repeated
    #[arg(long, value_name = "NAME")]
    pub fault: Vec<String>,
    /// Kill the worker when the first instance is stopped: another takes the update over
    #[arg(long)]
    pub kill_worker: bool,
    /// Over TLS and with users: the worker's is in $ops and may read $all, the client's has no rights beyond streams
    #[arg(long)]
    pub tls: bool,
    /// Server version to simulate
    #[arg(long, default_value = VERSION)]
    pub server_version: String,
    /// Give up after this long: 90, 15m, 2h
    #[arg(long, value_parser = duration, default_value = "15m")]
    pub timeout: Duration,
    /// How the report is printed
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

/// What is done to each node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum StrategyName {
    /// Stop, change the type, start.
    #[default]
    #[value(name = "Ec2InstanceTypeUpdate")]
    InstanceType,
    /// Stop, start.
    #[value(name = "Ec2InstanceRestart")]
    Restart,
}

impl From<StrategyName> for Strategy {
    fn from(name: StrategyName) -> Self {
        match name {
            StrategyName::InstanceType => Strategy::Ec2InstanceTypeUpdate,
            StrategyName::Restart => Strategy::Ec2InstanceRestart,
        }
    }
}

fn after_help() -> String {
    format!(
        "\
The simulated cluster speaks EventStoreDB's gRPC and HTTP, and the simulated EC2 its Query API, on loopback. The worker, its clients,
the AWS SDK and every constant are those of production, and the update's events are in the very cluster that is updated. A client
appends to it all the time; in the end every append it saw acknowledged must be there, once. With --tls all calls to the cluster go over
TLS, with certificates of a CA made for this run, and each client has a user of its own, with as few rights as it needs.

Faults (docs/ec2-failures.md says where each ends):
{}
--output json prints one object on one line: verdict (completed, failed, cancelled, rejected, parked, running), seed, speed, events,
elections, wallSeconds, waits {{unavoidableSeconds, gatesSeconds, ratio}}, writes {{acknowledged, lost, duplicated, longestGapMs}}, and
nodes, in the order in which they were updated: name, roleAtSelection, fromType, toType, seconds {{prepare, stop, modify, start,
rejoin, catchUp, total}}, result (updated, rolledBack, failed, pending).

{}
A lost or doubled write is 1, whatever the update says.

Examples:
  esdb-rollout rehearse
  esdb-rollout rehearse --tls
  esdb-rollout rehearse --seed 7 --nodes 5 --replicas 0 --target-type r6i.xlarge
  esdb-rollout rehearse --fault start-capacity --fault throttled --output json
  esdb-rollout rehearse --fault capacity --fallback-types r6i.xlarge",
        faults("  "),
        exit::HELP
    )
}

/// The faults, a line each.
pub(super) fn faults(indent: &str) -> String {
    let rows: Vec<Vec<String>> =
        Fault::NAMES.iter().map(|(name, what)| vec![format!("{indent}{name}"), (*what).to_owned()]).collect();
    columns(&rows)
}

/// The names of faults as they are now; of one that was given up it is said which says the same.
pub(super) fn known_faults(names: &[String]) -> Vec<String> {
    let known = |name: &String| match Fault::renamed(name) {
        Some(now) => {
            note(&format!("the fault `{name}` is called `{now}` now"));
            now.to_owned()
        }
        None => name.clone(),
    };
    names.iter().map(known).collect()
}

/// A seed that is short enough to be typed.
pub(super) fn fresh_seed() -> u64 {
    fresh_id().as_u64_pair().1 % 1_000_000
}

/// Rehearses an update, and prints what came of it.
pub async fn run(args: &RehearseArgs) -> Result<Exit, Failure> {
    if args.fault.iter().any(|name| name == "list") {
        print(&faults(""))?;
        return Ok(Exit::Completed);
    }
    let options = Options {
        wishes: Wishes {
            seed: args.seed.unwrap_or_else(fresh_seed),
            speed: args.speed,
            voters: args.nodes,
            replicas: args.replicas,
            version: args.server_version.clone(),
            target_type: InstanceType::from(args.target_type.as_str()),
            fallback_types: args.fallback_types.iter().map(|t| InstanceType::from(t.as_str())).collect(),
            faults: known_faults(&args.fault),
            tls: args.tls.then_some(Folder::Temporary),
            atom_pub: false,
        },
        strategy: args.strategy.into(),
        on_failure: args.on_failure,
        on_silent_node: args.on_silent_node,
        kill_worker: args.kill_worker,
        time_limit: args.timeout,
    };
    let mut display = Display::new(args.output);
    let report = crate::rehearsal::run(&options, &mut |progress| display.show(progress, &options)).await;
    display.finish();
    let report = report.map_err(failure)?;
    match args.output {
        Output::Table => print(&format!("\n{}", report.text()))?,
        Output::Json => print(&serde_json::to_string(&report).map_err(Failure::other)?)?,
    }
    display.broken.map_or(Ok(report.exit), Err)
}

fn failure(error: RehearsalError) -> Failure {
    match error {
        RehearsalError::Stage(StageError::Wish(wish)) => Failure::usage(wish),
        other => Failure::other(other),
    }
}

/// What is shown meanwhile: the history on stdout where people read it, and on a terminal a line for each node, kept up to date.
struct Display {
    /// Whether the history is printed.
    lines: bool,
    shown: usize,
    live: Option<Live>,
    /// The first line that could not be printed, and why.
    broken: Option<Failure>,
}

struct Live {
    area: MultiProgress,
    whole: ProgressBar,
    writes: ProgressBar,
    nodes: BTreeMap<NodeName, ProgressBar>,
}

fn bar(template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner());
    ProgressBar::new_spinner().with_style(style)
}

impl Display {
    fn new(output: Output) -> Self {
        let live = std::io::stderr().is_terminal().then(|| {
            let area = MultiProgress::new();
            let whole = area.add(bar("{spinner} {wide_msg}"));
            whole.enable_steady_tick(Duration::from_millis(120));
            let writes = area.add(bar("  {wide_msg}"));
            Live { area, whole, writes, nodes: BTreeMap::new() }
        });
        Self { lines: output == Output::Table, shown: 0, live, broken: None }
    }

    fn show(&mut self, progress: Progress<'_>, options: &Options) {
        match progress {
            Progress::Ready(stage) => self.say(&opening(stage, options)),
            Progress::Looked(look) => {
                for recorded in look.history.iter().skip(self.shown) {
                    if self.lines {
                        self.line(&Line::of(recorded).to_string());
                    }
                }
                self.shown = look.history.len();
                if let Some(live) = &mut self.live {
                    live.look(&look);
                }
            }
            Progress::WorkerKilled => self.say("the worker was killed, and another one was started"),
        }
    }

    /// A line of data.
    fn line(&mut self, text: &str) {
        let printed = match &self.live {
            Some(live) => live.area.suspend(|| print(text)),
            None => print(text),
        };
        if let Err(failure) = printed {
            self.lines = false;
            self.broken.get_or_insert(failure);
        }
    }

    /// A word by the way.
    fn say(&self, text: &str) {
        match &self.live {
            Some(live) => live.area.suspend(|| note(text)),
            None => note(text),
        }
    }

    fn finish(&self) {
        if let Some(Live { area, whole, writes, nodes }) = &self.live {
            whole.finish_and_clear();
            writes.finish_and_clear();
            nodes.values().for_each(ProgressBar::finish_and_clear);
            // An error here means that the terminal has gone.
            drop(area.clear());
        }
    }
}

impl Live {
    fn look(&mut self, look: &Look<'_>) {
        let progress = views::progress::Progress::of(look.update, look.state, look.history, look.at);
        self.whole.set_message(progress.headline());
        let gap = look.writes.longest_gap.as_millis();
        self.writes.set_message(format!("{} writes acknowledged, longest gap {gap} ms", look.writes.acknowledged));
        for node in &progress.nodes {
            let line =
                self.nodes.entry(node.name.clone()).or_insert_with(|| self.area.add(bar("  {prefix} {wide_msg}")));
            line.set_prefix(format!("{:<10}", plain(node.name.as_str())));
            line.set_message(node.line());
            line.tick();
        }
    }
}

fn opening(stage: &Stage, options: &Options) -> String {
    let Wishes { seed, speed, voters, replicas, faults, .. } = &options.wishes;
    let addresses: Vec<String> = stage.addresses.iter().map(ToString::to_string).collect();
    let faults = if faults.is_empty() { String::new() } else { format!(", faults {}", faults.join(", ")) };
    let silent = first_answer_timeout(*speed);
    let shortened = if silent < FIRST_ANSWER_TIMEOUT {
        format!(
            "; a node counts as silent after {} s here, and after {} s where first_answer_timeout_seconds says nothing else",
            silent.as_secs(),
            FIRST_ANSWER_TIMEOUT.as_secs()
        )
    } else {
        String::new()
    };
    format!(
        "simulated: {voters} voting, {replicas} read-only at {}, EC2 at {}; seed {seed}, speed {speed}{faults}{shortened}",
        addresses.join(", "),
        stage.ec2_url()
    )
}
