//! A client that appends all the time, as an application would, to see what becomes of its writes meanwhile.
//!
//! It is the worker's neighbour, not a part of it: a client of its own, with the care that the crate asks of every user (see
//! [`super::generation`]): clients that died are replaced, each try has a time of its own, and each append says where it
//! belongs and carries the id that belongs there, so that repeating it is safe.

use std::time::Duration;

use eventstore::{AppendToStreamOptions, Client, EventData, ExpectedRevision, StreamPosition};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use uuid::Uuid;

use super::connection::{Ask, StoreConfig, Target};
use super::error::{Fault, Outcome};
use super::generation::Generations;
use super::store::{read_stream, stream_options, to_crate};
use super::{ConfigError, Credentials};
use crate::domain::ids::StreamName;

/// From one append to the next. The crate leaves Nagle's algorithm on, so that an append takes 40 ms where the server delays its
/// acknowledgements: 20 to 40 appends a second.
const EVERY: Duration = Duration::from_millis(25);
/// Time for one try, as of the worker's store: a server without quorum says so after 2.2 s.
const TRY_TIME: Duration = Duration::from_millis(2500);
/// Pause after a try that was turned down: it bounds how exactly a gap is measured.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Tries with one client that answers but will not serve, after which another is made: 1.5 s, an election with some margin.
const PATIENCE: u32 = 30;
/// Time that the last append gets when the probe is asked to stop.
const LAST_WORD: Duration = Duration::from_secs(10);
/// Namespace of the ids.
const NAMESPACE: Uuid = Uuid::from_u128(0x6573_6462_2d72_6f6c_6c6f_7574_0000_0002);

/// Stored type of the probe's events.
pub const PROBE_EVENT: &str = "probeAppended";

/// What an event of the probe says: the numbers ascend by one from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeEvent {
    /// Its number.
    pub number: u64,
}

/// What the probe has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Appends that were acknowledged: the events with the numbers below this one.
    pub acknowledged: u64,
    /// Longest time from one acknowledgement to the next, as it passed at the client.
    pub longest_gap: Duration,
    /// When that gap began, counted from the first acknowledgement.
    pub longest_gap_at: Duration,
    /// When the last acknowledgement came, counted from the first.
    pub last_acknowledgement: Duration,
}

/// Why the probe ended early.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// The store refuses what it appends.
    #[error("the store refuses the probe's append number {number}: {found}")]
    Refused {
        /// The append.
        number: u64,
        /// What the store said.
        found: String,
    },
    /// It panicked or was aborted.
    #[error("the probe died: {0}")]
    Died(String),
}

/// A client that appends to one stream until it is asked to stop. Dropped, it ends at once.
#[derive(Debug)]
pub struct WriteProbe {
    stop: watch::Sender<bool>,
    seen: watch::Receiver<Seen>,
    task: JoinHandle<Result<Seen, ProbeError>>,
}

impl WriteProbe {
    /// Starts to append to `stream`, which must not exist.
    ///
    /// # Errors
    /// A configuration with which no client can be made.
    pub fn start(config: &StoreConfig, stream: StreamName) -> Result<WriteProbe, ConfigError> {
        let target = Target::of(config)?;
        let generations = Generations::new(target.settings(Ask::Leader)?);
        let (stop, stopped) = watch::channel(false);
        let (tell, seen) = watch::channel(Seen::default());
        let credentials = target.credentials;
        let task = tokio::spawn(Probe { generations, credentials, stream, stopped, tell }.run());
        Ok(WriteProbe { stop, seen, task })
    }

    /// What it has seen so far.
    pub fn seen(&self) -> Seen {
        *self.seen.borrow()
    }

    /// Waits for the first acknowledgement. False if there is none within `time`.
    pub async fn has_begun(&mut self, time: Duration) -> bool {
        timeout(time, self.seen.wait_for(|seen| seen.acknowledged > 0)).await.is_ok_and(|told| told.is_ok())
    }

    /// Whether it has ended by itself, which only an error makes it do.
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }

    /// Lets it bring its last append to an end, and says what it saw. An append without an answer by then counts as not
    /// acknowledged, and its wait as a gap.
    ///
    /// # Errors
    /// What made it end early.
    pub async fn finish(mut self) -> Result<Seen, ProbeError> {
        self.stop.send_replace(true);
        match (&mut self.task).await {
            Ok(result) => result,
            Err(error) => Err(ProbeError::Died(error.to_string())),
        }
    }
}

