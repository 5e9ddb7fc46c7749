//! A second, independent look at an action just before it is performed: written from the rules that must hold, not from the planner.
//! It shares nothing with [`super::safety`] but the data it looks at.

use std::fmt;

use super::action::{Action, Call, Warrant};
use super::event::{OnSilentNode, PlannedMember, UpdatePlanned};
use super::limits::{
    ACT_WINDOW, SILENT_FOR, TAKE_OVER_QUIET, TICKET_AFTER, TICKET_AFTER_APPENDS_FAIL, TICKET_AFTER_REPLACEMENT,
};
use super::observed::Observed;
use super::state::{State, Step};
use crate::domain::cluster::NodeState;
use crate::domain::ids::{NodeName, ProcessId};
use crate::domain::instance::{InstanceState, is_fence_of};
use crate::domain::time::Moment;

/// What was said longer ago than this of an instance's tag proves nothing.
const FENCE_LOOK: std::time::Duration = std::time::Duration::from_secs(5);

/// A rule that the action would break.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule, such as `S2`.
    pub rule: &'static str,
    /// What was found.
    pub found: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.found)
    }
}

/// Judges an action. `Err` with every rule that it would break.
pub fn audit(action: &Action, state: &State, observed: &Observed<'_>, now: Moment) -> Result<(), Vec<Violation>> {
    let mut found = Vec::new();
    let mut check = |rule: &'static str, holds: bool, what: &dyn Fn() -> String| {
        if !holds {
            found.push(Violation { rule, found: what() });
        }
    };

    // S4: by the worker that holds the update, with its recorded intent, within the window; or with the return ticket.
    let holds_it = state.holder.as_ref().is_some_and(|h| h.incarnation == observed.me);
    check("S4", holds_it, &|| "this worker does not hold the update".into());
    check("S4", state.end.is_none(), &|| "the update has ended".into());
    let hand = state.in_hand.as_ref().filter(|h| h.node == action.node);
    check("S5", hand.is_some(), &|| format!("{} is not the node in hand", action.node));
    let Some(hand) = hand else { return Err(found) };
    match action.warrant {
        Warrant::Intent(revision) => {
            check("S4", hand.intent.as_ref().is_some_and(|i| i.revision == revision), &|| {
                format!("revision {revision} is not the open intent")
            });
            check("S4", state.last_revision().is_some_and(|last| last >= revision), &|| {
                "the intent is not folded".into()
            });
            let mine = observed.intent.filter(|i| i.revision == revision);
            check("S4", mine.is_some(), &|| "this worker did not append the intent".into());
            if let Some(mine) = mine {
                check("S4", mine.called.is_none(), &|| "its call was made already".into());
                check("S4", mine.acknowledged.is_some(), &|| "the store has not acknowledged the intent".into());
                // A call of the worker before may still be under way; only the return of the node in hand does not wait for it.
                let returns = matches!(action.call, Call::ModifyType { .. } | Call::StartInstance { .. });
                let quiet = observed.took_over_at.is_some_and(|at| now.since(at) < TAKE_OVER_QUIET);
                check("S4", returns || !quiet, &|| "the update was taken over a moment ago".into());
                check("S4", now.since(mine.first_sent) <= ACT_WINDOW, &|| {
                    format!("its window passed {:.1} s ago", now.since(mine.first_sent.after(ACT_WINDOW)).as_secs_f64())
                });
            }
        }
        Warrant::ReturnTicket(revision) => {
            check("S4", hand.ticket == Some(revision), &|| format!("revision {revision} is not the last stop intent"));
            // The ticket of one's own stop, or the one that somebody else left behind.
            let assigned = state.holder.as_ref().filter(|_| observed.took_over_at.is_some()).map(|h| h.revision);
            let inherited = assigned.is_some_and(|assigned| revision <= assigned);
            let needed = if inherited { TICKET_AFTER_REPLACEMENT } else { TICKET_AFTER };
            let no_append =
                observed.appends_fail_since.is_some_and(|since| now.since(since) >= TICKET_AFTER_APPENDS_FAIL);
            let away = observed.store.away_since.is_some_and(|since| now.since(since) >= needed);
            check("S4", away || no_append, &|| "the store has not been away for long enough".into());
            let leaderless = observed.store.leader_reported == Some(false);
            check("S4", leaderless || no_append, &|| "a node of the store may have a leader".into());
            check("S4", !observed.ticket_spent, &|| "the node has been back since its stop".into());
            let seen = observed.instances.get(&hand.instance);
            check("S6", seen.is_some_and(|s| now.since(s.at) <= FENCE_LOOK), &|| {
                format!("{} has not been described for a while", hand.instance)
            });
            let anothers =
                state.member(&hand.node).and_then(|m| anothers_tag(observed, m)).filter(|_| observed.policy.fence);
            check("S9", anothers.is_none(), &|| format!("{} carries another's tag", hand.instance));
            check("S4", matches!(action.call, Call::ModifyType { .. } | Call::StartInstance { .. }), &|| {
                "a return ticket brings a node back and nothing else".into()
            });
            let majority = away && leaderless && observed.store.folded_from_majority && !inherited;
            // Back to the type that it had, where it does not start as it is.
            let back = |to| observed.ticket_in_vain && !inherited && hand.return_types.last() == Some(to);
            let may_modify = |to| majority || back(to);
            let may = if let Call::ModifyType { to, .. } = &action.call { may_modify(to) } else { true };
            check("S4", may, &|| "the history was not read from a majority of the store's voters".into());
        }
    }

    // S5: nothing outside the plan; one instance a node, one node an instance.
    let Some(plan) = &state.plan else {
        found.push(Violation { rule: "S5", found: "there is no plan".into() });
        return Err(found);
    };
    let planned: Vec<_> = plan.members.iter().filter(|m| m.node == action.node).collect();
    let mut check = |rule: &'static str, holds: bool, what: &dyn Fn() -> String| {
        if !holds {
            found.push(Violation { rule, found: what() });
        }
    };
    check("S5", planned.len() == 1, &|| format!("{} is planned {} times", action.node, planned.len()));
    let address_planned = |a: &crate::domain::ids::Address| planned.iter().any(|m| &m.address == a);
    match &action.call {
        Call::SetPriority { address, priority } => {
            check("S5", address_planned(address), &|| format!("{address} is not {}'s address", action.node));
            let known = hand.lowered.is_some_and(|l| l.to == *priority || l.original == *priority);
            check("S7", known, &|| format!("priority {priority} is neither the lowered nor the original one"));
        }
        Call::Resign { address } => {
            check("S5", address_planned(address), &|| format!("{address} is not {}'s address", action.node));
            let others = voters_other_than(state, observed, &action.node);
            check("S2", all_views_name(observed, state, None, now) == process_of(observed, &action.node), &|| {
                "not every view names it leader in two consecutive refreshes".into()
            });
            check("S3", others.iter().all(|n| in_service(observed, n, now)), &|| {
                "another voter is not in service".into()
            });
            check("S3", !strangers(observed, plan, now), &|| "a living member is not planned".into());
        }
        Call::StopInstance { instance } => {
            let same = plan.members.iter().filter(|m| &m.instance == instance).count();
            check("S5", same == 1 && planned.first().is_some_and(|m| &m.instance == instance), &|| {
                format!("{instance} belongs to {same} planned nodes")
            });
            check("S9", observed.own_instance != Some(instance), &|| format!("this worker runs on {instance}"));
            check("S4", hand.step == Step::Stopping && !hand.return_types.is_empty(), &|| {
                "there is no return ticket".into()
            });
            check("S4", state.broken.is_none(), &|| "the history cannot be trusted".into());
            check("S6", hand.return_types.last() == Some(&hand.old_type), &|| {
                "the old type is not the last to return with".into()
            });
            let seen = observed.instances.get(instance).filter(|s| now.since(s.at) <= FENCE_LOOK);
            let fenced = seen.and_then(|s| s.instance.fence()).is_some_and(|tag| is_fence_of(tag, observed.update));
            check("S9", fenced || !observed.policy.fence, &|| format!("{instance} does not carry this update's tag"));
            let silent = observed.watch.node(&action.node).and_then(|t| t.silent_since);
            let answers = silent.is_none_or(|since| now.since(since) < SILENT_FOR);
            let downtime = state.request.as_ref().and_then(|r| r.accept_downtime) == Some(true);
            let sole = plan.voters.0 == 1 && downtime;
            let me = process_of(observed, &action.node);
            let leader = all_views_name(observed, state, (!answers).then_some(&action.node), now);
            check("S2", leader.is_some() || sole, &|| {
                "not every view names the same leader in two consecutive refreshes".into()
            });
            check("S2", leader.is_none() || leader != me || sole, &|| "it leads".into());
            let called = observed.watch.nodes().filter_map(|(_, t)| t.last_view.as_ref()).any(|(_, v)| {
                v.members.iter().any(|m| {
                    Some(m.process) == me
                        && m.is_alive
                        && matches!(m.state, NodeState::Leader | NodeState::PreLeader | NodeState::ResigningLeader)
                })
            });
            check("S2", !called || sole || !answers, &|| "a view calls it leader".into());
            check("S3", !strangers(observed, plan, now), &|| "a living member is not planned".into());
            if votes(state, observed, &action.node) {
                let others = voters_other_than(state, observed, &action.node);
                check("S3", others.len() + 1 == plan.voters.0 as usize, &|| {
                    format!("{} other voters are expected, {} are known", plan.voters.0 - 1, others.len())
                });
                let up = others.iter().filter(|n| in_service(observed, n, now)).count();
                check("S3", up == others.len(), &|| format!("{up} of {} other voters are in service", others.len()));
                let majority = plan.voters.0 / 2 + 1;
                check("S3", up >= majority as usize || downtime, &|| {
                    format!("{up} voters would remain, {majority} are a majority")
                });
            }
        }
        Call::ModifyType { instance, to } => {
            check("S5", planned.first().is_some_and(|m| &m.instance == instance), &|| {
                format!("{instance} is not {}'s", action.node)
            });
            check("S6", hand.return_types.contains(to), &|| format!("the return ticket does not name {to}"));
            check("S6", ec2_state(observed, instance) == Some(InstanceState::Stopped), &|| {
                format!("{instance} is not stopped")
            });
        }
        Call::RebootInstance { instance } => {
            check("S5", planned.first().is_some_and(|m| &m.instance == instance), &|| {
                format!("{instance} is not {}'s", action.node)
            });
            check("S9", observed.own_instance != Some(instance), &|| format!("this worker runs on {instance}"));
            let asked = state.request.as_ref().and_then(|r| r.on_silent_node) == Some(OnSilentNode::Reboot);
            check("S6", asked && hand.step == Step::Rebooting, &|| "nobody allowed a reboot".into());
            check("S6", ec2_state(observed, instance) == Some(InstanceState::Running), &|| {
                format!("{instance} does not run")
            });
            let answers = observed.watch.node(&action.node).and_then(|t| t.own(now)).is_some();
            check("S6", !answers, &|| "the node answers".into());
            let silent = observed.watch.silent_for(&action.node, now);
            check("S6", silent >= observed.policy.first_answer_timeout, &|| {
                format!("it has been silent for {} s while others answered", silent.as_secs())
            });
            let mut others = plan.members.iter().filter(|m| m.node != action.node).peekable();
            let reached = others.peek().is_none()
                || others.any(|m| observed.watch.node(&m.node).and_then(|t| t.own(now)).is_some());
            check("S6", reached, &|| "no other node answers either".into());
        }
        Call::Tag { instance, value } => {
            check("S5", planned.first().is_some_and(|m| &m.instance == instance), &|| {
                format!("{instance} is not {}'s", action.node)
            });
            check("S4", hand.step == Step::Tagging && action.warrant.names(value, observed), &|| {
                format!("the intent asks for another tag than {value}")
            });
            check("S9", observed.policy.fence, &|| "nobody asked for a fence".into());
            // The instance in hand carries none, or this update's, or the one that a person took for left behind, as just now said.
            let carried = observed.instances.get(instance).filter(|s| now.since(s.at) <= FENCE_LOOK);
            check("S9", carried.is_some(), &|| format!("{instance} has not been described for a while"));
            let anothers = plan.members.iter().find_map(|m| Some((&m.node, anothers_tag(observed, m)?)));
            check("S9", anothers.is_none(), &|| format!("another's tag is carried by {anothers:?}"));
        }
        Call::Untag { instance, value } => {
            check("S5", planned.first().is_some_and(|m| &m.instance == instance), &|| {
                format!("{instance} is not {}'s", action.node)
            });
            let asked = hand.fence.as_ref().and_then(|f| f.remove.as_ref());
            check("S4", hand.step == Step::Untagging && asked == Some(value), &|| {
                format!("the intent does not ask to remove {value}")
            });
            check("S9", is_fence_of(value, observed.update), &|| format!("{value} is another's tag"));
            check("S6", !hand.step.out_of_service(), &|| "it is out of service by our doing".into());
        }
        Call::StartInstance { instance } => {
            check("S5", planned.first().is_some_and(|m| &m.instance == instance), &|| {
                format!("{instance} is not {}'s", action.node)
            });
            check("S6", ec2_state(observed, instance) == Some(InstanceState::Stopped), &|| {
                format!("{instance} is not stopped")
            });
        }
    }
    if found.is_empty() { Ok(()) } else { Err(found) }
}

