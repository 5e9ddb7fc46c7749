//! Where an update is: node by node, and as a whole. The object that `--output json` prints.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::why::{Why, why};
use super::{Span, columns, plain, seconds_between, short_seconds, spans};
use crate::domain::ids::{Address, ClusterName, InstanceId, InstanceType, NodeName, UpdateId, WorkerName};
use crate::update::event::{NodeResult, PhaseSeconds, Reason, Role};
use crate::update::react::verdict_word;
use crate::update::state::{End, InHand, Recorded, State, Step};
use crate::update::strategy::Strategy;

/// One node of an update.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeProgress {
    /// The node.
    pub name: NodeName,
    /// Its role when it was selected or skipped.
    pub role_at_selection: Option<Role>,
    /// Its role when planned.
    pub planned_role: Role,
    /// Its type when planned.
    pub from_type: InstanceType,
    /// Its type as planned for afterwards.
    pub to_type: InstanceType,
    /// Its type by the last fact that names it.
    #[serde(rename = "type")]
    pub instance_type: InstanceType,
    /// Its instance.
    pub instance: InstanceId,
    /// Where it listens.
    pub address: Address,
    /// The step it is at; the result once it has one and is not in hand again.
    pub phase: String,
    /// How it ended, `pending` before, and while it is in hand, be it once more.
    pub result: NodeResult,
    /// What it was left in, where that is not plain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_in: Option<String>,
    /// Seconds per phase, and in all; up to now while it is in hand.
    pub seconds: PhaseSeconds,
}

/// A check that a person has taken upon themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LiveWaiver {
    /// The check.
    pub check: String,
    /// The node; absent: every one.
    pub node: Option<NodeName>,
    /// Who waived it.
    pub by: Option<String>,
    /// Why.
    pub why: Option<String>,
    /// Until when.
    pub until: Option<jiff::Timestamp>,
}

impl fmt::Display for LiveWaiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = self.node.as_ref().map(|n| format!(" of {n}")).unwrap_or_default();
        let until = self.until.map(|at| format!(" until {at}")).unwrap_or_default();
        let (by, why) =
            (self.by.as_deref().unwrap_or("somebody unnamed"), self.why.as_deref().unwrap_or("no reason given"));
        write!(f, "{}{of} by {by}{until}: {why}", self.check)
    }
}

/// Waivers that hold at `now`: those that the plan took, or, before there is one, those that it will be offered.
fn waivers(state: &State, now: jiff::Timestamp) -> Vec<LiveWaiver> {
    let offered = state.waivers.iter().map(|w| LiveWaiver {
        check: w.check.clone(),
        node: w.node.clone(),
        by: w.by.clone(),
        why: w.why.clone(),
        until: w.until,
    });
    let all: Vec<LiveWaiver> = match (&state.end, &state.plan) {
        (Some(_), _) => Vec::new(),
        (None, None) => offered.collect(),
        (None, Some(plan)) => plan
            .checks
            .iter()
            .filter(|c| c.waived_by.is_some())
            .map(|c| LiveWaiver {
                check: c.code.clone(),
                node: c.node.clone(),
                by: c.waived_by.clone(),
                why: c.why.clone(),
                until: c.until,
            })
            .collect(),
    };
    all.into_iter().filter(|w| w.until.is_none_or(|until| until > now)).collect()
}

/// Where an update is.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// `completed`, `failed`, `cancelled`, `rejected`, `parked` or `running`.
    pub verdict: &'static str,
    /// The update.
    pub update: UpdateId,
    /// Its cluster; absent where the request cannot be read.
    pub cluster: Option<ClusterName>,
    /// What is done to each node.
    pub strategy: Option<Strategy>,
    /// The wanted type.
    pub target_instance_type: Option<InstanceType>,
    /// Who asked.
    pub by: Option<String>,
    /// Why.
    pub why: Option<String>,
    /// When.
    pub requested_at: Option<jiff::Timestamp>,
    /// Seconds since acceptance, or from acceptance to the end.
    pub seconds: f64,
    /// The worker that holds it.
    pub worker: Option<WorkerName>,
    /// For how many seconds that worker has been silent, where whoever reads this listened and did not hear it: nobody acts then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker_silent_seconds: Option<f64>,
    /// Whether it is paused.
    pub paused: bool,
    /// Whether it was cancelled and has not ended yet.
    pub cancelling: bool,
    /// The node in hand.
    pub in_hand: Option<NodeName>,
    /// Nodes: those taken so far in the order in which they were taken, then the others as planned.
    pub nodes: Vec<NodeProgress>,
    /// Elections caused.
    pub elections: u32,
    /// Nodes that are not running: those that the end names, and the one in hand from its stop until its process answers.
    pub not_running: Vec<NodeName>,
    /// Checks that are waived now; none once it has ended.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waivers: Vec<LiveWaiver>,
    /// What it is waiting for; absent once it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Why>,
    /// Code of the failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What a person should do after the failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// Why it was rejected.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<Reason>,
    /// Whether it does not get on by itself, or not as it should: its history is broken, it is parked, or its step is delayed.
    #[serde(skip)]
    pub stuck: bool,
}

