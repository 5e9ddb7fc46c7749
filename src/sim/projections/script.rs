//! One projection's text in a JavaScript engine.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rquickjs::function::IntoArgs;
use rquickjs::{CatchResultExt, CaughtError, Context, Ctx, FromJs, Function, Object, Runtime};
use serde::Deserialize;

use super::Fault;

/// The server's side of the conversation.
const RUNTIME: &str = include_str!("runtime.js");
/// Looks of the engine at its time limit, each after some ten thousand steps. The server allows 250 ms an event; counted in steps, the
/// limit does not depend on how busy this machine is.
const STEPS_MAX: u32 = 2_000;
/// Bytes that one projection's engine may hold.
const MEMORY_MAX: usize = 64 * 1024 * 1024;

/// Where a projection's events come from, and what becomes of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Definition {
    /// `fromAll`.
    pub all: bool,
    /// `fromCategory` of one category.
    pub category: Option<String>,
    /// `fromStream`, `fromStreams`, and `fromCategory` of several.
    pub streams: Vec<String>,
    /// `foreachStream`.
    pub by_stream: bool,
    /// `partitionBy`.
    pub custom: bool,
    /// Whether every type is handled.
    pub every_event: bool,
    /// Types that have handlers.
    pub types: Vec<String>,
    /// `reorderEvents`.
    pub reorder: bool,
    /// `processingLag`, milliseconds.
    pub lag: i64,
    /// `$includeLinks`.
    pub links: bool,
    /// Where results go.
    pub result_stream: Option<String>,
    /// Where a partition's results go.
    pub partition_result_pattern: Option<String>,
    /// Whether results are written.
    pub outputs: bool,
    /// Whether it handles deleted streams.
    pub deleted: bool,
    /// Whether it has a shared state.
    pub bi_state: bool,
    /// Whether it has handlers at all.
    pub folds: bool,
}

/// A text that was loaded.
pub struct Script {
    context: Context,
    steps: Arc<AtomicU32>,
    definition: Definition,
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script").field("definition", &self.definition).finish_non_exhaustive()
    }
}

impl Script {
    /// Loads a text.
    ///
    /// # Errors
    /// What the engine, or the server's reader, says against it.
    pub fn load(text: &str) -> Result<Script, Fault> {
        let engine = |error: rquickjs::Error| Fault(format!("the JavaScript engine cannot be set up: {error}"));
        let runtime = Runtime::new().map_err(engine)?;
        runtime.set_memory_limit(MEMORY_MAX);
        let steps = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&steps);
        runtime.set_interrupt_handler(Some(Box::new(move || counted.fetch_add(1, Ordering::Relaxed) >= STEPS_MAX)));
        let context = Context::full(&runtime).map_err(engine)?;
        context.with(|ctx| ctx.eval::<(), _>(RUNTIME).catch(&ctx).map_err(|e| said(&e)))?;
        context.with(|ctx| ctx.eval::<(), _>(text).catch(&ctx).map_err(|e| said(&e)))?;
        let mut script = Script { context, steps, definition: Definition::default() };
        let definition: String = script.call("loaded", ())?;
        script.definition = serde_json::from_str(&definition).map_err(|e| Fault(e.to_string()))?;
        if script.definition.bi_state {
            return Err(Fault("projections with a shared state are not simulated".to_owned()));
        }
        accept(&script.definition)?;
        Ok(script)
    }

    /// What it reads, and how.
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    /// The state of a partition before its first event, as JSON.
    pub(super) fn initial(&self) -> Result<Option<String>, Fault> {
        self.call("initial", ())
    }

    /// The partition of an event; none drops it.
    pub(super) fn partition(&self, event: &str) -> Result<Option<String>, Fault> {
        self.call("partition", (event,))
    }

    /// What `$created` emits.
    pub(super) fn created(&self, state: Option<&str>, event: &str) -> Result<String, Fault> {
        self.call("created", (state, event))
    }

    /// The state after an event and what was emitted, as JSON.
    pub(super) fn handle(&self, state: Option<&str>, event: &str) -> Result<String, Fault> {
        self.call("handle", (state, event))
    }

    /// What the state is turned into for results.
    pub(super) fn result(&self, state: Option<&str>) -> Result<Option<String>, Fault> {
        self.call("result", (state,))
    }

    fn call<A, R>(&self, what: &str, arguments: A) -> Result<R, Fault>
    where
        A: for<'js> IntoArgs<'js>,
        R: for<'js> FromJs<'js>,
    {
        self.steps.store(0, Ordering::Relaxed);
        self.context.with(|ctx: Ctx<'_>| {
            let called = (|| {
                let host: Object<'_> = ctx.globals().get("$host")?;
                let function: Function<'_> = host.get(what)?;
                function.call::<A, R>(arguments)
            })();
            called.catch(&ctx).map_err(|e| said(&e))
        })
    }
}

/// The message alone, as the server quotes it.
fn said(error: &CaughtError<'_>) -> Fault {
    Fault(match error {
        CaughtError::Exception(exception) => match exception.message() {
            Some(message) if message == "interrupted" => "Projection script took too long to execute".to_owned(),
            Some(message) => message,
            None => error.to_string(),
        },
        CaughtError::Value(value) => {
            value.as_string().and_then(|s| s.to_string().ok()).unwrap_or_else(|| format!("{value:?}"))
        }
        CaughtError::Error(error) => error.to_string(),
    })
}

/// What `ReaderStrategy.Create` refuses.
fn accept(d: &Definition) -> Result<(), Fault> {
    let sources = usize::from(d.all) + usize::from(d.category.is_some()) + usize::from(!d.streams.is_empty());
    let refusals = [
        (sources == 0, "None of streams and categories are specified"),
        (sources > 1, "Streams, categories and all streams cannot be combined"),
        (
            d.by_stream && !d.streams.is_empty(),
            "Partitioned (foreach) projections are not supported on stream based sources",
        ),
        (d.custom && d.by_stream, "Both custom and by-stream partitioning are set"),
        (d.every_event && !d.types.is_empty(), "Both AllEvents and specific event filters cannot be set"),
        (d.deleted && !d.by_stream, "Deleted stream notifications are only supported with foreachStream()"),
        (d.reorder && d.streams.len() < 2, "Event reordering is only available in fromStreams([]) projections"),
        (d.reorder && d.lag < 50, "Event reordering requires processing lag at least of 50ms"),
    ];
    refusals.iter().find(|(refused, _)| *refused).map_or(Ok(()), |(_, why)| Err(Fault((*why).to_owned())))
}