/// The tag on a member's instance that is neither this update's nor one that a person took for left behind.
fn anothers_tag<'a>(observed: &Observed<'a>, member: &PlannedMember) -> Option<&'a str> {
    let tag = observed.instances.get(&member.instance)?.instance.fence()?;
    (!is_fence_of(tag, observed.update) && member.stale_fence.as_deref() != Some(tag)).then_some(tag)
}

impl Warrant {
    /// Whether a tag's value names the update and the intent of this warrant.
    fn names(self, value: &str, observed: &Observed<'_>) -> bool {
        match self {
            Warrant::Intent(revision) => value == format!("{}@{revision}", observed.update),
            Warrant::ReturnTicket(_) => false,
        }
    }
}

fn ec2_state(observed: &Observed<'_>, instance: &crate::domain::ids::InstanceId) -> Option<InstanceState> {
    observed.instances.get(instance).map(|s| s.instance.state)
}

fn process_of(observed: &Observed<'_>, node: &NodeName) -> Option<ProcessId> {
    observed.watch.node(node)?.last_own().map(|own| own.process)
}

fn votes(state: &State, observed: &Observed<'_>, node: &NodeName) -> bool {
    match observed.watch.node(node).and_then(|t| t.last_own()) {
        Some(own) => !own.is_read_only_replica,
        None => state.member(node).is_some_and(|m| m.role != super::event::Role::ReadOnlyReplica),
    }
}