impl Progress {
    /// Where the update with this history, which folds to `state`, is at `now`.
    pub fn of(update: UpdateId, state: &State, history: &[Recorded], now: jiff::Timestamp) -> Self {
        Self::with_spans(update, state, &spans(history), now)
    }

    /// The same, where the time each node was in hand is known without the history.
    pub(super) fn with_spans(
        update: UpdateId,
        state: &State,
        spans: &BTreeMap<NodeName, Span>,
        now: jiff::Timestamp,
    ) -> Self {
        let request = state.request.as_ref();
        let running = state.accepted_at.map_or(0.0, |at| seconds_between(at, now));
        let (seconds, not_running) = match &state.end {
            Some(End::Completed(e)) => (e.seconds, e.not_running.clone()),
            Some(End::Failed(e)) => (e.seconds, e.not_running.clone()),
            Some(End::Cancelled(e)) => (e.seconds, e.not_running.clone()),
            Some(End::Superseded(e)) => (e.seconds, e.not_running.clone()),
            Some(End::Rejected(_)) => (0.0, Vec::new()),
            None => (running, down(state).into_iter().collect()),
        };
        let failure = match &state.end {
            Some(End::Failed(e)) => Some((e.code.clone(), e.remedy.clone())),
            Some(End::Completed(_) | End::Cancelled(_) | End::Superseded(_) | End::Rejected(_)) => None,
            None => state.failure.as_ref().map(|f| (f.code.clone(), f.remedy.clone())),
        };
        let (code, remedy) = failure.unzip();
        let reasons = match &state.end {
            Some(End::Rejected(e)) => e.reasons.clone(),
            Some(End::Completed(_) | End::Failed(_) | End::Cancelled(_) | End::Superseded(_)) | None => Vec::new(),
        };
        Self {
            verdict: verdict_word(state),
            update,
            cluster: request.map(|r| r.cluster.clone()),
            strategy: request.map(|r| r.strategy),
            target_instance_type: request.and_then(|r| r.target_instance_type.clone()),
            by: request.and_then(|r| r.by.clone()),
            why: request.and_then(|r| r.why.clone()),
            requested_at: state.requested_at,
            seconds,
            worker: state.holder.as_ref().map(|h| h.worker.clone()),
            worker_silent_seconds: None,
            paused: state.paused.is_some(),
            cancelling: state.cancelled.is_some() && state.end.is_none(),
            in_hand: state.in_hand.as_ref().map(|h| h.node.clone()),
            nodes: nodes(state, spans, now),
            elections: state.elections,
            not_running,
            waivers: waivers(state, now),
            waiting: why(update, state, now),
            code,
            remedy,
            reasons,
            stuck: state.broken.is_some() || state.parked.is_some() || state.delayed.is_some(),
        }
    }

    /// What was asked for, in a few words.
    pub fn what(&self) -> String {
        match (&self.strategy, &self.target_instance_type) {
            (Some(Strategy::Ec2InstanceTypeUpdate), Some(target)) => format!("→ {target}"),
            (Some(Strategy::Ec2InstanceTypeUpdate), None) => "→ ?".into(),
            (Some(Strategy::Ec2InstanceRestart), _) => "restart".into(),
            (None, _) => "unreadable request".into(),
        }
    }

    /// The update as a whole in one line.
    pub fn headline(&self) -> String {
        let cluster = self.cluster.as_ref().map_or("an unknown cluster", ClusterName::as_str);
        let mut text = format!("{} of {cluster}: {}", self.what(), self.standing());
        if self.has_begun() {
            text.push_str(&format!(" after {}", short_seconds(self.seconds)));
        }
        if !self.nodes.is_empty() {
            text.push_str(&format!(", {} of {} nodes", self.done(), self.nodes.len()));
        }
        if self.paused {
            text.push_str(", paused");
        }
        if self.cancelling {
            text.push_str(", to be cancelled");
        }
        plain(&text)
    }

