//! The subscription to the whole log, which never ends by itself.
//!
//! The crate's own one cannot be cancelled and resumed, spins for ever when the server ends it with OK, stays on a node that
//! died, and says nothing when its node is cut off. So each attempt gets a thread, a runtime and a client of its own, which
//! pump into a channel from an explicit position; a supervisor passes on what comes, counts the silence, and starts the next
//! attempt after the last position that was passed on.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use eventstore::{
    Client, ClientSettings, StreamPosition, SubscribeToAllOptions, SubscriptionEvent, SubscriptionFilter,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tracing::field::{Field, Visit};
use tracing::{Dispatch, Event, Level, Metadata};

use super::error::Outcome;
use super::generation::pause;
use super::store::{Inner, stored};
use crate::ports::{Feed, Position, StartFrom, StoredEvent};

/// Silence after which the subscription is made anew. Asking the leader again is then the proof that it was silent for want
/// of events: a subscription lives on, and may stay silent, on a node that lost its leadership.
const SILENCE: Duration = Duration::from_secs(30);
/// Time for the server to confirm a subscription: a connection's worth of elections.
const CONFIRMATION: Duration = Duration::from_secs(10);
/// An attempt that lasted so long was no failure: the next follows soon.
const LASTED: Duration = Duration::from_secs(10);
/// Items on their way; more wait at the server.
const QUEUE: usize = 64;
/// Events of any stream that the server looks at before it reports how far it came.
const WINDOW: u32 = 500;

/// What an attempt yields.
enum Item {
    Confirmed,
    Event(Box<StoredEvent>),
    /// Everything before this was looked at.
    Checkpoint(Position),
    CaughtUp,
    Ended(String),
}

/// Starts a subscription; it ends when the receiver is dropped.
pub(super) fn start(inner: Arc<Inner>, from: StartFrom, prefixes: Vec<String>) -> mpsc::Receiver<Feed> {
    let (out, feed) = mpsc::channel(QUEUE);
    tokio::spawn(supervise(inner, from, prefixes, out));
    feed
}

async fn supervise(inner: Arc<Inner>, mut from: StartFrom, prefixes: Vec<String>, out: mpsc::Sender<Feed>) {
    let mut failures = 0;
    loop {
        let began = Instant::now();
        let why = attempt(&inner, &mut from, &prefixes, &out).await;
        if out.is_closed() {
            return;
        }
        failures = if began.elapsed() >= LASTED { 0 } else { failures + 1 };
        tracing::debug!(why, failures, "the subscription is made anew");
        if out.send(Feed::Reconnecting(why)).await.is_err() {
            return;
        }
        tokio::select! {
            () = out.closed() => return,
            () = sleep(pause(failures)) => {}
        }
    }
}

/// Passes on what one attempt yields, and moves `from`; says why it ended.
async fn attempt(inner: &Arc<Inner>, from: &mut StartFrom, prefixes: &[String], out: &mpsc::Sender<Feed>) -> String {
    let mut retirements = inner.generations.retirements();
    let (sender, mut items) = mpsc::channel(QUEUE);
    let options = options(*from, prefixes, inner.credentials());
    let settings = inner.generations.settings().clone();
    let pump = std::thread::Builder::new().name("esdb-subscription".to_owned());
    if let Err(error) = pump.spawn(move || run_pump(settings, options, sender)) {
        return format!("no thread for the subscription: {error}");
    }
    let mut patience = CONFIRMATION;
    loop {
        let item = tokio::select! {
            () = out.closed() => return "nobody listens".to_owned(),
            _ = retirements.changed() => return "the store's client was given up".to_owned(),
            item = timeout(patience, items.recv()) => item,
        };
        let passed = match item {
            Err(_) => return format!("silent for {} s", patience.as_secs()),
            Ok(None) => return "the subscription's thread ended".to_owned(),
            Ok(Some(Item::Ended(why))) => return why,
            Ok(Some(Item::Confirmed)) => None,
            Ok(Some(Item::CaughtUp)) => Some(Feed::CaughtUp),
            Ok(Some(Item::Checkpoint(position))) => advance(from, position).then_some(Feed::Looked(position)),
            Ok(Some(Item::Event(event))) => match event.position {
                None => return format!("event {} of {} has no position", event.revision, event.stream),
                Some(position) if advance(from, position) => Some(Feed::Event(*event)),
                Some(_) => None,
            },
        };
        patience = SILENCE;
        if let Some(feed) = passed
            && out.send(feed).await.is_err()
        {
            return "nobody listens".to_owned();
        }
    }
}

/// Moves the place to resume at forwards; whether it did.
fn advance(from: &mut StartFrom, to: Position) -> bool {
    let forwards = match *from {
        StartFrom::Beginning => true,
        StartFrom::After(at) => to > at,
    };
    if forwards {
        *from = StartFrom::After(to);
    }
    forwards
}

fn options(
    from: StartFrom,
    prefixes: &[String],
    credentials: Option<eventstore::Credentials>,
) -> SubscribeToAllOptions {
    let position = match from {
        StartFrom::Beginning => StreamPosition::Start,
        StartFrom::After(p) => StreamPosition::Position(eventstore::Position { commit: p.commit, prepare: p.prepare }),
    };
    let mut options = SubscribeToAllOptions::default().position(position);
    if !prefixes.is_empty() {
        let filter = SubscriptionFilter::on_stream_name().max(WINDOW);
        options = options.filter(prefixes.iter().fold(filter, SubscriptionFilter::add_prefix));
    }
    match credentials {
        Some(credentials) => options.authenticated(credentials),
        None => options,
    }
}

