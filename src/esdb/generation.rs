//! Clients that can be thrown away.
//!
//! A client of the crate never leaves a node that died, is dead for good after one failed connect, and its tasks outlive it.
//! So each gets a runtime of its own (a *generation*), on which its calls run as well, and is replaced with all it holds:
//! what it leaked, spins on or panicked in goes with the runtime.

use std::future::Future;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use eventstore::{Client, ClientSettings};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::error::Fault;
use super::runtime::Aside;

/// Pause before the first replacement of a client that worked.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause between replacements: half of what an election takes, so that a new leader is found soon.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// One client and the runtime on which all that it does runs.
pub(super) struct Generation {
    pub(super) number: u64,
    client: Client,
    runtime: Aside,
}

impl Generation {
    fn start(number: u64, settings: ClientSettings) -> Result<Self, Fault> {
        let runtime =
            Aside::new("esdb-client").map_err(|e| Fault::NoClient(format!("no runtime for the client: {e}")))?;
        let client = Client::with_runtime_handle(runtime.handle.clone(), settings).map_err(Fault::Client)?;
        Ok(Self { number, client, runtime })
    }

    /// Runs one call until it ends or `until` comes. What is given up is aborted, but the server may still do it.
    pub(super) async fn run<T, F, Fut>(&self, until: Instant, call: F) -> Result<T, Fault>
    where
        F: FnOnce(Client) -> Fut,
        Fut: Future<Output = eventstore::Result<T>> + Send + 'static,
        T: Send + 'static,
    {
        // A join set aborts what it holds when it is dropped, so a caller that is dropped leaves nothing behind.
        let mut task = JoinSet::new();
        task.spawn_on(call(self.client.clone()), &self.runtime.handle);
        match timeout_at(until, task.join_next()).await {
            Err(_) => Err(Fault::TimedOut),
            Ok(Some(Ok(result))) => result.map_err(Fault::Client),
            Ok(Some(Err(_)) | None) => Err(Fault::Panicked),
        }
    }
}

struct Current {
    generation: Option<Arc<Generation>>,
    next_number: u64,
    not_before: Option<Instant>,
}

/// The client in use, and its successors.
pub(super) struct Generations {
    settings: ClientSettings,
    current: Mutex<Current>,
    /// Replacements since a call last succeeded.
    failures: AtomicU32,
    /// How often a client was given up.
    retired: watch::Sender<u64>,
}

impl Generations {
    pub(super) fn new(settings: ClientSettings) -> Self {
        Self {
            settings,
            current: Mutex::new(Current { generation: None, next_number: 1, not_before: None }),
            failures: AtomicU32::new(0),
            retired: watch::Sender::new(0),
        }
    }

    pub(super) fn settings(&self) -> &ClientSettings {
        &self.settings
    }

    /// Changes whenever a client is given up.
    pub(super) fn retirements(&self) -> watch::Receiver<u64> {
        self.retired.subscribe()
    }

    /// The client in use; made anew if the last was given up, after the pause. One caller makes it, the others wait here.
    pub(super) async fn current(&self) -> Result<Arc<Generation>, Fault> {
        let mut current = loop {
            let current = self.current.lock().await;
            if let Some(generation) = &current.generation {
                return Ok(generation.clone());
            }
            match current.not_before.filter(|at| *at > Instant::now()) {
                None => break current,
                Some(at) => {
                    // Not under the lock: others must be able to fail in time.
                    drop(current);
                    sleep_until(at).await;
                }
            }
        };
        let generation = Arc::new(Generation::start(current.next_number, self.settings.clone())?);
        current.next_number += 1;
        current.generation = Some(generation.clone());
        Ok(generation)
    }

    /// Gives up the client with this number, if it is still in use.
    pub(super) async fn retire(&self, number: u64, why: &str) {
        let mut current = self.current.lock().await;
        if current.generation.as_ref().is_none_or(|g| g.number != number) {
            return;
        }
        current.generation = None;
        let pause = pause(self.failures.fetch_add(1, Ordering::Relaxed));
        current.not_before = Some(Instant::now() + pause);
        tracing::info!(generation = number, why, pause_ms = pause.as_millis(), "the store's client is given up");
        self.retired.send_modify(|count| *count += 1);
    }

