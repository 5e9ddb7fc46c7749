//! The projections of a cluster by name, and what their manager does to them.

use std::collections::BTreeMap;

use serde_json::Value;
use uuid::Uuid;

use super::Fault;
use super::run::{Emitted, Run};
use super::script::Script;
use crate::sim::model::Record;

/// The system projections. Of them only `$by_category` has an effect here: projections over a category stand still while it does.
const SYSTEM: [&str; 5] = ["$by_category", "$by_correlation_id", "$by_event_type", "$stream_by_category", "$streams"];
const BY_CATEGORY: &str = "$by_category";

/// Why the manager did not do as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// There is no projection of that name.
    #[error("NotFound")]
    NotFound,
    /// There is one already.
    #[error("Conflict")]
    Conflict,
    /// Not in the state that it is in.
    #[error("OperationFailed: {0}")]
    OperationFailed(&'static str),
    /// Its text could not be loaded, so there is nothing to ask: the server's handler throws.
    #[error("its text cannot be loaded: {0}")]
    NotLoaded(String),
}

/// What a projection is about, as the server counts it.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// Its name.
    pub name: String,
    /// `Running`, `Stopped`, `Aborted` or `Faulted`, the last with ` (Enabled)` behind it where it was not disabled since.
    pub status: String,
    /// Why it is faulted.
    pub reason: String,
    /// How often it was changed or reset.
    pub version: i64,
    /// Where it is.
    pub position: String,
    /// The position when it was last stopped.
    pub checkpoint: String,
    /// Percent; −1 before its first event.
    pub progress: f32,
    /// Partitions that have a state; at least the root's.
    pub partitions: usize,
    /// Events since it was last started.
    pub processed: u64,
}

/// An event that a projection writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emission {
    /// Its id: the same however often it is written.
    pub id: Uuid,
    /// What is written, and where.
    pub event: Emitted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Running,
    Stopped,
    Aborted,
    Faulted,
}

#[derive(Debug)]
struct Entry {
    /// The how manieth it is that was created.
    number: u64,
    query: String,
    emit: bool,
    system: bool,
    enabled: bool,
    status: Status,
    reason: String,
    version: i64,
    /// What runs; the text's fault where it cannot be loaded.
    run: Result<Run, Fault>,
    /// Records of the log that it has passed.
    passed: usize,
    checkpoint: String,
    started_at: u64,
}

/// All projections of a cluster.
#[derive(Debug)]
pub struct Catalog {
    entries: BTreeMap<String, Entry>,
    /// Records of the log that `$by_category` has linked.
    categorised: usize,
    log: usize,
    emissions: Vec<Emission>,
    created: u64,
}

impl Default for Catalog {
    fn default() -> Self {
        Self::new()
    }
}

impl Catalog {
    /// The system projections alone, running.
    pub fn new() -> Catalog {
        let mut catalog =
            Catalog { entries: BTreeMap::new(), categorised: 0, log: 0, emissions: Vec::new(), created: 0 };
        for name in SYSTEM {
            let mut entry = Entry::load("", false, name);
            (entry.system, entry.status) = (true, Status::Running);
            catalog.entries.insert(name.to_owned(), entry);
        }
        catalog
    }

    /// Creates a continuous projection; it starts at once.
    ///
    /// # Errors
    /// The name is taken.
    pub fn create(&mut self, name: &str, query: &str, emit: bool) -> Result<(), CatalogError> {
        if self.entries.contains_key(name) {
            return Err(CatalogError::Conflict);
        }
        self.created += 1;
        let entry = Entry { number: self.created, ..Entry::load(query, emit, name) };
        self.entries.insert(name.to_owned(), entry);
        Ok(())
    }

    /// Gives a projection another text, and perhaps the right to emit. One that is faulted stays so until it is enabled.
    ///
    /// # Errors
    /// There is no such projection, or it is the server's own.
    pub fn update(&mut self, name: &str, query: &str, emit: Option<bool>) -> Result<(), CatalogError> {
        let entry = self.entry(name)?;
        if entry.system {
            return Err(CatalogError::OperationFailed("a system projection"));
        }
        entry.emit = emit.unwrap_or(entry.emit);
        entry.version += 1;
        if entry.query != query {
            // The states were made by another text; only a reset forgets them.
            let mut run = Script::load(query).map(|script| Run::new(name, script, false));
            if let (Ok(run), Ok(old)) = (&mut run, &mut entry.run) {
                run.take_over(old);
            }
            (entry.query, entry.run) = (query.to_owned(), run);
        }
        if let Ok(run) = &mut entry.run {
            run.allow_emit(entry.emit);
        }
        Ok(())
    }

