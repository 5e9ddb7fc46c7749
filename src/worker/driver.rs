//! Drives one update: wake → read on and fold → observe → react → audit → act → append.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::discovery::{Trouble, release, rest_after_all};
use super::heartbeat::{beat_of, heartbeat_of};
use super::observer::{Cadence, Observer, Sight};
use super::own_machine::is_own_machine;
use super::perform::perform;
use super::queue::Waits;
use super::remains::Remains;
use super::store::{Page, read_page};
use super::untaken::Untaken;
use super::{ClusterHandle, Rung, Shared, Stop, Worker, asked, survey};
use crate::codec::{decode, encode_facts};
use crate::domain::ids::{Address, ClusterName, InstanceId, InstanceType, NodeName, Revision, UpdateId};
use crate::domain::instance::{Instance, InstanceState};
use crate::domain::time::Moment;
use crate::domain::watch::ClusterWatch;
use crate::lease::Silence;
use crate::ports::{AppendError, Expected, ReadError, StoredEvent};
use crate::update::action::{Action, Again, Call, CallOutcome, Warrant};
use crate::update::audit::audit;
use crate::update::event::{AssignedBecause, Event, Kind, NodeOutcome, StepDelayed, WorkerAssigned};
use crate::update::limits::{TICKET_AFTER, TICKET_STARTS_MAX};
use crate::update::observed::{InstanceSeen, IntentInHand, Observed, StoreSeen, Survey};
use crate::update::react::{Next, Verdict, Waiting, react};
use crate::update::state::{Body, Holder, Recorded, State, Step, fold};

/// The stream is read on at least this often: commands and take-overs are found by it, whatever the subscription does.
const READ_EVERY: Duration = Duration::from_secs(1);

/// The same delay is not recorded again within this, unless something was done meanwhile: two that take turns would fill the stream.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// Rest before it is looked again whether a hand is free: whoever lets go of an update rings.
const HANDS_EVERY: Duration = Duration::from_secs(5);

/// An update whose time has not come is read on this often at least, and its calendar looked at: a command rings.
const UNTIMELY_EVERY: Duration = Duration::from_secs(60);

/// An update that was set aside is looked at again this often: what is too long may be cut, and a right given.
const ASIDE_EVERY: Duration = Duration::from_secs(60);

/// Rest between two surveys.
const SURVEY_EVERY: Duration = Duration::from_secs(2);

/// A history that is not what an append met is read from its beginning again no more often than this.
const FOLD_ANEW_EVERY: Duration = Duration::from_secs(30);

/// Rest before an audit that failed is repeated with what has been seen since.
const AFTER_VIOLATION: Duration = Duration::from_millis(250);

pub(super) struct Driver {
    worker: Worker,
    update: UpdateId,
    cluster: ClusterName,
    handle: ClusterHandle,
    stop: watch::Receiver<Stop>,
    shared: Shared,
    wake: mpsc::Receiver<Rung>,
    /// When this worker first saw that nobody holds the update.
    unheld_since: Option<Moment>,
    /// How many events have been folded.
    events: usize,
    state: State,
    /// When the stream was last read to its end.
    read_at: Option<Moment>,
    silence: Silence,
    /// When the holder's heartbeat was last asked for.
    holder_read_at: Option<Moment>,
    /// When this worker last began to send a `WorkerAssigned`.
    take_over_sent: Option<Moment>,
    /// The `WorkerAssigned` by which this worker took the update from another, by its revision, and when it was sent.
    took_over: Option<(Revision, Moment)>,
    intent: Option<IntentInHand>,
    /// Facts whose append was not acknowledged, by id, and when each was first sent: the same fact sent again is that fact.
    unacknowledged: BTreeMap<uuid::Uuid, Moment>,
    /// What has become of the return ticket.
    ticket: Ticket,
    /// Appends that came to nothing, or too late for a call, although somebody of the store answers.
    untaken: Untaken,
    /// The last revision that was folded when an append met another.
    conflicted_at: Option<Option<Revision>>,
    /// Nothing is appended before then: what the last append met cannot be read yet.
    append_from: Moment,
    /// When the history was last folded anew.
    folded_anew: Option<Moment>,
    /// The most events that it was seen to have.
    grown_to: usize,
    store: StoreSeen,
    survey: Option<(Moment, Survey)>,
    eyes: Option<Observer>,
    watch: ClusterWatch,
    instances: BTreeMap<InstanceId, InstanceSeen>,
    fleet_trouble: Option<String>,
    /// The instance that this worker runs on, if it is one of the cluster's.
    own_instance: Option<InstanceId>,
    /// The node for whose sake this worker last offered the update to others, and what had become of that node by then.
    offered: Option<(NodeName, Option<NodeOutcome>)>,
    said: Option<&'static str>,
    /// When each delay was recorded last: two that take turns are not recorded at every turn.
    told: BTreeMap<(&'static str, Option<NodeName>), Moment>,
    /// Nothing can be done for the update, since the store refuses a stream that this takes.
    set_aside: bool,
    remains: Option<Remains>,
}

/// What the loop does after one look.
enum After {
    /// Look again at once: something has changed.
    Again,
    /// Look again when something is seen, or after this long.
    Rest(Duration),
    /// Nothing more to do here.
    Leave,
}

/// What has become of a return ticket, as far as this worker has to do with it.
#[derive(Debug, Default)]
struct Ticket {
    /// Its stop intent.
    intent: Option<Revision>,
    /// When it was last used.
    called: Option<Moment>,
    /// The type that the instance was given with it.
    gave: Option<InstanceType>,
    /// Starts that were called with it, and whether one was refused as no repetition cures.
    starts: u32,
    refused: bool,
    /// Whether EC2 has said that its node is stopped, and whether that was seen to run again since.
    seen_down: bool,
    spent: bool,
}

impl Ticket {
    /// That of this intent: a new one, where it was of another.
    fn of(&mut self, intent: Revision) -> &mut Self {
        if self.intent != Some(intent) {
            *self = Self { intent: Some(intent), ..Self::default() };
        }
        self
    }
}

impl Driver {
    pub fn new(
        worker: Worker,
        update: UpdateId,
        cluster: ClusterName,
        handle: ClusterHandle,
        stop: watch::Receiver<Stop>,
        shared: Shared,
        wake: mpsc::Receiver<Rung>,
    ) -> Self {
        Self {
            worker,
            update,
            cluster,
            handle,
            stop,
            shared,
            wake,
            unheld_since: None,
            events: 0,
            state: State::default(),
            read_at: None,
            silence: Silence::default(),
            holder_read_at: None,
            take_over_sent: None,
            took_over: None,
            intent: None,
            unacknowledged: BTreeMap::new(),
            ticket: Ticket::default(),
            untaken: Untaken::default(),
            conflicted_at: None,
            append_from: Moment::default(),
            folded_anew: None,
            grown_to: 0,
            store: StoreSeen::default(),
            survey: None,
            eyes: None,
            watch: ClusterWatch::default(),
            instances: BTreeMap::new(),
            fleet_trouble: None,
            own_instance: None,
            offered: None,
            said: None,
            told: BTreeMap::new(),
            set_aside: false,
            remains: None,
        }
    }

