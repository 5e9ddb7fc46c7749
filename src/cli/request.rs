//! The request that the command line and a document make together: what `start` and `plan` share.

use std::io::Read;
use std::path::PathBuf;

use anyhow::Context;
use clap::builder::PossibleValuesParser;
use clap::{Args, builder::TypedValueParser};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::cli::command::Asked;
use crate::cli::failure::Failure;
use crate::cli::{cluster_or_only, update_id};
use crate::config::Config;
use crate::domain::ids::{InstanceType, NodeName, Revision, UpdateId};
use crate::update::event::{CheckWaived, Gate, OnFailure, OnSilentNode, UpdateRequested, Window};
use crate::update::plan::waiver_refusal;
use crate::update::strategy::Strategy;
use crate::update::window::check;
use crate::views::article;

/// What is said of `--from` in help texts.
pub const FROM_HELP: &str = "\
--from takes an UpdateRequested document of ours (cluster, strategy, targetInstanceType, nodes, fallbackTypes, onFailure, onSilentNode,
nodeTimeoutSeconds, planDigest, gates, notBefore, window, dwellSeconds, acceptDowntime, replicasTogether, supersedes, resumes, by,
why), or the article's (UpdateStrategy, TargetInstanceType, MaxNumberOfIterationsPerNodeUpdate: each iteration is 5 s of the node's time
limit). The article's status document (`status --output article`) may be edited by hand and given here too: a new update goes on from
there, with the nodes it lists. Nodes with Success are verified, not believed; the original priority and the time spent on the node in
progress are taken from it.
Options on the command line outrank it.";

/// Options that make a request.
#[derive(Args, Debug)]
pub struct RequestArgs {
    /// The cluster, as the workers' configuration names it [default: the document's, or the only one configured]
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// What is done to each node [default: Ec2InstanceTypeUpdate]
    #[arg(long, value_parser = word::<Strategy>(Strategy::NAMES))]
    pub strategy: Option<Strategy>,
    /// The instance type every node shall have
    #[arg(long, value_name = "TYPE")]
    pub target_type: Option<String>,
    /// Only these nodes, by name
    #[arg(long, value_name = "NODE,…", value_delimiter = ',')]
    pub nodes: Vec<String>,
    /// Types to try, in order, where the wanted one will not start
    #[arg(long, value_name = "TYPE,…", value_delimiter = ',')]
    pub fallback_types: Vec<String>,
    /// What to do after a failure [default: rollBackNode]
    #[arg(long, value_parser = word::<OnFailure>(&["rollBackNode", "rollBackAll", "hold"]))]
    pub on_failure: Option<OnFailure>,
    /// What to do with a node that stays silent while its instance runs [default: hold]
    #[arg(long, value_parser = word::<OnSilentNode>(&["hold", "reboot"]))]
    pub on_silent_node: Option<OnSilentNode>,
    /// Take nodes out of service only while this window is open; one that still serves when it shuts is held: cron pattern, minutes, time
    /// zone, such as '0 2 * * SAT/180/Europe/Madrid'
    #[arg(long, value_name = "CRON/MINUTES/ZONE", value_parser = window)]
    pub window: Option<Window>,
    /// Where to wait for an approval
    #[arg(long, value_name = "GATE,…", value_delimiter = ',', value_parser = word::<Gate>(&["beforeLeader", "afterFirst", "eachNode"]))]
    pub gates: Vec<Gate>,
    /// Not before this moment, such as 2026-01-31T02:00:00Z
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub not_before: Option<jiff::Timestamp>,
    /// Rest between two nodes
    #[arg(long, value_name = "SECONDS")]
    pub dwell_seconds: Option<f64>,
    /// Time limit of each node
    #[arg(long, value_name = "SECONDS")]
    pub node_timeout_seconds: Option<f64>,
    /// Accept that a cluster with fewer than three voters is not available meanwhile
    #[arg(long)]
    pub accept_downtime: bool,
    /// Refuse if the plan is another than `esdb-rollout plan` showed with this digest
    #[arg(long, value_name = "DIGEST")]
    pub plan_digest: Option<String>,
    /// End that update of the cluster in favour of this one, which waits until every node of it runs and it has ended
    #[arg(long, value_name = "ID", value_parser = update_id)]
    pub supersede: Option<UpdateId>,
    /// Waive a check, for one node or all; needs --why
    #[arg(long, value_name = "CODE[@NODE],…", value_delimiter = ',', requires = "why", value_parser = waived)]
    pub waive: Vec<Waived>,
    /// Until when --waive holds, such as 2026-01-31T06:00:00Z
    #[arg(long, value_name = "TIME", value_parser = moment, requires = "waive")]
    pub waive_until: Option<jiff::Timestamp>,
    /// Who and why.
    #[command(flatten)]
    pub asked: Asked,
    /// A document with the request; - is stdin
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
}