    /// Starts a projection where it stopped.
    ///
    /// # Errors
    /// There is no such projection.
    pub fn enable(&mut self, name: &str) -> Result<(), CatalogError> {
        let entry = self.entry(name)?;
        entry.enabled = true;
        entry.reason.clear();
        entry.status = Status::Running;
        entry.started_at = entry.run.as_ref().map_or(0, Run::processed);
        Ok(())
    }

    /// Stops a projection, with a checkpoint or without.
    ///
    /// # Errors
    /// There is no such projection.
    pub fn disable(&mut self, name: &str, checkpoint: bool) -> Result<(), CatalogError> {
        let entry = self.entry(name)?;
        entry.enabled = false;
        entry.reason.clear();
        entry.status = if checkpoint { Status::Stopped } else { Status::Aborted };
        if let (true, Ok(run)) = (checkpoint, &entry.run) {
            entry.checkpoint = run.position();
        }
        Ok(())
    }

    /// Begins a projection anew; what it has written stays.
    ///
    /// # Errors
    /// There is no such projection.
    pub fn reset(&mut self, name: &str) -> Result<(), CatalogError> {
        let entry = self.entry(name)?;
        if entry.system {
            return Err(CatalogError::OperationFailed("a system projection"));
        }
        let fresh = Entry::load(&entry.query, entry.emit, name);
        let status = if entry.enabled { fresh.status } else { entry.status };
        *entry = Entry { number: entry.number, enabled: entry.enabled, version: entry.version + 1, status, ..fresh };
        Ok(())
    }

    /// Removes a projection that is disabled.
    ///
    /// # Errors
    /// There is no such projection, or it is enabled.
    pub fn delete(&mut self, name: &str) -> Result<(), CatalogError> {
        let entry = self.entry(name)?;
        if entry.enabled {
            return Err(CatalogError::OperationFailed("it is enabled"));
        }
        self.entries.remove(name);
        Ok(())
    }

    /// The text of a projection, and whether it may emit.
    pub fn query(&self, name: &str) -> Option<(&str, bool)> {
        self.entries.get(name).map(|e| (e.query.as_str(), e.emit))
    }

    /// Names of all projections.
    pub fn names(&self) -> Vec<String> {
        self.entries.keys().cloned().collect()
    }

    /// The state of a partition; nothing where it has none.
    ///
    /// # Errors
    /// There is no such projection, or its text cannot be loaded.
    pub fn state(&mut self, name: &str, partition: &str) -> Result<Option<Value>, CatalogError> {
        Ok(self.loaded(name)?.state(partition))
    }

    /// The result of a partition; nothing where it has none.
    ///
    /// # Errors
    /// There is no such projection, or its text cannot be loaded or threw.
    pub fn result(&mut self, name: &str, partition: &str) -> Result<Option<Value>, CatalogError> {
        self.loaded(name)?.result(partition).map_err(|Fault(why)| CatalogError::NotLoaded(why))
    }

    /// What a projection is about.
    ///
    /// # Errors
    /// There is no such projection, or its text cannot be loaded.
    pub fn statistics(&mut self, name: &str) -> Result<Statistics, CatalogError> {
        let (log, entry) = (self.log, self.entry(name)?);
        let run = match &entry.run {
            Ok(run) => Some(run),
            Err(_) if entry.system => None,
            Err(Fault(why)) => return Err(CatalogError::NotLoaded(why.clone())),
        };
        let status = match (entry.status, entry.enabled) {
            (Status::Running, _) => "Running",
            (Status::Stopped, _) => "Stopped",
            (Status::Aborted, _) => "Aborted/Stopped",
            (Status::Faulted, true) => "Faulted (Enabled)",
            (Status::Faulted, false) => "Faulted",
        };
        let processed = run.map_or(0, Run::processed);
        #[expect(clippy::cast_precision_loss, reason = "a share in percent")]
        let progress = match (processed, log) {
            (0, _) | (_, 0) if run.is_some() => -1.0,
            _ => entry.passed.min(log) as f32 * 100.0 / log.max(1) as f32,
        };
        Ok(Statistics {
            name: name.to_owned(),
            status: status.to_owned(),
            reason: entry.reason.clone(),
            version: entry.version,
            position: run.map(Run::position).unwrap_or_default(),
            checkpoint: entry.checkpoint.clone(),
            progress: if entry.system { 100.0 } else { progress },
            partitions: run.map_or(1, |r| r.partitions().count().max(1)),
            processed: processed - entry.started_at.min(processed),
        })
    }

