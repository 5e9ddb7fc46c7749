//! Its instance runs: until it has caught up, and what came of it.

use std::time::Duration;

use super::super::action::Call;
use super::super::event::*;
use super::super::limits::{CATCH_UP_STALL, LASTING, SUPERVISED_STARTS};
use super::super::observed::InstanceSeen;
use super::super::safety;
use super::super::state::{CANCELLED, FOREIGN_CHANGE, FOREIGN_STOP, INSTANCE_NOT_THE_NODES, ROLLED_BACK, round_ms};
use super::between::is_off;
use super::{Hand, IntentStatus, Next, number};
use crate::domain::agreement::Agreement;
use crate::domain::catch_up::{DataKept, NotCaughtUp, judge_data, level};
use crate::domain::cluster::NodeState;
use crate::domain::ec2::attributed;
use crate::domain::ids::InstanceType;
use crate::domain::instance::InstanceState;
use crate::domain::watch::FirstSeen;

impl Hand<'_> {
    /// The fact about a stop that is none of ours, with everything that EC2 tells about who did it.
    pub(super) fn foreign_stop(&self, seen: &InstanceSeen) -> Event {
        ForeignChangeSeen {
            node: self.node(),
            attempt: self.hand.attempt,
            what: FOREIGN_STOP.into(),
            found: attributed(&seen.instance),
            expected: "running, as started".into(),
            observed: self.ec2_evidence(seen),
        }
        .into()
    }

    /// What somebody else did to the instance since its start.
    fn taken_away(&self, seen: &InstanceSeen) -> Option<Next> {
        match seen.instance.state {
            InstanceState::Stopped | InstanceState::Stopping if seen.times >= 2 => {
                Some(Next::Record(vec![self.foreign_stop(seen)]))
            }
            InstanceState::Terminated | InstanceState::ShuttingDown => Some(self.terminated(seen)),
            InstanceState::Stopped
            | InstanceState::Stopping
            | InstanceState::Pending
            | InstanceState::Running
            | InstanceState::Unrecognized => None,
        }
    }

    pub(super) fn started(&self) -> Next {
        let Some(seen) = self.seen() else { return self.no_description() };
        if let Some(next) = self.taken_away(seen) {
            return next;
        }
        let since = self.now.since(self.hand.step_seen);
        let fresh = self.own().filter(|own| Some(own.process) != self.hand.process_before);
        if let Some(own) = fresh {
            let first = self.first_seen().unwrap_or_else(|| FirstSeen::of(own, self.now));
            return Next::Record(vec![
                NodeRejoined {
                    node: self.node(),
                    attempt: self.hand.attempt,
                    instance_id_of_process: own.process,
                    state: first.state,
                    epoch: first.epoch,
                    writer: first.writer,
                    commit: first.commit,
                    observed: safety::evidence(&self.scene),
                }
                .into(),
            ]);
        }
        // Its own machine was never stopped; the one that was runs again, and nothing else is done to it.
        if self.is_elsewhere() && seen.instance.state == InstanceState::Running {
            return self.not_stopped(INSTANCE_NOT_THE_NODES, &format!("{} was stopped", self.hand.instance));
        }
        if since > self.observed.policy.first_answer_timeout {
            return self.silent(seen, since);
        }
        self.wait("nodeBooting", "instance runs, node silent", vec![number("seconds", since.as_secs_f64())])
    }

    /// Its instance runs and its process has been silent for too long: one reboot where the request allows it, else a person.
    fn silent(&self, seen: &InstanceSeen, since: Duration) -> Next {
        let policy = self.state.request.as_ref().and_then(|r| r.on_silent_node);
        if policy == Some(OnSilentNode::Reboot) && !self.hand.rebooted && seen.instance.state == InstanceState::Running
        {
            if let Some(next) = self.own_machine() {
                return next;
            }
            // Whoever reaches nobody, or has not looked for as long, knows nothing of this one: it may answer everybody else.
            let watched = self.observed.watch.silent_for(&self.hand.node, self.now);
            if !self.reaches_others() {
                return self.delayed("nodeSilent", "no reboot while no other node answers either", vec![]);
            }
            if !self.others_fine() {
                return self.parked(
                    "nodeSilent",
                    format!(
                        "the instance runs, the node has not answered for {} s, nor does another voter",
                        since.as_secs()
                    ),
                    "look at both nodes' own logs; it is rebooted once every other voter answers",
                );
            }
            if watched < self.observed.policy.first_answer_timeout {
                let numbers = vec![number("seconds", watched.as_secs_f64())];
                return self.wait("nodeBooting", "instance runs, node silent", numbers);
            }
            return Next::Record(vec![
                InstanceRebootRequested {
                    node: self.node(),
                    attempt: 1,
                    instance: self.hand.instance.clone(),
                    instance_type: seen.instance.instance_type.clone(),
                    observed: self.ec2_evidence(seen),
                }
                .into(),
            ]);
        }
        let rebooted = if self.hand.rebooted { ", also after a reboot" } else { "" };
        self.parked(
            "nodeSilent",
            format!("the instance runs, the node has not answered for {} s{rebooted}", since.as_secs()),
            "look at the node's own log; its supervisor must restart it on any exit (Restart=always)",
        )
    }

    /// Whether any other node answers; of a node that is alone that cannot be asked.
    fn reaches_others(&self) -> bool {
        let mut others = self.scene.plan.members.iter().map(|m| &m.node).filter(|n| **n != self.hand.node).peekable();
        others.peek().is_none() || others.any(|n| self.scene.answers(n))
    }

    /// A reboot is made once: whether it came to pass is told by the node.
    pub(super) fn rebooting(&self) -> Next {
        let Some(seen) = self.seen() else { return self.no_description() };
        let code = match self.intent() {
            IntentStatus::MayCall if seen.instance.state == InstanceState::Running => {
                return self.act(Call::RebootInstance { instance: self.hand.instance.clone() });
            }
            IntentStatus::MayCall => Some("instanceNotRunning".to_owned()),
            IntentStatus::Called => None,
            IntentStatus::Refused { code, .. } => Some(code.to_owned()),
            IntentStatus::Unresolved { settled: true } => Some("outcomeUnknown".to_owned()),
            IntentStatus::Unresolved { settled: false } => {
                return self.wait("rebootUnresolved", "it is unknown whether the reboot was called", vec![]);
            }
        };
        Next::Record(vec![
            InstanceRebooted {
                node: self.node(),
                attempt: self.hand.attempt,
                instance: self.hand.instance.clone(),
                instance_type: seen.instance.instance_type.clone(),
                ec2: self.ec2(seen),
                code,
                observed: self.ec2_evidence(seen),
            }
            .into(),
        ])
    }

    /// The first entry seen since the stop: the watch's and the recorded one, the worse of both.
    pub(super) fn first_seen(&self) -> Option<FirstSeen> {
        let after = self.hand.stop_seen.unwrap_or_default();
        let first = self.observed.watch.node(&self.hand.node);
        let first = first.and_then(|t| t.first_after(after, self.hand.process_before));
        let recorded = self.hand.rejoined.as_ref();
        match (first, recorded) {
            (Some(mut f), Some(r)) => {
                f.epoch_missing_seen |= r.epoch < 0 && r.state != NodeState::Initializing;
                f.commit = f.commit.min(r.commit);
                Some(f)
            }
            (first, None) => first,
            (None, Some(r)) => Some(FirstSeen {
                process: r.instance_id_of_process,
                at: self.hand.step_seen,
                state: r.state,
                epoch: r.epoch,
                writer: r.writer,
                commit: r.commit,
                epoch_missing_seen: r.epoch < 0 && r.state != NodeState::Initializing,
            }),
        }
    }

    pub(super) fn rejoined(&self) -> Next {
        let Some(seen) = self.seen() else { return self.no_description() };
        if let Some(next) = self.taken_away(seen) {
            return next;
        }
        let Some(track) = self.observed.watch.node(&self.hand.node) else {
            return self.wait("nodeSilent", "not watched", vec![]);
        };
        let samples = self.observed.watch.samples();
        let since = self.now.since(self.hand.step_seen);
        let level = level(track, samples, self.scene.max_delay, self.now);
        let starts = track.starts_after(self.hand.step_seen);
        if level.is_err() && starts > SUPERVISED_STARTS {
            return self.parked(
                "nodeKeepsEnding",
                format!("its process has ended and was started again {starts} times since it rejoined"),
                "look at the node's own log: why it ends; it is left running, and the update goes on once it has caught up",
            );
        }
        match level {
            Err(NotCaughtUp::Silent) => {
                let silent = track.silent_since.map_or(Duration::ZERO, |at| self.now.since(at));
                if silent > self.observed.policy.first_answer_timeout {
                    return self.silent(seen, silent);
                }
                return self.wait(
                    "nodeSilent",
                    "instance runs, node silent",
                    vec![number("seconds", silent.as_secs_f64())],
                );
            }
            Err(why) => {
                let behind = match &why {
                    NotCaughtUp::Behind(d) => d.replication.duration().as_secs_f64(),
                    NotCaughtUp::State(_)
                    | NotCaughtUp::Epoch { .. }
                    | NotCaughtUp::NoLeader
                    | NotCaughtUp::Confirming { .. }
                    | NotCaughtUp::Silent => 0.0,
                };
                let numbers = vec![
                    number("seconds", since.as_secs_f64()),
                    number("seconds behind", behind),
                    number("bytes behind", self.bytes_behind() as f64),
                ];
                let remedy = "look at the node's log, its volume, and its connection to the leader; it is left running";
                if self.stalled(&why) {
                    let found = format!("{why}; no progress for {} s", CATCH_UP_STALL.as_secs());
                    return self.parked("catchUpStalled", found, remedy);
                }
                // It comes further, and may never arrive: as fast as the others write, or not even that. One that has just rejoined is given time.
                if self.over_time() && since > CATCH_UP_STALL {
                    let found = format!("{why}; its time is up, {} s after it rejoined", since.as_secs());
                    return self.parked("catchUpTakesLong", found, remedy);
                }
                return self.wait("catchingUp", format!("{why}"), numbers);
            }
            Ok(()) => {}
        }
        let agreement = self.scene.agreement(None);
        let Agreement::Yes { epoch, .. } = agreement else {
            let doubts: Vec<String> = agreement.doubts().iter().map(ToString::to_string).collect();
            let numbers = vec![number("seconds", since.as_secs_f64())];
            // Views settle within seconds of any change; what lasts longer is for a person to see.
            let lasting = since > LASTING;
            if lasting && let Some(found) = self.other_off() {
                return self.parked(
                    "otherInstanceOff",
                    found,
                    "find out who stopped it, and start it; the update goes on once every member answers",
                );
            }
            return if lasting {
                self.delayed("agreementAwaited", doubts.join(", "), numbers)
            } else {
                self.wait("agreementAwaited", doubts.join(", "), numbers)
            };
        };
        if track.live.map(|(_, live)| live) != Some(true) {
            let numbers = vec![number("seconds", since.as_secs_f64())];
            let detail = "caught up, but /health/live does not say 204 yet";
            return if since > LASTING {
                self.delayed("healthAwaited", detail, numbers)
            } else {
                self.wait("healthAwaited", detail, numbers)
            };
        }
        let Some(own) = self.own() else { return self.wait("nodeSilent", "the node does not answer", vec![]) };
        let first = self.first_seen();
        let data_kept = judge_data(self.hand.baseline.as_ref(), first.as_ref(), track.sent.as_ref(), samples.writer());
        let taken: Vec<CatchUpSample> = track
            .refreshes
            .iter()
            .rev()
            .filter_map(|r| r.delay.map(|d| (r, d)))
            .take(3)
            .map(|(r, d)| CatchUpSample {
                age_seconds: round_ms(self.now.since(r.at).as_secs_f64()),
                delay_seconds: round_ms(d.replication.duration().as_secs_f64()),
                index_delay_seconds: round_ms(d.index.duration().as_secs_f64()),
                writer: r.own.writer,
            })
            .collect();
        let newest = taken.first();
        Next::Record(vec![
            CaughtUp {
                node: self.node(),
                attempt: self.hand.attempt,
                instance_id_of_process: own.process,
                state: own.state,
                epoch,
                delay_seconds: newest.map_or(0.0, |s| s.delay_seconds),
                index_delay_seconds: newest.map_or(0.0, |s| s.index_delay_seconds),
                samples: taken.clone(),
                data_kept,
                observed: safety::evidence(&self.scene),
            }
            .into(),
        ])
    }

    /// An instance of another member that does not run, by nobody of ours: without that member there is no agreement.
    fn other_off(&self) -> Option<String> {
        self.scene.plan.members.iter().filter(|m| m.node != self.hand.node).find_map(|m| {
            let seen = self.observed.instances.get(&m.instance).filter(|seen| seen.times >= 2)?;
            is_off(seen.instance.state)
                .then(|| format!("{} of {} is {}", m.instance, m.node, attributed(&seen.instance)))
        })
    }

    pub(super) fn bytes_behind(&self) -> i64 {
        let leader = self.observed.watch.samples().writer();
        leader.zip(self.own()).map_or(0, |(leader, own)| (leader - own.writer).max(0))
    }

    /// The node has not come further for [`CATCH_UP_STALL`] in what it lacks: its log, or where that is level, its index.
    fn stalled(&self, why: &NotCaughtUp) -> bool {
        if self.now.since(self.hand.step_seen) < CATCH_UP_STALL {
            return false;
        }
        let Some(track) = self.observed.watch.node(&self.hand.node) else { return false };
        let lacks_index = match why {
            NotCaughtUp::Behind(d) => d.replication.within(self.scene.max_delay),
            NotCaughtUp::State(_)
            | NotCaughtUp::Epoch { .. }
            | NotCaughtUp::NoLeader
            | NotCaughtUp::Confirming { .. }
            | NotCaughtUp::Silent => false,
        };
        let moved_at = if lacks_index { track.indexed_at } else { track.moved_at };
        moved_at.is_none_or(|at| self.now.since(at) > CATCH_UP_STALL)
    }

    pub(super) fn caught_up(&self) -> Next {
        let mut facts: Vec<Event> = Vec::new();
        if let Some(lowered) = self.hand.lowered {
            // The process that was told is gone; the new one started with its configured priority.
            let restarted = self.hand.caught_up.as_ref().map(|c| c.instance_id_of_process) != self.hand.process_before;
            if !restarted {
                return self.wait("priorityAwaited", "the process was not restarted", vec![]);
            }
            let (priority, what) = match self.own() {
                Some(own) => (own.priority, format!("priority {}, {} before", own.priority, lowered.original)),
                None => (lowered.original, "the process that was told is gone".to_owned()),
            };
            facts.push(
                PriorityRestored {
                    node: self.node(),
                    attempt: self.hand.attempt,
                    priority,
                    by: RestoredBy::Restart,
                    observed: vec![Evidence { what, by: self.hand.node.to_string(), age_seconds: 0.0 }],
                }
                .into(),
            );
        }
        if self.hand.fence.is_some() {
            return self.unfence(facts).unwrap_or_else(|| self.fence_unseen());
        }
        let seconds = self.hand.phases(self.observed.wall);
        let started = self.runs_as();
        let kept = self.hand.caught_up.as_ref().map(|c| c.data_kept.clone());
        if let Some(lost) = kept.filter(|k| k.kept == DataKept::No) {
            facts.push(
                NodeFailed {
                    node: self.node(),
                    attempt: 1,
                    code: "dataLost".into(),
                    remedy: "find out why the data volume was not there; the node was filled again from the leader"
                        .into(),
                    left_in: format!("running as {started}, refilled: {}", lost.how),
                    observed: vec![],
                }
                .into(),
            );
            return Next::Record(facts);
        }
        facts.push(self.outcome(started, seconds));
        Next::Record(facts)
    }

    /// The type it runs as, now that its new process has caught up. When the start was recorded EC2 may still have said what was true before
    /// the stop; what it says by now is later than the last change of the type.
    fn runs_as(&self) -> InstanceType {
        let running = self.seen().filter(|seen| seen.instance.state == InstanceState::Running && seen.times >= 2);
        running
            .map(|seen| &seen.instance.instance_type)
            .or(self.hand.started_type.as_ref())
            .unwrap_or(&self.hand.old_type)
            .clone()
    }

    /// What came of a node that has caught up with its data.
    fn outcome(&self, started: InstanceType, seconds: PhaseSeconds) -> Event {
        let fallback =
            self.state.request.as_ref().is_some_and(|r| r.fallback_types.iter().flatten().any(|t| t == &started));
        let wanted = started == self.hand.wanted_type;
        let rolled_back = |code: &str, remedy: String| -> Event {
            NodeRolledBack {
                node: self.node(),
                attempt: 1,
                instance_type: started.clone(),
                seconds: seconds.clone(),
                code: code.to_owned(),
                remedy,
                observed: vec![],
            }
            .into()
        };
        if self.hand.foreign_type.as_ref() == Some(&started) {
            return rolled_back(
                FOREIGN_CHANGE,
                format!("somebody else made it {started}; find out who, then resume to change it, or cancel"),
            );
        }
        if self.hand.rolling_back && wanted {
            return rolled_back(ROLLED_BACK, "nothing: it is as it was before this update".into());
        }
        // Nobody wants it brought back any more: it goes on as it is.
        if self.hand.rolling_back && self.state.cancelled.is_some() && self.hand.failed_starts.is_empty() {
            return NodeUpdated { node: self.node(), attempt: 1, instance_type: started, seconds, observed: vec![] }
                .into();
        }
        if self.hand.rolling_back {
            let why = self.hand.failed_starts.last().map_or("it was not started with it", |f| f.code.as_str());
            return NodeFailed {
                node: self.node(),
                attempt: 1,
                code: "rollBackFailed".into(),
                remedy: format!("{} did not go back to {}: {why}", self.hand.instance, self.hand.wanted_type),
                left_in: format!("running as {started}"),
                observed: vec![],
            }
            .into();
        }
        if wanted || (fallback && started != self.hand.old_type) {
            NodeUpdated { node: self.node(), attempt: 1, instance_type: started, seconds, observed: vec![] }.into()
        } else {
            let (code, remedy): (String, String) = match self.hand.failed_starts.last() {
                Some(f) => (
                    f.code.clone(),
                    format!("{} would not start as {}; see InstanceStartFailed", self.hand.instance, f.instance_type),
                ),
                None if self.state.rollback.is_some() => {
                    (ROLLED_BACK.into(), "start a new update when it is wanted".into())
                }
                None if self.state.cancelled.is_some() => {
                    (CANCELLED.into(), "start a new update when it is wanted".into())
                }
                None if self.hand.started_by_ticket => (
                    "storeLost".into(),
                    "it was started as it was, by a person, or since nothing could be written to the store while it was down; mend the store first, or \
                     keep it elsewhere"
                        .into(),
                ),
                None => (
                    "voterLost".into(),
                    "another voter fell silent meanwhile, so the node was started as it was; mend the cluster first"
                        .into(),
                ),
            };
            rolled_back(&code, remedy)
        }
    }
}