    fn now(&self) -> Moment {
        self.worker.clock.now()
    }

    #[tracing::instrument(name = "update", skip_all, fields(update = %self.update, cluster = %self.cluster))]
    pub async fn run(mut self) {
        loop {
            self.take_sights();
            let after = self.look().await;
            match after {
                After::Again => {}
                After::Leave => return,
                After::Rest(rest) => self.rest(rest).await,
            }
            // What another holds is the other's to bring to a safe point; what was set aside nobody can.
            let mine = self.is_mine() && !self.set_aside;
            if *self.stop.borrow() == Stop::AtSafePoint && !(mine && self.node_in_hand_is_down()) {
                if mine && self.state.end.is_none() {
                    tracing::info!("handed over at a safe point: no node is out of service");
                    self.shared.hands.hand_over(self.update, self.worker.writer.incarnation);
                }
                return;
            }
        }
    }

    /// Waits until something is seen, somebody wakes us, or `rest` has passed.
    async fn rest(&mut self, rest: Duration) {
        let sleeps = self.set_aside || self.untimely().is_some();
        let rested = tokio::time::sleep(rest);
        tokio::pin!(rested);
        loop {
            let sight = async {
                match &mut self.eyes {
                    Some(eyes) => eyes.sights.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                sight = sight => {
                    if let Some(sight) = sight {
                        self.absorb(sight);
                    }
                }
                Some(rung) = self.wake.recv() => match rung {
                    Rung::ToLook if sleeps => continue,
                    Rung::ToLook | Rung::News => self.read_at = None,
                },
                () = asked(&mut self.stop) => {}
                () = &mut rested => {}
            }
            return;
        }
    }

    fn take_sights(&mut self) {
        while let Some(sight) = self.eyes.as_mut().and_then(|eyes| eyes.sights.try_recv().ok()) {
            self.absorb(sight);
        }
    }

    fn absorb(&mut self, sight: Sight) {
        match sight {
            Sight::Node(node, at, answer) => self.watch.absorb(&node, at, answer),
            Sight::Replication(at, subscriptions) => self.watch.absorb_replication(at, &subscriptions),
            Sight::Instances(at, Ok(found)) => {
                // One that EC2 does not know at the moment may be there all the same: that proves nothing, but it was not seen.
                let planned = self.state.plan.iter().flat_map(|p| &p.members).map(|m| &m.instance);
                let missing: Vec<&str> =
                    planned.filter(|id| !found.iter().any(|i| i.id == **id)).map(|id| id.as_str()).collect();
                self.fleet_trouble =
                    (!missing.is_empty()).then(|| format!("EC2 does not describe {}", missing.join(", ")));
                for instance in found {
                    self.absorb_instance(at, instance);
                }
            }
            Sight::Instances(_, Err(why)) => self.fleet_trouble = Some(why),
        }
    }

    fn absorb_instance(&mut self, at: Moment, instance: Instance) {
        let id = instance.id.clone();
        let known = self.instances.get(&id).is_some_and(|seen| seen.instance.addresses().eq(instance.addresses()));
        if !known && is_own_machine(&*self.handle.fleet, &instance) == Some(true) {
            self.own_instance = Some(id.clone());
        }
        match self.instances.get_mut(&id) {
            Some(seen) => {
                let same = seen.instance.state == instance.state;
                seen.times = if same { seen.times.saturating_add(1) } else { 1 };
                if !same {
                    seen.state_since = at;
                }
                seen.pending_seen |= instance.state == InstanceState::Pending;
                let same_fence = seen.instance.fence() == instance.fence();
                seen.fence_times = if same_fence { seen.fence_times.saturating_add(1) } else { 1 };
                if !same_fence {
                    seen.fence_since = at;
                }
                seen.at = at;
                seen.instance = instance;
            }
            None => {
                self.instances.insert(id.clone(), InstanceSeen::first(instance, at));
            }
        }
        self.note_return(&id);
    }

    /// Notices that the node in hand, which was stopped, is back, by whomever.
    fn note_return(&mut self, id: &InstanceId) {
        let hand = self.state.in_hand.as_ref().filter(|h| h.step.out_of_service() && h.instance == *id);
        let Some((ticket, seen)) = hand.and_then(|h| h.ticket).zip(self.instances.get(id)) else { return };
        match seen.instance.state {
            InstanceState::Stopped => self.ticket.of(ticket).seen_down = true,
            // Said once, it may be what was true before the stop.
            InstanceState::Running if seen.times >= 2 => {
                let ticket = self.ticket.of(ticket);
                ticket.spent |= ticket.seen_down;
            }
            InstanceState::Running
            | InstanceState::Pending
            | InstanceState::Stopping
            | InstanceState::ShuttingDown
            | InstanceState::Terminated
            | InstanceState::Unrecognized => {}
        }
    }

    async fn look(&mut self) -> After {
        if let Some(after) = self.read_on().await {
            return after;
        }
        match &self.state.holder {
            None => return self.begin().await,
            Some(holder) if holder.incarnation != self.worker.writer.incarnation => {
                self.close_eyes();
                if self.state.end.is_some() {
                    return self.leave_ended().await;
                }
                return self.watch_holder().await;
            }
            Some(_) => {}
        }
        if self.state.plan.is_none() && self.state.end.is_none() {
            // What is found before its time says nothing of what is there when it has come.
            if self.untimely().is_none() {
                self.look_around().await;
            }
        } else if self.eyes.is_none()
            && let Some(plan) = &self.state.plan
        {
            let nodes = plan.members.iter().map(|m| (m.node.clone(), m.address.clone())).collect();
            let instances = plan.members.iter().map(|m| m.instance.clone()).collect();
            self.open_eyes(nodes, instances);
        }
        self.fold_everywhere_if_needed().await;
        // A look at a store that does not answer takes seconds, and what brings a node back rests on what was seen just now.
        self.take_sights();
        let now = self.now();
        let next = react(&self.state, &self.observed(), now);
        self.set_cadence();
        self.offer(&next);
        match next {
            Next::Record(facts) => self.record(facts).await,
            Next::Act(action) => self.act(action).await,
            Next::Wait(waiting) => self.wait(waiting).await,
            Next::Done(Verdict::Ended) => self.leave_ended().await,
            Next::Done(Verdict::HeldByAnother) => After::Rest(READ_EVERY),
        }
    }

    /// Offers the update to the other workers for as long as this one must not do what comes next.
    fn offer(&mut self, next: &Next) {
        let node = match next {
            Next::Wait(Waiting { for_another: true, node, .. }) => node.clone(),
            Next::Wait(_) | Next::Act(_) | Next::Record(_) | Next::Done(_) => None,
        };
        self.shared.hands.offer(self.update, self.worker.writer.incarnation, node.is_some());
        if let Some(node) = node {
            let outcome = self.state.results.get(&node).cloned();
            self.offered = Some((node, outcome));
        }
    }

    /// Whether what made this worker offer the update is still to be done: then it does not take it back from whoever offers it as well.
    fn is_for_another(&self) -> bool {
        self.offered.as_ref().is_some_and(|(node, outcome)| self.state.results.get(node) == outcome.as_ref())
    }

    fn observed(&self) -> Observed<'_> {
        // What was done with the ticket of a node before says nothing of the one in hand.
        let ticket = self.state.in_hand.as_ref().and_then(|h| h.ticket);
        let ticket = Some(&self.ticket).filter(|t| t.intent.is_some() && t.intent == ticket);
        Observed {
            me: self.worker.writer.incarnation,
            update: self.update,
            watch: &self.watch,
            instances: &self.instances,
            fleet_trouble: self.fleet_trouble.as_deref(),
            intent: self.intent.as_ref(),
            ticket_called: ticket.and_then(|t| t.called),
            ticket_type: ticket.and_then(|t| t.gave.as_ref()),
            store: &self.store,
            appends_fail_since: self.untaken.since(self.now()),
            survey: self.survey.as_ref().map(|(_, s)| s),
            policy: &self.handle.policy,
            own_instance: self.own_instance.as_ref(),
            took_over_at: self.took_over.map(|(_, at)| at),
            ticket_spent: ticket.is_some_and(|t| t.spent),
            ticket_in_vain: ticket.is_some_and(|t| t.refused || t.starts >= TICKET_STARTS_MAX),
            wall: self.worker.clock.wall(),
        }
    }