/// A check that is waived, for one node or all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waived {
    check: String,
    node: Option<NodeName>,
}

fn waived(text: &str) -> Result<Waived, String> {
    let (check, node) = match text.split_once('@') {
        Some((check, node)) if !node.is_empty() => (check, Some(NodeName::from(node))),
        Some(_) => return Err("expected CODE or CODE@NODE, such as stopProtection@esdb-2".into()),
        None => (text, None),
    };
    Ok(Waived { check: check.to_owned(), node })
}

fn moment(text: &str) -> Result<jiff::Timestamp, String> {
    text.parse().map_err(|_| "expected a date and a time with its distance to UTC, such as 2026-01-31T02:00:00Z or 2026-01-31T03:00:00+01:00".into())
}

fn window(text: &str) -> Result<Window, String> {
    // Cron patterns have slashes of their own, and so have time zones: the minutes stand between.
    let parts: Vec<&str> = text.split('/').collect();
    let minutes = (1..parts.len()).find_map(|at| {
        Some((at, parts.get(at)?.parse().ok()?)).filter(|_| parts[..at].join("/").split_whitespace().count() == 5)
    });
    let Some((at, minutes)) = minutes else {
        return Err("expected CRON/MINUTES/ZONE, such as '0 2 * * SAT/180/Europe/Madrid'".into());
    };
    let window = Window { cron: parts[..at].join("/"), minutes, time_zone: parts[at + 1..].join("/") };
    let reasons: Vec<String> =
        check(&window).iter().map(|r| format!("found {}, wanted {}", r.found, r.wanted)).collect();
    if reasons.is_empty() { Ok(window) } else { Err(reasons.join("; ")) }
}

/// A parser of the stored words of an enum.
pub(super) fn word<T: DeserializeOwned + Clone + Send + Sync + 'static>(
    words: &'static [&'static str],
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(words).try_map(|text| serde_json::from_value::<T>(Value::String(text)))
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The request.
    pub request: UpdateRequested,
    /// The waivers that go with it.
    pub waivers: Vec<CheckWaived>,
}

impl RequestArgs {
    /// What is asked for, a document read.
    ///
    /// # Errors
    /// A document that cannot be read or understood, and a waiver of what may not be waived.
    pub fn wish(&self, config: &Config) -> Result<Wish, Failure> {
        let document = self.from.as_ref().map(read_document).transpose()?;
        let request = with_document(self, document, config)?;
        let mut waivers = Vec::new();
        for Waived { check, node } in &self.waive {
            let waiver = CheckWaived {
                answers: Revision(0),
                check: Some(check.clone()),
                node: node.clone(),
                until: self.waive_until,
                by: self.asked.by.clone(),
                why: self.asked.why.clone(),
            };
            if let Some(reason) = waiver_refusal(&waiver) {
                return Err(Failure::refused(reason).during("nothing was asked for"));
            }
            waivers.push(waiver);
        }
        Ok(Wish { request, waivers })
    }
}

fn read_document(path: &PathBuf) -> Result<Value, Failure> {
    let name = path.display();
    let text = if path.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(path)
    };
    let usage = |error: anyhow::Error| Failure::usage(format!("{error:#}"));
    let text = text.with_context(|| format!("{name}: cannot be read")).map_err(usage)?;
    let value: Value =
        serde_json::from_str(&text).with_context(|| format!("{name}: expected a JSON object")).map_err(usage)?;
    if value.is_object() { Ok(value) } else { Err(Failure::usage(format!("{name}: expected a JSON object"))) }
}

/// Fields of a request document.
const FIELDS: &[&str] = &[
    "cluster",
    "strategy",
    "targetInstanceType",
    "nodes",
    "fallbackTypes",
    "onFailure",
    "onSilentNode",
    "nodeTimeoutSeconds",
    "planDigest",
    "gates",
    "notBefore",
    "window",
    "dwellSeconds",
    "acceptDowntime",
    "replicasTogether",
    "supersedes",
    "resumes",
    "by",
    "why",
];