fn voters_other_than(state: &State, observed: &Observed<'_>, node: &NodeName) -> Vec<NodeName> {
    let members = state.plan.iter().flat_map(|p| &p.members);
    members.map(|m| m.node.clone()).filter(|n| n != node && votes(state, observed, n)).collect()
}

/// Whether any view shows a living member that the plan does not have. A seed that was not reached yet is none.
fn strangers(observed: &Observed<'_>, plan: &UpdatePlanned, now: Moment) -> bool {
    let shown = observed.watch.nodes().filter_map(|(_, t)| t.fresh_view(now)).flat_map(|view| &view.members);
    shown
        .filter(|m| m.is_alive && m.state != NodeState::Manager)
        .any(|m| plan.members.iter().all(|p| p.address != m.address))
}

/// In service by its own, fresh word: leads or follows, with the newest measured delay within the limit.
fn in_service(observed: &Observed<'_>, node: &NodeName, now: Moment) -> bool {
    let Some(track) = observed.watch.node(node) else { return false };
    let Some(own) = track.own(now) else { return false };
    match own.state {
        NodeState::Leader => true,
        NodeState::Follower => track.refreshes.back().and_then(|r| r.delay).is_some_and(|d| {
            let max = observed.policy.max_replication_delay;
            d.replication.within(max) && d.index.within(max)
        }),
        NodeState::Initializing
        | NodeState::DiscoverLeader
        | NodeState::Unknown
        | NodeState::PreReplica
        | NodeState::CatchingUp
        | NodeState::Clone
        | NodeState::PreLeader
        | NodeState::Manager
        | NodeState::ShuttingDown
        | NodeState::Shutdown
        | NodeState::ReadOnlyLeaderless
        | NodeState::PreReadOnlyReplica
        | NodeState::ReadOnlyReplica
        | NodeState::ResigningLeader
        | NodeState::Unrecognized => false,
    }
}