    fn has_begun(&self) -> bool {
        self.verdict != "running" || self.worker.is_some()
    }

    /// The verdict, for people: what nobody has taken is not running.
    pub fn standing(&self) -> &'static str {
        if self.has_begun() { self.verdict } else { "not begun" }
    }

    /// What became of the nodes that are done: `2 updated, 1 skipped`; `0` before there are any.
    fn done(&self) -> String {
        let all = [
            (NodeResult::Updated, "updated"),
            (NodeResult::RolledBack, "rolled back"),
            (NodeResult::Failed, "failed"),
            (NodeResult::Skipped, "skipped"),
        ];
        let counted = all.iter().filter_map(|(result, word)| {
            let count = self.nodes.iter().filter(|n| n.result == *result).count();
            (count > 0).then(|| format!("{count} {word}"))
        });
        let counted: Vec<String> = counted.collect();
        if counted.is_empty() { "0".into() } else { counted.join(", ") }
    }

    /// What a person should know at once, of one among several: a silent worker, nodes that do not run.
    pub fn trouble(&self) -> Option<String> {
        self.silence().or_else(|| self.loudly_down().then(|| format!("NOT RUNNING: {}", self.down_names())))
    }

    /// Whether the nodes that do not run are worth saying: the one in hand of an update that goes on is not.
    fn loudly_down(&self) -> bool {
        !self.not_running.is_empty() && (self.waiting.is_none() || self.verdict == "parked" || self.stuck)
    }

    fn down_names(&self) -> String {
        let names: Vec<&str> = self.not_running.iter().map(NodeName::as_str).collect();
        plain(&names.join(", "))
    }

    /// Says that the worker is silent, and what to do, where that was found.
    pub fn silence(&self) -> Option<String> {
        let silent = self.worker_silent_seconds?;
        let worker = self.worker.as_ref().map_or("the worker", WorkerName::as_str);
        let down = if self.not_running.is_empty() {
            String::new()
        } else {
            format!("; NOT RUNNING by its last fact: {}", self.down_names())
        };
        Some(plain(&format!(
            "worker {worker}, which holds it, has not been heard for {}{down}; see that a worker runs: any that knows the cluster takes it over",
            short_seconds(silent)
        )))
    }
}

impl NodeProgress {
    /// The node in one line, for a live display.
    pub fn line(&self) -> String {
        let role = self.role_at_selection.unwrap_or(self.planned_role);
        let mut text = format!("{role:<15}  {}  {}", types(&self.from_type, &self.to_type), self.phase);
        if self.seconds.total > 0.0 {
            text.push_str(&format!("  {}", short_seconds(self.seconds.total)));
        }
        plain(&text)
    }
}

fn types(from: &InstanceType, to: &InstanceType) -> String {
    if from == to { from.to_string() } else { format!("{from} → {to}") }
}

/// The node in hand, from its stop until its process answers again.
fn down(state: &State) -> Option<NodeName> {
    let down = |step: Step| step.out_of_service() && step < Step::Rejoined;
    state.in_hand.as_ref().filter(|h| down(h.step)).map(|h| h.node.clone())
}

fn nodes(state: &State, spans: &BTreeMap<NodeName, Span>, now: jiff::Timestamp) -> Vec<NodeProgress> {
    let Some(plan) = &state.plan else { return Vec::new() };
    let taken = state.order.iter();
    let others = plan.order.iter().filter(|n| !state.order.contains(n));
    taken.chain(others).filter_map(|name| node(state, name, spans, now)).collect()
}