    /// A call succeeded: the next replacement, if any, comes soon.
    pub(super) fn worked(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }
}

/// The pause before replacement number `failures` (from 0): doubling, and between half and all of that, at random, so that
/// workers which lost the same leader do not come back at once.
pub(super) fn pause(failures: u32) -> Duration {
    let full = FIRST_PAUSE.saturating_mul(1 << failures.min(8)).min(LONGEST_PAUSE);
    // A hasher with fresh keys is the standard library's only source of randomness.
    let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
    full / 2 + (full / 2).mul_f64((random % 1024) as f64 / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::esdb::connection::{Ask, Target};

    fn closed_port() -> u16 {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        for failures in 0..40 {
            let full = (FIRST_PAUSE * 2u32.pow(failures.min(8))).min(LONGEST_PAUSE);
            let pause = pause(failures);
            assert!(pause >= full / 2 && pause <= full, "{failures}: {pause:?}");
        }
    }

    /// The crate installs the process's rustls provider itself, once, and poisons itself if one is there already: then every
    /// call is `ConnectionClosed`. A refused connection is not.
    #[tokio::test]
    async fn a_client_against_a_closed_port_is_not_poisoned() {
        let target = Target::parse(&format!("esdb://127.0.0.1:{}?tls=false", closed_port())).unwrap();
        let generations = Generations::new(target.settings(Ask::Leader).unwrap());
        for round in 1..=2u64 {
            let generation = generations.current().await.map_err(|f| f.verdict().text).unwrap();
            assert_eq!(generation.number, round);
            let until = Instant::now() + Duration::from_secs(5);
            let fault = generation.run(until, |client| async move { client.server_info().await }).await.unwrap_err();
            assert!(
                matches!(fault, Fault::Client(eventstore::Error::GrpcConnectionError(_))),
                "round {round}: {fault:?}"
            );
            assert!(fault.verdict().renew);
            generations.retire(generation.number, "test").await;
            generations.retire(generation.number, "a second time changes nothing").await;
        }
        assert_eq!(*generations.retirements().borrow(), 2);
    }

    /// The crate panics, in the background, on roots that it cannot take: those that pass our check must suit it.
    #[tokio::test]
    async fn a_client_takes_the_roots_that_were_checked() {
        let config = crate::esdb::StoreConfig {
            connection: format!("esdb://127.0.0.1:{}", closed_port()),
            ca_file: Some(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/recorded/test-ca.pem").into()),
            ..Default::default()
        };
        let target = Target::of(&config).unwrap();
        let generation =
            Generation::start(1, target.settings(Ask::Leader).unwrap()).map_err(|f| f.verdict().text).unwrap();
        let until = Instant::now() + Duration::from_secs(5);
        let fault = generation.run(until, |client| async move { client.server_info().await }).await.unwrap_err();
        assert!(matches!(fault, Fault::Client(eventstore::Error::GrpcConnectionError(_))), "{fault:?}");
    }

    #[tokio::test]
    async fn calls_that_hang_or_panic_end() {
        let target = Target::parse("esdb://127.0.0.1:1?tls=false").unwrap();
        let generation =
            Generation::start(1, target.settings(Ask::Leader).unwrap()).map_err(|f| f.verdict().text).unwrap();
        let until = || Instant::now() + Duration::from_millis(50);
        let hung = generation.run(until(), |_| std::future::pending::<eventstore::Result<()>>()).await;
        assert!(matches!(hung, Err(Fault::TimedOut)));
        let panicked = generation.run(until(), |_| async { std::panic::resume_unwind(Box::new("as the crate does")) });
        let panicked: Result<(), Fault> = panicked.await;
        assert!(matches!(panicked, Err(Fault::Panicked)));
    }
}