    /// How long it is until the update may be planned, if its request names a time that has not come.
    fn untimely(&self) -> Option<Duration> {
        let at = self.state.request.as_ref()?.not_before.filter(|_| self.state.plan.is_none())?;
        let wall = self.worker.clock.wall();
        (at > wall).then(|| at.duration_since(wall).unsigned_abs())
    }

    fn open_eyes(&mut self, nodes: BTreeMap<NodeName, Address>, instances: Vec<InstanceId>) {
        self.watch = ClusterWatch::new(nodes.keys().cloned());
        self.eyes = Some(Observer::new(
            nodes,
            instances,
            self.handle.admin.clone(),
            self.handle.fleet.clone(),
            self.worker.clock.clone(),
        ));
    }

    /// What another holds is the other's to look at, and what was seen before says nothing once it comes back.
    fn close_eyes(&mut self) {
        self.eyes = None;
        self.watch = ClusterWatch::default();
        self.instances.clear();
        self.fleet_trouble = None;
        self.survey = None;
    }

    fn set_cadence(&self) {
        let Some(eyes) = &self.eyes else { return };
        eyes.set_cadence(match self.state.in_hand.as_ref().map(|h| h.step) {
            // Until a person has said something.
            None if self.state.stands_still() || self.state.parked.is_some() => Cadence::IDLE,
            None => Cadence::BUSY,
            Some(
                Step::Tagging
                | Step::Untagging
                | Step::Stopping
                | Step::Stopped
                | Step::Modifying
                | Step::Modified
                | Step::Starting
                | Step::StartFailed
                | Step::Rebooting,
            ) => Cadence::CHANGING,
            Some(Step::Started | Step::Rejoined) => Cadence::RETURNING,
            Some(Step::Selected | Step::PriorityLowered | Step::Transferred | Step::Tagged | Step::CaughtUp)
                if !self.state.stands_still() =>
            {
                Cadence::TAKING
            }
            Some(Step::LoweringPriority | Step::Resigning | Step::RestoringPriority) if !self.state.stands_still() => {
                Cadence::BUSY
            }
            Some(_) => Cadence::IDLE,
        });
    }