/// The one process that every expected member's view named as leader, and nothing else, during its last two refreshes, and that
/// itself says that it leads.
fn all_views_name(
    observed: &Observed<'_>,
    state: &State,
    without: Option<&NodeName>,
    now: Moment,
) -> Option<ProcessId> {
    let mut leader: Option<ProcessId> = None;
    for member in &state.plan.as_ref()?.members {
        if Some(&member.node) == without {
            continue;
        }
        let track = observed.watch.node(&member.node)?;
        track.own(now)?;
        let mut last_two = track.refreshes.iter().rev();
        for refresh in [last_two.next()?, last_two.next()?] {
            for look in &refresh.looks {
                let [one] = look.as_slice() else { return None };
                if *leader.get_or_insert(*one) != *one {
                    return None;
                }
            }
        }
    }
    let leader = leader?;
    let says_so = observed.watch.nodes().any(|(_, t)| {
        t.own(now).is_some_and(|own| own.process == leader && own.state == NodeState::Leader && own.is_alive)
    });
    says_so.then_some(leader)
}

/// What a replacement knows of a stranded node: the store gives it nothing else to stand on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stranded {
    /// For how long nothing could be written to the store, as far as this process knows.
    pub away_for: std::time::Duration,
    /// How often in a row EC2 said `stopped`.
    pub stopped_times: u32,
    /// For how long it has said so.
    pub stopped_for: std::time::Duration,
    /// Whether the store has a leader, asked just now, which takes nothing that this worker sends.
    pub leads: bool,
    /// Whether the instance carries the tag of another update.
    pub anothers: bool,
}