fn node(
    state: &State,
    name: &NodeName,
    spans: &BTreeMap<NodeName, Span>,
    now: jiff::Timestamp,
) -> Option<NodeProgress> {
    let member = state.member(name)?;
    let hand = state.in_hand.as_ref().filter(|h| &h.node == name);
    // One that is taken again, to be brought back, is not done whatever it was before.
    let outcome = state.results.get(name).filter(|_| hand.is_none());
    let result = outcome.map_or(NodeResult::Pending, |o| o.result);
    let phase = hand.map_or_else(|| result.to_string(), |hand| hand.step.name().to_owned());
    // A failure records no seconds: those on record are of a turn before.
    let recorded = state.phases.get(name).filter(|_| result != NodeResult::Failed);
    let seconds = match (hand, recorded) {
        (Some(hand), _) => phases_so_far(hand, now),
        (None, Some(recorded)) => recorded.clone(),
        (None, None) => {
            let total = spans.get(name).map_or(0.0, |s| s.seconds(now));
            PhaseSeconds { total, ..PhaseSeconds::default() }
        }
    };
    Some(NodeProgress {
        name: name.clone(),
        role_at_selection: state.roles.get(name).copied(),
        planned_role: member.role,
        from_type: member.old_type.clone(),
        to_type: member.new_type.clone(),
        instance_type: state.types.get(name).unwrap_or(&member.old_type).clone(),
        instance: member.instance.clone(),
        address: member.address.clone(),
        phase,
        result,
        left_in: outcome.and_then(|o| o.left_in.clone()),
        seconds,
    })
}