    /// Reads the stream on and folds. Says what to do instead of going on, if the store does not answer and nothing is known yet.
    async fn read_on(&mut self) -> Option<After> {
        let began = self.now();
        let due = self.read_at.is_none_or(|at| began.since(at) >= READ_EVERY);
        if !due {
            return None;
        }
        match self.read_pages(began).await {
            Ok(()) => {
                self.store = StoreSeen::default();
                self.read_at = Some(self.now());
                if self.conflicted_at.take().is_some_and(|last| last == self.state.last_revision()) {
                    return Some(self.conflicted_with_nothing());
                }
                if self.state.end.is_none() {
                    self.put_aside(false).await;
                }
                None
            }
            Err(error @ ReadError::Unavailable { .. }) => {
                tracing::warn!(%error, "the update's stream cannot be read");
                self.store_away(began).await;
                self.state.last.is_none().then_some(After::Rest(READ_EVERY))
            }
            // That is an answer, and the rights may be given again.
            Err(error @ ReadError::Denied { .. }) => {
                tracing::error!(%error, "the update's stream cannot be read");
                self.store_answers().await;
                self.state.last.is_none().then_some(After::Rest(READ_EVERY))
            }
            Err(error @ ReadError::Refused { .. }) => Some(self.set_aside(error).await),
        }
    }

    /// Folds what came after the last that is known.
    async fn read_pages(&mut self, seen: Moment) -> Result<(), ReadError> {
        loop {
            let last = self.state.last_revision();
            let Page { events, is_last } = read_page(&*self.worker.log, self.update, last, seen).await?;
            self.fold_on(events);
            if is_last {
                return Ok(());
            }
        }
    }

    /// An append met another revision than the one that was folded, and nothing can be read after that: it met one that no quorum has
    /// acknowledged yet, perhaps our own, or what was folded is not what the store holds, since it was restored from a backup.
    fn conflicted_with_nothing(&mut self) -> After {
        let now = self.now();
        self.append_from = now.after(READ_EVERY);
        if self.folded_anew.is_none_or(|at| now.since(at) >= FOLD_ANEW_EVERY) {
            tracing::warn!(last = ?self.state.last_revision(), "the stream is not what was folded; it is read from its beginning");
            (self.state, self.events, self.intent) = (State::default(), 0, None);
            self.folded_anew = Some(now);
            self.read_at = None;
        }
        After::Rest(READ_EVERY)
    }