impl Drop for WriteProbe {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Id of the probe's event with this number.
pub fn probe_id(stream: &StreamName, number: u64) -> Uuid {
    Uuid::new_v5(&NAMESPACE, format!("{stream}/{number}").as_bytes())
}

struct Probe {
    generations: Generations,
    credentials: Option<Credentials>,
    stream: StreamName,
    stopped: watch::Receiver<bool>,
    tell: watch::Sender<Seen>,
}

/// How one try ended.
enum Tried {
    /// The event stands at this revision.
    Stands(u64),
    /// The stream ends here (`None`: it does not exist), and the event is not its last.
    Elsewhere(Option<u64>),
}

impl Probe {
    async fn run(mut self) -> Result<Seen, ProbeError> {
        let mut seen = Seen::default();
        let mut first = None;
        let mut last = Instant::now();
        let mut expected = ExpectedRevision::NoStream;
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !*self.stopped.borrow() {
            ticks.tick().await;
            let Some(revision) = self.append(seen.acknowledged, expected).await? else {
                self.note(&mut seen, first, last);
                break;
            };
            expected = ExpectedRevision::Exact(revision);
            seen.acknowledged += 1;
            self.note(&mut seen, first, last);
            last = Instant::now();
            let first = *first.get_or_insert(last);
            seen.last_acknowledgement = last - first;
            self.tell.send_replace(seen);
        }
        Ok(seen)
    }

    /// Counts the time since the last acknowledgement, unless this is the first.
    fn note(&self, seen: &mut Seen, first: Option<Instant>, last: Instant) {
        let gap = last.elapsed();
        if let Some(first) = first
            && gap > seen.longest_gap
        {
            seen.longest_gap = gap;
            seen.longest_gap_at = last - first;
        }
    }

    /// Appends one event, again and again until that is acknowledged, and gives its revision. `None` if it was asked to stop and
    /// no answer came.
    async fn append(&mut self, number: u64, mut expected: ExpectedRevision) -> Result<Option<u64>, ProbeError> {
        let mut waits = 0;
        let mut give_up_at = None;
        loop {
            if *self.stopped.borrow() {
                let at = *give_up_at.get_or_insert_with(|| Instant::now() + LAST_WORD);
                if Instant::now() >= at {
                    return Ok(None);
                }
            }
            let fault = match self.generations.current().await {
                Ok(generation) => match self.try_once(&generation, number, expected).await {
                    Ok(Tried::Stands(revision)) => {
                        self.generations.worked();
                        return Ok(Some(revision));
                    }
                    // Whatever stands there is not ours: what was acknowledged may be gone. The count at the end tells.
                    Ok(Tried::Elsewhere(last)) => {
                        tracing::error!(number, ?last, "the probe's stream does not end with its last event");
                        expected = last.map_or(ExpectedRevision::NoStream, ExpectedRevision::Exact);
                        None
                    }
                    Err(fault) => Some((generation.number, fault)),
                },
                Err(fault) => Some((0, fault)),
            };
            if let Some((generation, fault)) = fault {
                let verdict = fault.verdict();
                tracing::debug!(number, text = %verdict.text, "the probe's append failed");
                if verdict.outcome == Outcome::Refused {
                    return Err(ProbeError::Refused { number, found: verdict.text });
                }
                waits += 1;
                if verdict.renew || waits >= PATIENCE {
                    waits = 0;
                    self.generations.retire(generation, &verdict.text).await;
                }
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    async fn try_once(
        &self,
        generation: &super::generation::Generation,
        number: u64,
        expected: ExpectedRevision,
    ) -> Result<Tried, Fault> {
        let id = probe_id(&self.stream, number);
        let event = EventData::json(PROBE_EVENT, &ProbeEvent { number })
            .map_err(|e| Fault::NoClient(format!("the probe's event is no JSON: {e}")))?
            .id(id);
        let credentials = self.credentials.as_ref().map(to_crate);
        let mut options = AppendToStreamOptions::default().expected_revision(expected);
        if let Some(credentials) = credentials.clone() {
            options = options.authenticated(credentials);
        }
        let stream = self.stream.0.clone();
        let sent = generation
            .run(Instant::now() + TRY_TIME, move |client: Client| async move {
                client.append_to_stream(stream, &options, event).await
            })
            .await;
        match sent {
            Ok(written) => return Ok(Tried::Stands(written.next_expected_version)),
            Err(fault) if fault.verdict().outcome == Outcome::Conflict => {}
            Err(fault) => return Err(fault),
        }
        // An earlier try may have been written although no answer came: then the last event is this one.
        let (stream, options) = (self.stream.0.clone(), stream_options(StreamPosition::End, 1, credentials));
        let last = generation
            .run(Instant::now() + TRY_TIME, move |client: Client| async move {
                read_stream(&client, &stream, &options).await
            })
            .await?;
        Ok(match last.first() {
            Some(event) if event.id == id => Tried::Stands(event.revision.0),
            Some(event) => Tried::Elsewhere(Some(event.revision.0)),
            None => Tried::Elsewhere(None),
        })
    }
}