/// The request: the document's, with what the command line says.
///
/// # Errors
/// A document that cannot be understood, and a cluster that is not configured.
pub fn with_document(args: &RequestArgs, document: Option<Value>, config: &Config) -> Result<UpdateRequested, Failure> {
    let named = document.as_ref().and_then(|d| d.get("cluster")).and_then(Value::as_str);
    let cluster = cluster_or_only(args.cluster.as_deref().or(named), config)?;
    let mut request = match document {
        Some(document) if article::Input::recognises(&document) => {
            let input: article::Input =
                serde_json::from_value(document).map_err(|e| Failure::usage(e).during("the article's document"))?;
            input.into_request(cluster)
        }
        Some(mut document) => {
            if let Some(map) = document.as_object_mut() {
                if let Some(unknown) = map.keys().find(|k| !FIELDS.contains(&k.as_str())) {
                    let text =
                        format!("expected one of {}; found `{unknown}`; correct or remove it", FIELDS.join(", "));
                    return Err(Failure::usage(text).during("the request document"));
                }
                map.insert("cluster".into(), Value::String(cluster.0));
            }
            serde_json::from_value(document).map_err(|e| Failure::usage(e).during("the request document"))?
        }
        None => article::Input {
            update_strategy: Strategy::default(),
            target_instance_type: None,
            max_number_of_iterations_per_node_update: None,
            event_store_node_updates: None,
        }
        .into_request(cluster),
    };
    if let Some(strategy) = args.strategy {
        request.strategy = strategy;
    }
    if let Some(target) = &args.target_type {
        request.target_instance_type = Some(InstanceType(target.clone()));
    }
    if !args.nodes.is_empty() {
        request.nodes = Some(args.nodes.iter().cloned().map(NodeName).collect());
    }
    if !args.fallback_types.is_empty() {
        request.fallback_types = Some(args.fallback_types.iter().cloned().map(InstanceType).collect());
    }
    if !args.gates.is_empty() {
        request.gates = Some(args.gates.clone());
    }
    if args.accept_downtime {
        request.accept_downtime = Some(true);
    }
    request.plan_digest = args.plan_digest.clone().or(request.plan_digest);
    request.supersedes = args.supersede.or(request.supersedes);
    request.on_failure = args.on_failure.or(request.on_failure);
    request.on_silent_node = args.on_silent_node.or(request.on_silent_node);
    request.window = args.window.clone().or(request.window);
    request.not_before = args.not_before.or(request.not_before);
    request.dwell_seconds = args.dwell_seconds.or(request.dwell_seconds);
    request.node_timeout_seconds = args.node_timeout_seconds.or(request.node_timeout_seconds);
    // Whoever runs this is the default only: the document may name who asked.
    request.by = request.by.or_else(|| args.asked.by.clone());
    request.why = args.asked.why.clone().or(request.why);
    Ok(request)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::exit::Exit;

    fn args(line: &[&str]) -> RequestArgs {
        let line = ["esdb-rollout", "start"].iter().chain(line);
        let cli = Cli::try_parse_from(line).unwrap_or_else(|e| panic!("{e}"));
        let Command::Start(args) = cli.command else { panic!("no start command") };
        args.request
    }

    fn made(line: &[&str], document: Option<Value>) -> Value {
        serde_json::to_value(with_document(&args(line), document, &Config::default()).unwrap_or_else(|e| panic!("{e}")))
            .unwrap()
    }

    #[test]
    fn options_become_a_request() {
        let line = [
            "--cluster",
            "prod",
            "--target-type",
            "m6i.xlarge",
            "--nodes",
            "a,b",
            "--fallback-types",
            "m5.large",
            "--on-failure",
            "hold",
            "--gates",
            "beforeLeader,eachNode",
            "--not-before",
            "2026-01-31T02:00:00Z",
            "--dwell-seconds",
            "5",
            "--node-timeout-seconds",
            "900",
            "--accept-downtime",
            "--plan-digest",
            "9f86d081884c7d65",
            "--supersede",
            "6f1c2a34-5b6c-4d7e-8f90-a1b2c3d4e5f6",
            "--by",
            "ada",
            "--why",
            "x",
        ];
        assert_eq!(
            made(&line, None),
            json!({
                "cluster": "prod", "strategy": "Ec2InstanceTypeUpdate", "targetInstanceType": "m6i.xlarge", "nodes": ["a", "b"],
                "fallbackTypes": ["m5.large"], "onFailure": "hold", "gates": ["beforeLeader", "eachNode"],
                "notBefore": "2026-01-31T02:00:00Z", "dwellSeconds": 5.0, "nodeTimeoutSeconds": 900.0, "acceptDowntime": true,
                "planDigest": "9f86d081884c7d65", "supersedes": "6f1c2a34-5b6c-4d7e-8f90-a1b2c3d4e5f6",
                "by": "ada", "why": "x"
            })
        );
    }

    #[test]
    fn documents_of_both_kinds() {
        let ours = json!({ "cluster": "prod", "targetInstanceType": "m6i.xlarge", "by": "bob", "why": "y" });
        let made_of_ours = made(&["--target-type", "m7i.large", "--by", "ada"], Some(ours));
        assert_eq!(
            made_of_ours,
            json!({ "cluster": "prod", "strategy": "Ec2InstanceTypeUpdate", "targetInstanceType": "m7i.large", "by": "bob", "why": "y" })
        );
        let one = "6f1c2a34-5b6c-4d7e-8f90-a1b2c3d4e5f6";
        let superseding =
            made(&[], Some(json!({ "cluster": "prod", "targetInstanceType": "m6i.xlarge", "supersedes": one })));
        assert_eq!(superseding["supersedes"], one);
        let theirs = json!({ "UpdateStrategy": "Ec2InstanceTypeUpdate", "TargetInstanceType": "t2.xlarge", "MaxNumberOfIterationsPerNodeUpdate": 1000 });
        let made_of_theirs = made(&["--cluster", "prod", "--by", "ada"], Some(theirs));
        assert_eq!(made_of_theirs["nodeTimeoutSeconds"], json!(5000.0));
        assert_eq!(made_of_theirs["targetInstanceType"], "t2.xlarge");
    }

    #[test]
    fn mistakes_are_named() {
        let failure = |line: &[&str], document: Value| {
            let failure = with_document(&args(line), Some(document), &Config::default()).unwrap_err();
            assert_eq!(failure.exit(), Exit::Usage);
            failure.to_string()
        };
        assert!(failure(&[], json!({ "targetInstanceType": "x" })).contains("--cluster"));
        assert!(failure(&[], json!({ "cluster": "p", "targetType": "x" })).contains("found `targetType`"));
        assert!(failure(&[], json!({ "cluster": "p", "gates": ["never"] })).contains("beforeLeader"));
        assert!(failure(&["--cluster", "p"], json!({ "UpdateStrategy": "Reboot" })).contains("Ec2InstanceRestart"));
        assert!(Cli::try_parse_from(["x", "start", "--gates", "never"]).is_err());
        assert!(Cli::try_parse_from(["x", "start", "--timeout", "5"]).is_err(), "--timeout needs --wait");
        for option in ["--not-before", "--waive-until"] {
            let line = ["x", "start", "--waive", "fence", "--why", "x", option, "tomorrow"];
            let error = Cli::try_parse_from(line).unwrap_err().to_string();
            assert!(error.contains("2026-01-31T02:00:00Z"), "{error}");
        }
    }

    #[test]
    fn waivers() {
        let line = [
            "--cluster",
            "p",
            "--target-type",
            "t",
            "--waive",
            "stopProtection@esdb-2,placementGroup",
            "--why",
            "x",
            "--by",
            "ada",
        ];
        let wish = args(&line).wish(&Config::default()).unwrap();
        let shown: Vec<(Option<&str>, Option<&str>)> =
            wish.waivers.iter().map(|w| (w.check.as_deref(), w.node.as_ref().map(NodeName::as_str))).collect();
        assert_eq!(shown, [(Some("stopProtection"), Some("esdb-2")), (Some("placementGroup"), None)]);
        assert!(wish.waivers.iter().all(|w| w.answers == Revision(0) && w.why.as_deref() == Some("x")));
        for code in ["votersDiffer", "ownMachine", "nonsense"] {
            let failure =
                args(&["--cluster", "p", "--waive", code, "--why", "x"]).wish(&Config::default()).unwrap_err();
            assert_eq!(failure.exit(), Exit::Refused, "{code}");
        }
        assert!(Cli::try_parse_from(["x", "start", "--waive", "stopProtection"]).is_err(), "--waive needs --why");
        assert!(Cli::try_parse_from(["x", "start", "--waive", "stopProtection@", "--why", "x"]).is_err());
    }
}