    /// The store refuses the update's stream for good. No fact can be recorded there any more, so that nothing is done for it. It holds
    /// nobody up but its own cluster, and that no longer than until it is proved that no node was ever touched for it.
    async fn set_aside(&mut self, error: ReadError) -> After {
        self.put_aside(true).await;
        if self.state.end.is_some() {
            return self.leave_ended().await;
        }
        let held = self.state.holder.is_some();
        if !held {
            if self.remains.is_none() {
                self.remains = self.shared.queue.lock().await.admitted_at(self.update).map(Remains::since);
            }
            if let Some(remains) = &mut self.remains {
                let mut stop = self.stop.clone();
                tokio::select! {
                    () = remains.look(&self.worker, self.update) => {}
                    () = asked(&mut stop) => {}
                }
                if remains.never_held() {
                    tracing::error!(%error, "the update was deleted before anybody held it: its cluster is released");
                    return self.leave().await;
                }
            }
        }
        let node = self.state.in_hand.as_ref().map(|hand| format!("{} was {}", hand.node, hand.step));
        tracing::error!(
            %error,
            held,
            node,
            remedy = format!(
                "see that every instance of the cluster runs, then append UpdateReleased with {{\"update\":\"{}\"}} to {}",
                self.update,
                self.cluster.admission_stream()
            ),
            "nothing can be done for the update any more, and perhaps a node is out of service by it: no other of this cluster begins"
        );
        After::Rest(ASIDE_EVERY)
    }

    /// Sets the update aside, so that it holds up no other cluster; or takes it in again.
    async fn put_aside(&mut self, aside: bool) {
        if self.set_aside == aside {
            return;
        }
        self.set_aside = aside;
        self.keep_in_hand();
        if aside {
            self.eyes = None;
        }
        if self.shared.queue.lock().await.put_aside(self.update, aside) {
            // There may be room for another.
            self.shared.look.notify_one();
        }
    }

    fn fold_on(&mut self, news: Vec<Recorded>) {
        let mut read_back = BTreeMap::new();
        let mut of_another = false;
        for recorded in &news {
            self.state.evolve(recorded);
            self.events += 1;
            match self.unacknowledged.remove(&recorded.id) {
                Some(first_sent) => {
                    read_back.insert(recorded.revision, first_sent);
                }
                // What is folded anew is nothing new.
                None if self.events <= self.grown_to => {}
                None => of_another |= matches!(&recorded.body, Body::Event(event) if event.kind() == Kind::Fact),
            }
        }
        self.grown_to = self.grown_to.max(self.events);
        if of_another {
            // Another holds the update. One of our own that was taken without an answer in time is of no use: no call can follow it.
            self.untaken.forget();
        }
        self.note_take_over();
        // An intent that is not the open one any more has been answered, or replaced.
        let open = self.state.in_hand.as_ref().and_then(|h| h.intent.as_ref()).map(|i| i.revision);
        if self.intent.as_ref().is_some_and(|i| Some(i.revision) != open) {
            self.intent = None;
        }
        if let Some((revision, first_sent)) = open.and_then(|open| read_back.remove_entry(&open)) {
            self.intent = Some(IntentInHand { revision, first_sent, acknowledged: None, called: None });
        }
    }

    /// A call to the store failed: since when, and whether anybody in it reports a leader.
    async fn store_away(&mut self, since: Moment) {
        self.store.away_since.get_or_insert(since);
        let probe = self.worker.log.probe().await;
        // A store of which nobody answers may be cut off from us alone: that counts as leaderless only where a node of ours is down.
        self.store.leader_reported = Some(probe.leader_reported || probe.answered == 0 && !self.node_in_hand_is_down());
        self.store.voters = probe.voters;
    }

    /// The store answered a call, though with no. It is there again where a leader is: a node that starts says no by itself.
    async fn store_answers(&mut self) {
        if self.store.away_since.is_some() && self.worker.log.probe().await.leader_reported {
            self.store = StoreSeen::default();
        }
    }

    fn node_in_hand_is_down(&self) -> bool {
        self.state.in_hand.as_ref().is_some_and(|h| h.step.out_of_service())
    }

    /// Without a leader, the history is what the nodes that answer hold; the longest of them, if it is longer than ours.
    async fn fold_everywhere_if_needed(&mut self) {
        let away = self.store.away_since.is_some_and(|since| self.now().since(since) >= TICKET_AFTER);
        if !away
            || self.store.leader_reported != Some(false)
            || self.store.folded_from_majority
            || !self.node_in_hand_is_down()
        {
            return;
        }
        let seen = self.now();
        let reads = self.worker.log.read_everywhere(&self.update.stream()).await;
        let longest: Option<&Vec<StoredEvent>> = reads.iter().map(|r| &r.events).max_by_key(|events| events.len());
        if let Some(events) = longest.filter(|events| events.len() > self.events) {
            let history: Vec<Recorded> = events.iter().map(|e| decode(e, seen)).collect();
            self.state = fold(&history);
            self.events = history.len();
        }
        self.store.folded_from_majority = self.store.voters > 0 && reads.len() as u32 > self.store.voters / 2;
    }