/// Seconds per phase of the node in hand: phases that are over, and the one it is in up to `now`.
fn phases_so_far(hand: &InHand, now: jiff::Timestamp) -> PhaseSeconds {
    let mut phases = PhaseSeconds::default();
    let Some(selected) = hand.marks.get(&Step::Selected).copied() else { return phases };
    phases.total = seconds_between(selected, hand.marks.get(&Step::CaughtUp).copied().unwrap_or(now));
    let ends = [
        (Step::Stopping, &mut phases.prepare),
        (Step::Stopped, &mut phases.stop),
        (Step::Modified, &mut phases.modify),
        (Step::Started, &mut phases.start),
        (Step::Rejoined, &mut phases.rejoin),
        (Step::CaughtUp, &mut phases.catch_up),
    ];
    let mut since = selected;
    for (end, seconds) in ends {
        match hand.marks.get(&end) {
            Some(at) => {
                *seconds = seconds_between(since, *at);
                since = *at;
            }
            // A restart changes no type.
            None if end == Step::Modified && hand.step >= Step::Starting => {}
            None => {
                *seconds = seconds_between(since, now);
                break;
            }
        }
    }
    phases
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "update {}", self.update)?;
        writeln!(f, "{}", self.headline())?;
        let asked = [("by", &self.by), ("why", &self.why)];
        for (name, text) in asked.into_iter().filter_map(|(n, t)| t.as_ref().map(|t| (n, t))) {
            writeln!(f, "{name}: {}", plain(text))?;
        }
        match (self.silence(), &self.worker) {
            (Some(silence), _) => writeln!(f, "NOT HEARD: {silence}")?,
            (None, Some(worker)) => writeln!(f, "worker: {}", plain(worker.as_str()))?,
            (None, None) => {}
        }
        if !self.nodes.is_empty() {
            let mut rows = vec![["NODE", "ROLE", "TYPE", "NOW", "PHASE", "SECONDS"].map(String::from).to_vec()];
            for node in &self.nodes {
                rows.push(vec![
                    node.name.to_string(),
                    node.role_at_selection.unwrap_or(node.planned_role).to_string(),
                    types(&node.from_type, &node.to_type),
                    node.instance_type.to_string(),
                    node.left_in.as_ref().map_or(node.phase.clone(), |left| format!("{}: {left}", node.phase)),
                    format!("{:.1}", node.seconds.total),
                ]);
            }
            f.write_str(&columns(&rows))?;
        }
        for waiver in &self.waivers {
            writeln!(f, "WAIVED: {}", plain(&waiver.to_string()))?;
        }
        if let Some(waiting) = &self.waiting {
            writeln!(f, "waiting: {}", plain(&waiting.line()))?;
        }
        for reason in &self.reasons {
            writeln!(f, "refused: {}", plain(&reason.to_string()))?;
        }
        if let Some(code) = &self.code {
            writeln!(f, "failed: {}; {}", plain(code), plain(self.remedy.as_deref().unwrap_or_default()))?;
        }
        // Whoever is told of the silence is told of them there.
        if self.worker_silent_seconds.is_none() && self.loudly_down() {
            writeln!(f, "NOT RUNNING: {}", self.down_names())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::stories::{self, Story, phases};
    use super::*;
    use crate::update::event::*;
    use crate::update::state::fold;

    fn of(story: &Story) -> Progress {
        Progress::of(stories::UPDATE, &fold(&story.history), &story.history, story.now())
    }

    #[test]
    fn a_completed_update() {
        let progress = of(&Story::completed());
        assert_eq!(progress.verdict, "completed");
        assert_eq!((progress.seconds, progress.elections), (190.0, 1));
        assert_eq!(
            progress.to_string(),
            "\
update 00000000-0000-0000-0000-000000000abc
→ m6i.xlarge of prod: completed after 3m10s, 2 updated, 2 skipped of 4 nodes
by: ada
why: more memory
worker: w1
NODE    ROLE             TYPE                    NOW         PHASE    SECONDS
esdb-4  ReadOnlyReplica  m6i.large → m6i.xlarge  m6i.large   skipped  0.0
esdb-3  Follower         m6i.large → m6i.xlarge  m6i.large   skipped  0.0
esdb-2  Follower         m6i.large → m6i.xlarge  m6i.xlarge  updated  84.0
esdb-1  Leader           m6i.large → m6i.xlarge  m6i.xlarge  updated  84.0
"
        );
    }

    #[test]
    fn the_node_in_hand_shows_its_step_and_the_phase_it_is_in() {
        let mut story = Story::planned();
        story.select("esdb-2", Role::Follower).rejoin("esdb-2").pass(4);
        let progress = of(&story);
        assert_eq!(progress.in_hand, Some("esdb-2".into()));
        assert!(progress.not_running.is_empty(), "its process answers");
        let mut stopped = Story::planned();
        stopped.select("esdb-2", Role::Follower).stop("esdb-2");
        assert_eq!(of(&stopped).not_running, [NodeName::from("esdb-2")]);
        let node = &progress.nodes[0];
        assert_eq!(
            (node.name.as_str(), node.phase.as_str(), node.result),
            ("esdb-2", "catching up", NodeResult::Pending)
        );
        assert_eq!(node.seconds, PhaseSeconds { catch_up: 4.0, total: 79.0, ..phases(84.0) });
        assert_eq!(node.instance_type, "m6i.xlarge".into());
        let others: Vec<&str> = progress.nodes[1..].iter().map(|n| n.name.as_str()).collect();
        assert_eq!(others, ["esdb-4", "esdb-3", "esdb-1"]);
        assert_eq!(node.line(), "Follower         m6i.large → m6i.xlarge  catching up  1m19s");
    }

    #[test]
    fn a_silent_worker_is_told_with_what_it_left_down() {
        let mut story = Story::planned();
        story.select("esdb-2", Role::Follower).stop("esdb-2").pass(40);
        let mut progress = of(&story);
        assert_eq!((progress.silence(), progress.trouble()), (None, None), "it is about to be started");
        progress.worker_silent_seconds = Some(31.0);
        let shown = progress.to_string();
        let says = "NOT HEARD: worker w1, which holds it, has not been heard for 31s; NOT RUNNING by its last fact: esdb-2; see that a worker runs";
        assert!(shown.contains(says) && !shown.contains("worker: w1"), "{shown}");
        assert!(shown.contains("waiting: stopAwaited"), "{shown}");
        assert_eq!(progress.trouble(), progress.silence());
    }

    #[test]
    fn what_nobody_has_taken_has_not_begun_and_a_cancellation_shows() {
        let mut story = Story::requested();
        story.pass(12);
        assert_eq!(of(&story).headline(), "→ m6i.xlarge of prod: not begun");
        let mut story = Story::planned();
        story.pass(5).say(CancelRequested::default());
        let progress = of(&story);
        assert!(progress.cancelling);
        assert!(progress.headline().ends_with(", 0 of 4 nodes, to be cancelled"), "{}", progress.headline());
        assert!(!of(&Story::completed()).cancelling);
    }

    #[test]
    fn a_step_that_has_just_begun_counts_in_its_own_phase() {
        let mut story = Story::planned();
        story.select("esdb-2", Role::Follower).stop("esdb-2").pass(7);
        let node = of(&story).nodes[0].clone();
        assert_eq!(node.seconds, PhaseSeconds { prepare: 1.0, stop: 7.0, total: 8.0, ..PhaseSeconds::default() });
    }

    #[test]
    fn a_failed_node_shows_what_it_was_left_in_and_how_long_it_took() {
        let mut story = Story::planned();
        story.select("esdb-2", Role::Follower).pass(30).say(NodeFailed {
            node: "esdb-2".into(),
            attempt: 1,
            code: "nodeTimeout".into(),
            remedy: "look at the node".into(),
            left_in: "running as m6i.large".into(),
            observed: vec![],
        });
        story.pass(10).say(UpdateFailed {
            code: "nodeTimeout".into(),
            remedy: "look at the node".into(),
            seconds: 41.0,
            nodes: vec![],
            elections: 0,
            not_running: vec!["esdb-2".into()],
        });
        let progress = of(&story);
        assert_eq!((progress.verdict, progress.nodes[0].seconds.total), ("failed", 30.0));
        let shown = progress.to_string();
        for line in ["failed: running as m6i.large", "failed: nodeTimeout; look at the node", "NOT RUNNING: esdb-2"] {
            assert!(shown.contains(line), "{line} in {shown}");
        }
    }

    #[test]
    fn a_node_that_is_brought_back_is_in_hand_and_not_done() {
        let mut story = Story::planned();
        story.select("esdb-2", Role::Follower).change("esdb-2");
        story.pass(100).say(RollbackRequested::default());
        story.select("esdb-2", Role::Follower).stop("esdb-2").pass(7);
        let progress = of(&story);
        let node = &progress.nodes[0];
        assert_eq!((node.phase.as_str(), node.result, node.left_in.as_ref()), ("stopping", NodeResult::Pending, None));
        assert_eq!(node.seconds, PhaseSeconds { prepare: 1.0, stop: 7.0, total: 8.0, ..PhaseSeconds::default() });
        assert!(progress.headline().ends_with("0 of 4 nodes"), "{}", progress.headline());
        assert!(!progress.to_string().contains("NOT RUNNING"), "{progress}");
        story.say(UpdateParked { code: "x".into(), found: "y".into(), remedy: "z".into() });
        assert!(of(&story).to_string().contains("NOT RUNNING: esdb-2\n"), "{}", of(&story));
    }

    #[test]
    fn a_cancellation_ends_the_time_of_the_node_in_hand() {
        let mut story = Story::planned();
        story.select("esdb-2", Role::Follower).pass(7).say(CancelRequested::default());
        let (by, why) = (None, None);
        story
            .say(UpdateCancelled { by, why, seconds: 8.0, nodes: vec![], elections: 0, not_running: vec![] })
            .pass(500);
        assert_eq!(of(&story).nodes[0].seconds.total, 7.0);
    }

    #[test]
    fn live_waivers_are_shouted_and_expired_ones_are_not() {
        let mut story = Story::requested();
        let waived = |until: Option<&str>| CheckWaived {
            answers: crate::domain::ids::Revision(0),
            check: Some("stopProtection".into()),
            node: Some("esdb-2".into()),
            until: until.map(|t| t.parse().expect("a time")),
            by: Some("ada".into()),
            why: Some("lifted at noon".into()),
        };
        story.say(waived(None)).say(waived(Some("2025-12-31T00:00:00Z")));
        let shown = of(&story).to_string();
        assert_eq!(shown.matches("WAIVED: ").count(), 1, "{shown}");
        assert!(shown.contains("WAIVED: stopProtection of esdb-2 by ada: lifted at noon\n"), "{shown}");
    }

    #[test]
    fn a_rejected_request_says_why() {
        let mut story = Story::requested();
        let reason = Reason {
            code: "typeNotAllowed".into(),
            found: "m6i.xlarge".into(),
            wanted: "r6i.*".into(),
            remedy: "ask".into(),
        };
        story.say(UpdateRejected { reasons: vec![reason] });
        let progress = of(&story);
        assert_eq!(progress.verdict, "rejected");
        assert!(progress.to_string().contains("refused: typeNotAllowed: found m6i.xlarge, wanted r6i.*; ask"));
    }

    #[test]
    fn the_json_object_has_the_names_of_the_contract() {
        let mut story = Story::planned();
        story.select("esdb-2", Role::Follower);
        let json = serde_json::to_value(of(&story)).unwrap();
        for key in ["verdict", "update", "cluster", "nodes", "notRunning", "seconds"] {
            assert!(json.get(key).is_some(), "{key}");
        }
        let node = &json["nodes"][0];
        assert_eq!(
            (
                node["name"].as_str(),
                node["roleAtSelection"].as_str(),
                node["fromType"].as_str(),
                node["toType"].as_str()
            ),
            (Some("esdb-2"), Some("Follower"), Some("m6i.large"), Some("m6i.xlarge"))
        );
        assert!(node["seconds"]["catchUp"].is_number());
        assert_eq!(json["nodes"][1]["roleAtSelection"], serde_json::Value::Null);
    }
}