    /// From which record of the log on [`Catalog::advance`] needs them; none if no projection waits for any.
    pub fn passed(&self) -> Option<usize> {
        let categories = self.categories_run();
        let running = self.entries.values().filter(|e| !e.system && e.status == Status::Running);
        running.filter(|e| categories || !e.reads_categories() || e.passed < self.categorised).map(|e| e.passed).min()
    }

    fn categories_run(&self) -> bool {
        self.entries.get(BY_CATEGORY).is_some_and(|e| e.status == Status::Running)
    }

    /// Takes the records of the log from number `from` on.
    pub fn advance(&mut self, from: usize, records: &[Record]) {
        self.log = self.log.max(from + records.len());
        if self.categories_run() {
            self.categorised = self.log;
        }
        for (name, entry) in self.entries.iter_mut().filter(|(_, e)| !e.system && e.status == Status::Running) {
            let end = if entry.reads_categories() { self.categorised } else { self.log };
            while entry.passed < end && entry.status == Status::Running {
                let Some(record) = entry.passed.checked_sub(from).and_then(|at| records.get(at)) else { break };
                self.emissions.extend(entry.take(name, record));
            }
        }
    }

    /// What was emitted since, in order.
    pub fn emissions(&mut self) -> Vec<Emission> {
        std::mem::take(&mut self.emissions)
    }

    fn entry(&mut self, name: &str) -> Result<&mut Entry, CatalogError> {
        self.entries.get_mut(name).ok_or(CatalogError::NotFound)
    }

    fn loaded(&mut self, name: &str) -> Result<&Run, CatalogError> {
        self.entry(name)?.run.as_ref().map_err(|Fault(why)| CatalogError::NotLoaded(why.clone()))
    }
}

impl Entry {
    fn load(query: &str, emit: bool, name: &str) -> Entry {
        let run = Script::load(query).map(|script| Run::new(name, script, emit));
        let checkpoint = run.as_ref().map(Run::position).unwrap_or_default();
        Entry {
            number: 0,
            query: query.to_owned(),
            emit,
            system: false,
            enabled: true,
            status: if run.is_ok() { Status::Running } else { Status::Faulted },
            reason: run.as_ref().err().map(|f| f.0.clone()).unwrap_or_default(),
            version: 0,
            run,
            passed: 0,
            checkpoint,
            started_at: 0,
        }
    }

    fn reads_categories(&self) -> bool {
        self.run.as_ref().is_ok_and(|run| {
            let d = run.definition();
            d.category.is_some() || d.streams.iter().any(|s| s.starts_with("$ce-"))
        })
    }

    fn take(&mut self, name: &str, record: &Record) -> Vec<Emission> {
        let Ok(run) = &mut self.run else {
            self.status = Status::Faulted;
            return Vec::new();
        };
        match run.process(record) {
            Ok(done) => {
                self.passed += 1;
                let version = self.version;
                let tag = format!("{}:-1:{version}:4", self.number);
                let number = |(i, mut event): (usize, Emitted)| {
                    event.metadata["$v"] = tag.clone().into();
                    let content = format!("{name} {version} {i} {}", event.stream);
                    Emission { id: Uuid::new_v5(&event.caused_by, content.as_bytes()), event }
                };
                done.emitted.into_iter().enumerate().map(number).collect()
            }
            Err(Fault(reason)) => {
                self.status = Status::Faulted;
                self.reason = reason;
                Vec::new()
            }
        }
    }
}