    fn is_mine(&self) -> bool {
        self.state.holder.as_ref().is_some_and(|h| h.incarnation == self.worker.writer.incarnation)
    }

    /// Takes an update that nobody has begun, where a hand is free, nobody with fewer in hand takes it, and the limits let it.
    async fn begin(&mut self) -> After {
        if *self.stop.borrow() != Stop::No || self.state.end.is_some() {
            return self.take(AssignedBecause::Admitted).await;
        }
        let since = *self.unheld_since.get_or_insert(self.now());
        let head_start = self.shared.peers.head_start(&self.worker, &self.cluster, self.shared.hands.count());
        let left = head_start.saturating_sub(self.now().since(since));
        if !left.is_zero() {
            return After::Rest(left.min(READ_EVERY));
        }
        if !self.shared.hands.reserve(self.update) {
            self.say("noFreeHand", "this worker has as many updates in hand as it may");
            return After::Rest(HANDS_EVERY);
        }
        let (log, clock) = (&*self.worker.log, &*self.worker.clock);
        let asked = self.shared.reads.load(Ordering::SeqCst);
        let may = {
            let mut queue = self.shared.queue.lock().await;
            queue.may_begin(log, clock, self.worker.clusters.keys(), self.worker.limits, self.update, asked).await
        };
        let why = match may {
            Ok(Ok(())) => {
                let after = self.take(AssignedBecause::Admitted).await;
                if !self.is_mine() {
                    self.shared.hands.let_go(self.update);
                }
                return after;
            }
            // It is driven again when there is room.
            Ok(Err(Waits::Room { .. } | Waits::NotAdmitted)) => return After::Leave,
            Ok(Err(waits @ Waits::Failures { .. })) => waits.to_string(),
            Err(error) => error.to_string(),
        };
        self.shared.hands.let_go(self.update);
        self.say("notBegun", &why);
        After::Rest(rest_after_all(&self.worker))
    }

    /// Takes an update that nobody holds, or whose holder fell silent.
    async fn take(&mut self, reason: AssignedBecause) -> After {
        if *self.stop.borrow() != Stop::No {
            return After::Leave;
        }
        if self.state.end.is_some() {
            return self.leave_ended().await;
        }
        let assigned = WorkerAssigned {
            worker: self.worker.writer.worker.clone(),
            incarnation: self.worker.writer.incarnation,
            reason,
        };
        self.take_over_sent = Some(self.now());
        self.record(vec![assigned.into()]).await
    }

    /// Notices that this worker holds an update that it took from another, whether its append was acknowledged or found by reading.
    fn note_take_over(&mut self) {
        let me = self.worker.writer.incarnation;
        self.keep_in_hand();
        if !self.is_mine() {
            self.shared.hands.offer(self.update, me, false);
        }
        let taken = |h: &&Holder| h.incarnation == me && h.reason != AssignedBecause::Admitted;
        self.took_over = match (self.state.holder.as_ref().filter(taken), self.took_over) {
            (Some(holder), Some((revision, at))) if holder.revision == revision => Some((revision, at)),
            (Some(holder), _) => {
                tracing::info!("took the update over");
                Some((holder.revision, self.take_over_sent.unwrap_or(holder.seen)))
            }
            (None, _) => None,
        };
    }

    /// What this worker holds and can go on with takes one of its hands.
    fn keep_in_hand(&self) {
        if self.is_mine() && !self.set_aside {
            self.shared.hands.hold(self.update);
        } else {
            self.shared.hands.let_go(self.update);
        }
    }

    async fn watch_holder(&mut self) -> After {
        let Some(holder) = self.state.holder.clone() else { return After::Again };
        let now = self.now();
        let rested = self.holder_read_at.map_or(READ_EVERY, |at| now.since(at));
        if rested < READ_EVERY {
            return After::Rest(READ_EVERY - rested);
        }
        self.holder_read_at = Some(now);
        let beats = self.shared.beats.borrow().beats;
        match self.worker.log.read_last(&holder.worker.stream()).await {
            Ok(last)
                if !self.is_for_another()
                    && heartbeat_of(last.as_ref()).is_some_and(|beat| {
                        beat.handed_over.iter().any(|h| h.update == self.update && h.incarnation == holder.incarnation)
                    }) =>
            {
                return self.take(AssignedBecause::HandedOver).await;
            }
            Ok(last) => self.silence.read(holder.incarnation, beat_of(last.as_ref()), beats, self.worker.clock.now()),
            // The leader's answer: nobody beats there, nor ever will.
            Err(ReadError::Refused { .. }) => {
                self.silence.read(holder.incarnation, None, beats, self.worker.clock.now());
            }
            Err(error @ (ReadError::Denied { .. } | ReadError::Unavailable { .. })) => {
                tracing::warn!(%error, "the holder's heartbeat cannot be read");
                self.silence.read_failed();
            }
        }
        if self.silence.expired() {
            self.silence = Silence::default();
            return self.take(AssignedBecause::Silent).await;
        }
        self.say("heldByAnother", &format!("held by {} ({})", holder.worker, holder.incarnation));
        After::Rest(READ_EVERY)
    }