/// The thread of one attempt.
fn run_pump(settings: ClientSettings, options: SubscribeToAllOptions, sender: mpsc::Sender<Item>) {
    let ended = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Err(error) => format!("no runtime for the subscription: {error}"),
        Ok(runtime) => {
            let guard = Dispatch::new(SpinGuard { inner: tracing::dispatcher::get_default(Clone::clone) });
            let pumped = catch_unwind(AssertUnwindSafe(|| {
                tracing::dispatcher::with_default(&guard, || runtime.block_on(pump(settings, options, &sender)))
            }));
            runtime.shutdown_background();
            pumped.unwrap_or_else(|payload| why_unwound(payload.as_ref()))
        }
    };
    if sender.blocking_send(Item::Ended(ended)).is_err() {
        tracing::trace!("the subscription was given up before it ended");
    }
}

async fn pump(settings: ClientSettings, options: SubscribeToAllOptions, sender: &mpsc::Sender<Item>) -> String {
    let client = match Client::with_runtime_handle(tokio::runtime::Handle::current(), settings) {
        Ok(client) => client,
        Err(error) => return error.to_string(),
    };
    // Without retry options: those that the crate offers stay on a dead node, or give up after a second.
    let mut subscription = client.subscribe_to_all(&options).await;
    loop {
        SPINS.set(0);
        // Leaving `next` is final here, so it matters not that it cannot be resumed.
        let next = tokio::select! {
            () = sender.closed() => return "nobody listens".to_owned(),
            next = subscription.next_subscription_event() => next,
        };
        let item = match next {
            Err(error) => {
                let verdict = super::error::Fault::Client(error).verdict();
                if verdict.outcome == Outcome::Denied {
                    tracing::warn!(
                        text = verdict.text,
                        "the store denies the subscription to $all, so that new requests are not seen: an admin must let this user read it \
                         (`esdb-rollout init --worker-user`)"
                    );
                }
                return verdict.text;
            }
            Ok(SubscriptionEvent::Confirmed(_)) => Item::Confirmed,
            Ok(SubscriptionEvent::EventAppeared(event)) => match stored(event) {
                Some(event) => Item::Event(Box::new(event)),
                None => continue,
            },
            Ok(SubscriptionEvent::Checkpoint(p)) => Item::Checkpoint(Position { commit: p.commit, prepare: p.prepare }),
            Ok(SubscriptionEvent::CaughtUp) => Item::CaughtUp,
            Ok(
                SubscriptionEvent::FellBehind
                | SubscriptionEvent::FirstStreamPosition(_)
                | SubscriptionEvent::LastStreamPosition(_)
                | SubscriptionEvent::LastAllPosition(_),
            ) => continue,
        };
        if sender.send(item).await.is_err() {
            return "nobody listens".to_owned();
        }
    }
}

thread_local! {
    /// Complaints of the crate since the last item.
    static SPINS: Cell<u32> = const { Cell::new(0) };
}

/// Complaints without an item between them that only an endless loop utters: an unknown message gives one, and then waits.
const SPIN: u32 = 64;

/// What unwinds a thread that spins.
struct StreamEnded;

fn why_unwound(payload: &(dyn Any + Send)) -> String {
    if payload.is::<StreamEnded>() {
        "the server ended the subscription".to_owned()
    } else {
        "the client library panicked in the subscription".to_owned()
    }
}

/// A subscriber of traces for the pump's thread alone. When the server ends a subscription with OK, the crate loops without ever
/// waiting: no time-out fires, and a thread cannot be killed. But it complains at each turn, and who hears the complaint runs
/// inside the loop: so this unwinds it. All other traces go where they would have gone.
struct SpinGuard {
    inner: Dispatch,
}

impl SpinGuard {
    fn is_complaint(metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::WARN && metadata.target() == "eventstore::commands"
    }
}

struct Complaint(bool);

impl Visit for Complaint {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0 |= field.name() == "message" && format!("{value:?}").contains("unknown subscription message");
    }
}

impl tracing::Subscriber for SpinGuard {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> tracing::subscriber::Interest {
        if Self::is_complaint(metadata) {
            tracing::subscriber::Interest::always()
        } else {
            tracing::subscriber::Interest::sometimes()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        Self::is_complaint(metadata) || (metadata.is_event() && self.inner.enabled(metadata))
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(tracing::level_filters::LevelFilter::WARN)
    }

    fn event(&self, event: &Event<'_>) {
        if Self::is_complaint(event.metadata()) {
            let mut complaint = Complaint(false);
            event.record(&mut complaint);
            if complaint.0 {
                SPINS.set(SPINS.get() + 1);
                if SPINS.get() >= SPIN {
                    resume_unwind(Box::new(StreamEnded));
                }
                return;
            }
        }
        if self.inner.enabled(event.metadata()) {
            self.inner.event(event);
        }
    }

    // Spans are not passed on: the pump has none of ours.
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_to_resume_only_moves_forwards() {
        let at = |n| Position { commit: n, prepare: n };
        let mut from = StartFrom::Beginning;
        assert!(advance(&mut from, at(0)));
        assert!(!advance(&mut from, at(0)), "an event that comes twice is passed on once");
        assert!(advance(&mut from, at(5)));
        assert!(!advance(&mut from, at(4)));
        assert_eq!(from, StartFrom::After(at(5)));
    }
}