/// Judges a start by a worker that does not hold the update, while nothing can be written to the store: as it is, of the one instance that
/// the last stop intent names, after a minute, and after EC2 said `stopped` twice. Where the store leads, who holds the update may be at it,
/// and is left a minute in which the node is down.
pub fn audit_rescue(action: &Action, state: &State, scene: &Stranded) -> Result<(), Vec<Violation>> {
    let mut found = Vec::new();
    let mut check = |rule: &'static str, holds: bool, what: String| {
        if !holds {
            found.push(Violation { rule, found: what });
        }
    };
    let hand = state.in_hand.as_ref().filter(|h| h.node == action.node);
    check("S4", state.end.is_none(), "the update has ended".into());
    check("S4", state.broken.is_none(), "its history cannot be trusted".into());
    let ticket = hand.and_then(|h| h.ticket);
    check("S4", ticket.is_some_and(|t| action.warrant == Warrant::ReturnTicket(t)), "no return ticket".into());
    check("S4", hand.is_some_and(|h| h.step.out_of_service()), "the node is not out of service by our doing".into());
    let named =
        matches!(&action.call, Call::StartInstance { instance } if hand.is_some_and(|h| &h.instance == instance));
    check("S5", named, "nothing but the start of the instance in hand".into());
    let waited = scene.away_for >= TICKET_AFTER_REPLACEMENT;
    check("S4", waited, format!("the store has been away for {} s", scene.away_for.as_secs()));
    let left_alone = scene.stopped_for >= TICKET_AFTER_APPENDS_FAIL;
    check(
        "S4",
        !scene.leads || left_alone,
        "the store may have a leader, and the node somebody who brings it back".into(),
    );
    check("S9", !scene.anothers, "the instance carries another's tag".into());
    check("S6", scene.stopped_times >= 2, format!("EC2 said stopped {} times", scene.stopped_times));
    if found.is_empty() { Ok(()) } else { Err(found) }
}