    async fn leave_ended(&mut self) -> After {
        let after = self.leave().await;
        if matches!(after, After::Leave) {
            tracing::info!(verdict = crate::update::react::verdict_word(&self.state), "the update has ended");
        }
        after
    }

    /// Releases the cluster.
    async fn leave(&mut self) -> After {
        match release(&self.worker, self.update, &self.cluster).await {
            Ok(()) => After::Leave,
            Err(Trouble::Away(why) | Trouble::Denied(why)) => {
                self.say("notReleased", &why);
                After::Rest(READ_EVERY)
            }
            Err(Trouble::Refused(why)) => {
                tracing::error!(why, "the cluster cannot be released: no other update of it begins");
                self.put_aside(true).await;
                After::Rest(ASIDE_EVERY)
            }
        }
    }

    /// Before there is a plan: who is there, and on which instances.
    async fn look_around(&mut self) {
        let due = match &self.survey {
            None => true,
            Some((at, survey)) => survey.is_worth_another() && self.now().since(*at) >= SURVEY_EVERY,
        };
        if !due {
            return;
        }
        let found = survey(&self.handle, self.state.request.as_ref().map(|r| (r, &*self.worker.log))).await;
        let nodes: BTreeMap<NodeName, Address> =
            found.members.iter().map(|(n, m)| (n.clone(), m.address.clone())).collect();
        let known: Vec<NodeName> = self.watch.nodes().map(|(n, _)| n.clone()).collect();
        if !nodes.is_empty() && known != nodes.keys().cloned().collect::<Vec<_>>() {
            let instances = found.members.values().map(|m| m.instance.id.clone()).collect();
            self.open_eyes(nodes, instances);
        }
        let found = found.or_before(self.survey.take().map(|(_, before)| before));
        self.survey = Some((self.now(), found));
    }

    /// Appends facts at exactly the revision that was folded, and folds them when they stand.
    async fn record(&mut self, facts: Vec<Event>) -> After {
        let sent = self.now();
        if sent < self.append_from {
            return After::Rest(self.append_from.since(sent));
        }
        let wall = self.worker.clock.wall();
        let last = self.state.last;
        let events = match encode_facts(self.update, &facts, last, &self.worker.writer, wall) {
            Ok(events) => events,
            Err(error) => {
                tracing::error!(%error, "facts cannot be written down");
                return After::Rest(READ_EVERY);
            }
        };
        let ids: Vec<uuid::Uuid> = events.iter().map(|e| e.id).collect();
        for id in &ids {
            self.unacknowledged.entry(*id).or_insert(sent);
        }
        let expected = Expected::after(self.state.last_revision());
        match self.worker.log.append(&self.update.stream(), expected, events).await {
            Ok(_) => {
                self.store = StoreSeen::default();
                self.read_at = Some(self.now());
                for fact in &facts {
                    tracing::info!(
                        fact = fact.type_name(),
                        node = crate::update::state::node_of(fact).map(NodeName::as_str),
                        "recorded"
                    );
                }
                let first = last.map_or(Revision(0), |(r, _)| r.next());
                let seen = self.now();
                let first_sent: Vec<Moment> =
                    ids.iter().map(|id| self.unacknowledged.get(id).copied().unwrap_or(sent)).collect();
                let news = facts.into_iter().zip(ids).enumerate().map(|(i, (fact, id))| {
                    let revision = Revision(first.0 + i as u64);
                    Recorded { revision, id, at: wall, seen, body: Body::Event(Box::new(fact)) }
                });
                self.fold_on(news.collect());
                self.unacknowledged.clear();
                self.untaken.acknowledged(sent, seen);
                if let Some(open) = self.state.in_hand.as_ref().and_then(|h| h.intent.as_ref())
                    && open.revision >= first
                {
                    let first_sent = first_sent.get((open.revision.0 - first.0) as usize).copied().unwrap_or(sent);
                    let revision = open.revision;
                    self.intent = Some(IntentInHand { revision, first_sent, acknowledged: Some(seen), called: None });
                }
                self.said = None;
                After::Again
            }
            // No verdict: read on, fold, decide again.
            Err(AppendError::Conflict { .. }) => {
                // By a flood of commands, that may be all it ever says.
                self.untaken.failed(sent, self.now());
                self.read_at = None;
                self.conflicted_at = Some(self.state.last_revision());
                After::Again
            }
            Err(error @ (AppendError::Unavailable { .. } | AppendError::Unknown { .. })) => {
                tracing::warn!(%error, "not recorded");
                self.store_away(sent).await;
                self.untaken.failed(sent, self.now());
                if self.store.leader_reported != Some(true) && self.store.voters == 0 {
                    // Whom nobody of the store answers may be cut off from it alone.
                    self.untaken.forget();
                }
                // Whether it stands is told by reading; an intent found there is not acted upon.
                self.read_at = None;
                After::Rest(Duration::from_millis(200))
            }
            Err(error @ (AppendError::Denied { .. } | AppendError::Refused { .. })) => {
                tracing::error!(%error, "the store refuses this update's facts");
                self.untaken.forget();
                self.store_answers().await;
                // Whether it is deleted is told by reading.
                self.read_at = None;
                After::Rest(Duration::from_secs(5))
            }
        }
    }

    /// Makes one call, after a second and independent look.
    async fn act(&mut self, action: Action) -> After {
        self.take_sights();
        let now = self.now();
        if let Err(violations) = audit(&action, &self.state, &self.observed(), now) {
            let found: Vec<String> = violations.iter().map(ToString::to_string).collect();
            tracing::warn!(action = %action.call, violations = found.join("; "), "not done: it would break a rule");
            return After::Rest(AFTER_VIOLATION);
        }
        tracing::info!(action = %action.call, node = %action.node, "calling");
        match action.warrant {
            Warrant::Intent(_) => {
                if let Some(intent) = &mut self.intent {
                    intent.called = Some((now, None));
                }
                if matches!(action.call, Call::StartInstance { .. }) {
                    // Whatever comes of it, the store does not keep the node down.
                    self.untaken.forget();
                }
            }
            Warrant::ReturnTicket(ticket) => {
                let ticket = self.ticket.of(ticket);
                ticket.called = Some(now);
                if let Call::ModifyType { to, .. } = &action.call {
                    ticket.gave = Some(to.clone());
                }
            }
        }
        if let Call::StopInstance { instance } | Call::ModifyType { instance, .. } | Call::StartInstance { instance } =
            &action.call
            && let Some(seen) = self.instances.get_mut(instance)
        {
            // What EC2 said before the call proves nothing about what came of it.
            seen.times = 0;
            seen.pending_seen = false;
        }
        if let Call::Tag { instance, .. } | Call::Untag { instance, .. } = &action.call
            && let Some(seen) = self.instances.get_mut(instance)
        {
            seen.fence_times = 0;
        }
        let outcome = perform(&action.call, &*self.handle.admin, &*self.handle.fleet).await;
        match &outcome {
            CallOutcome::Accepted { .. } => {}
            CallOutcome::Refused { code, message, .. } => {
                tracing::warn!(action = %action.call, code, message, "refused");
            }
            CallOutcome::Unknown { message } => tracing::warn!(action = %action.call, message, "outcome unknown"),
        }
        let answered = self.now();
        if let (Warrant::ReturnTicket(ticket), Call::StartInstance { .. }) = (action.warrant, &action.call) {
            let ticket = self.ticket.of(ticket);
            ticket.starts += 1;
            ticket.refused |=
                matches!(&outcome, CallOutcome::Refused { again: Again::WithCapacity | Again::Never, .. });
        }
        if let Warrant::Intent(revision) = action.warrant
            && let Some(intent) = self.intent.as_mut().filter(|i| i.revision == revision)
        {
            intent.called = Some((answered, Some(outcome)));
        }
        if let Some(eyes) = &self.eyes {
            eyes.look_at_instances_now();
        }
        After::Again
    }

    async fn wait(&mut self, waiting: Waiting) -> After {
        let recorded = self.state.delayed.as_ref().is_some_and(|d| d.reason == waiting.code && d.node == waiting.node);
        if self.state.delayed.is_none() {
            self.told.clear();
        }
        let now = self.now();
        let lately = |at: &Moment| now.since(*at) < TOLD_EVERY;
        let told = (waiting.code, waiting.node.clone());
        if waiting.delay && !recorded && self.store.away_since.is_none() && !self.told.get(&told).is_some_and(lately) {
            self.told.insert(told, now);
            let fact = StepDelayed {
                node: waiting.node,
                step: waiting.step,
                reason: waiting.code.into(),
                detail: waiting.detail,
                numbers: waiting.numbers,
            };
            return self.record(vec![fact.into()]).await;
        }
        self.say(waiting.code, &waiting.detail);
        After::Rest(self.untimely().map_or(READ_EVERY, |left| left.min(UNTIMELY_EVERY)))
    }

    /// Logs why nothing is done, once for each reason.
    fn say(&mut self, code: &'static str, detail: &str) {
        if self.said != Some(code) {
            self.said = Some(code);
            tracing::info!(code, detail, "waiting");
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // However it ends: what is not driven is not in hand.
        self.shared.hands.let_go(self.update);
    }
}
