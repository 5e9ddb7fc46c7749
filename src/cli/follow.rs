//! Follows an update until its verdict stands: what `watch` and `start --wait` share.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::failure::Failure;
use crate::cli::heard::Pulse;
use crate::cli::store::{Followed, awaited_turn};
use crate::cli::{Output, note, print};
use crate::domain::ids::{NodeName, UpdateId};
use crate::domain::time::Moment;
use crate::exit::Exit;
use crate::lease::HEARTBEAT_EVERY;
use crate::ports::{Clock, EventLog, ReadError};
use crate::update::event::NodeResult;
use crate::views::plain;
use crate::views::progress::Progress;
use crate::views::timeline::Line;
use crate::views::why::{NO_WORKER, Why};

/// The stream is read on this often.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// After this long without a worker, the person is told.
const WORKER_HEARD_WITHIN: Duration = Duration::from_secs(10);

/// The store may be the cluster in hand, and be without a leader for a while; longer than this is no election.
const STORE_PATIENCE: Duration = Duration::from_secs(60);

/// How to follow.
#[derive(Clone, Copy, Debug)]
pub struct Follow {
    /// Which update.
    pub update: UpdateId,
    /// For how long at most.
    pub timeout: Option<Duration>,
    /// Whether to go on while it waits for a person.
    pub stay: bool,
    /// How the end is printed.
    pub output: Output,
    /// Whether events are the command's data (and go to stdout), or by the way (and go to stderr).
    pub events_are_data: bool,
}

/// Follows an update to its verdict, prints where it is then, and gives the exit code.
pub async fn follow(log: &dyn EventLog, clock: &dyn Clock, how: Follow) -> Result<Exit, Failure> {
    let began = clock.now();
    let mut interrupt = signal(SignalKind::interrupt())
        .map_err(|e| Failure::other(anyhow::Error::new(e).context("cannot listen for signals")))?;
    let mut followed = Followed::read(log, clock, how.update).await?;
    let mut display = Display::new(how);
    let mut shown = 0;
    let mut warned = false;
    let mut away = Away::default();
    let mut turn = Turn::default();
    let mut ears = Ears::default();
    let exit = loop {
        for recorded in followed.history.iter().skip(shown) {
            display.event(&Line::of(recorded))?;
        }
        shown = followed.history.len();
        let mut progress = followed.progress(clock);
        if let Some(why) = turn.look(log, clock, &followed).await {
            if turn.is_news(&why) {
                display.note(&plain(&why.line()));
            }
            progress.waiting = Some(why);
        }
        progress.worker_silent_seconds = ears.listen(log, clock, &followed).await;
        if let Some(news) = ears.news(&progress) {
            display.note(&news);
        }
        display.progress(&progress);
        match Exit::of(&followed.state) {
            Some(Exit::Waiting) if how.stay => {}
            Some(exit) => break exit,
            None => {}
        }
        let passed = clock.now().since(began);
        if how.timeout.is_some_and(|limit| passed >= limit) {
            break Exit::TimedOut;
        }
        if !warned && passed >= WORKER_HEARD_WITHIN && followed.state.holder.is_none() && !turn.waits() {
            warned = true;
            display.note(&format!(
                "no worker has been heard for {} s: see that `esdb-rollout worker` runs, on this store, with this cluster in its configuration",
                WORKER_HEARD_WITHIN.as_secs()
            ));
        }
        let left = how.timeout.map_or(LOOK_EVERY, |limit| LOOK_EVERY.min(limit.saturating_sub(passed)));
        tokio::select! {
            () = tokio::time::sleep(left.max(Duration::from_millis(1))) => {}
            Some(()) = interrupt.recv() => break Exit::Interrupted,
        }
        let asked = clock.now();
        match followed.read_on(log, clock).await {
            Ok(_) => {
                if away.back() {
                    display.note("the store answers again");
                }
            }
            Err(error) => away.lost(error, asked, clock.now(), &display)?,
        }
    };
    display.finish();
    let mut progress = followed.progress(clock);
    if let Some(why) = turn.look(log, clock, &followed).await {
        progress.waiting = Some(why);
    }
    progress.worker_silent_seconds = ears.listen(log, clock, &followed).await;
    show(&progress, how.output)?;
    if exit == Exit::Interrupted {
        note(&format!("interrupted; the update goes on: esdb-rollout watch {}", how.update));
    } else if exit == Exit::TimedOut {
        note(&format!("--timeout has passed; the update goes on: esdb-rollout watch {}", how.update));
    } else if exit == Exit::Other {
        note("its history cannot be followed any further; a newer version of this program may have written it");
    }
    Ok(exit)
}

/// Prints where an update is.
pub fn show(progress: &Progress, output: Output) -> Result<(), Failure> {
    match output {
        Output::Table => print(&progress.to_string()),
        Output::Json => print(&serde_json::to_string(progress).map_err(Failure::other)?),
    }
}

/// Listens to the worker that holds the update.
#[derive(Default)]
struct Ears {
    pulse: Option<Pulse>,
    looked: Option<Moment>,
    told: bool,
}

impl Ears {
    /// For how many seconds it has been silent, if it is.
    async fn listen(&mut self, log: &dyn EventLog, clock: &dyn Clock, followed: &Followed) -> Option<f64> {
        let now = clock.now();
        let holder = followed.state.holder.as_ref().filter(|_| followed.state.end.is_none());
        let Some(holder) = holder else {
            self.pulse = None;
            return None;
        };
        if self.pulse.as_ref().is_none_or(|pulse| !pulse.is_of(holder)) {
            (self.pulse, self.looked) = (Some(Pulse::of(holder, now)), None);
        }
        let pulse = self.pulse.as_mut()?;
        if self.looked.is_none_or(|at| now.since(at) >= HEARTBEAT_EVERY) {
            self.looked = Some(now);
            pulse.look(log, clock).await;
        }
        pulse.silent(clock.now())
    }

    /// What is said when it falls silent, and when it is heard again or another one has taken over.
    fn news(&mut self, progress: &Progress) -> Option<String> {
        let silence = progress.silence();
        let was = std::mem::replace(&mut self.told, silence.is_some());
        match silence {
            Some(silence) => (!was).then_some(silence),
            None if was && progress.verdict == "running" => Some("a worker that holds it is heard".to_owned()),
            None => None,
        }
    }
}

/// What a request waits for that supersedes another update.
#[derive(Default)]
struct Turn {
    seen: Option<Why>,
    /// The words of what was last told: numbers change all the time.
    told: Vec<String>,
}

impl Turn {
    async fn look(&mut self, log: &dyn EventLog, clock: &dyn Clock, followed: &Followed) -> Option<Why> {
        match awaited_turn(log, clock, followed.update, &followed.state).await {
            Ok(why) => self.seen = why,
            // The update's own stream is read as well: there it is told for how long the store has been away.
            Err(error) => tracing::debug!(%error, "what it waits for cannot be read"),
        }
        self.seen.clone()
    }

    fn waits(&self) -> bool {
        self.seen.as_ref().is_some_and(|why| why.code != NO_WORKER)
    }

    fn is_news(&mut self, why: &Why) -> bool {
        let line = why.line();
        let words = line.split(' ').filter(|word| !word.contains(|c: char| c.is_ascii_digit()));
        let words: Vec<String> = words.map(str::to_owned).collect();
        let news = why.code != NO_WORKER && words != self.told;
        if news {
            self.told = words;
        }
        news
    }
}

/// The store's silence, as this process experiences it.
#[derive(Default)]
struct Away {
    since: Option<Moment>,
}

impl Away {
    fn back(&mut self) -> bool {
        self.since.take().is_some()
    }

    fn lost(&mut self, error: ReadError, asked: Moment, now: Moment, display: &Display) -> Result<(), Failure> {
        if let ReadError::Denied { .. } | ReadError::Refused { .. } = error {
            return Err(Failure::from(error));
        }
        match self.since {
            None => {
                self.since = Some(asked);
                display.note(&format!("{error}; still trying"));
                Ok(())
            }
            Some(since) if now.since(since) < STORE_PATIENCE => Ok(()),
            Some(since) => {
                let what = format!("the store has not answered for {} s", now.since(since).as_secs());
                Err(Failure::from(error).during(what))
            }
        }
    }
}

/// Where the events and the state of the nodes are shown meanwhile.
enum Display {
    /// One line for the whole, one for what it waits for, and one a node, kept up to date.
    Live { area: MultiProgress, whole: ProgressBar, waiting: ProgressBar, nodes: BTreeMap<NodeName, ProgressBar> },
    /// One line an event.
    Lines { data: bool },
}

fn bar(template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner());
    ProgressBar::new_spinner().with_style(style)
}

impl Display {
    fn new(how: Follow) -> Self {
        let people = std::io::stderr().is_terminal() && std::io::stdout().is_terminal();
        if people && how.output == Output::Table {
            let area = MultiProgress::new();
            let whole = area.add(bar("{spinner} {wide_msg}"));
            whole.enable_steady_tick(Duration::from_millis(120));
            let waiting = area.add(bar("  {wide_msg}"));
            Self::Live { area, whole, waiting, nodes: BTreeMap::new() }
        } else {
            Self::Lines { data: how.events_are_data && how.output == Output::Table }
        }
    }

    fn event(&self, line: &Line) -> Result<(), Failure> {
        match self {
            Self::Live { .. } => Ok(()),
            Self::Lines { data: true } => print(&line.to_string()),
            Self::Lines { data: false } => {
                note(&line.to_string());
                Ok(())
            }
        }
    }

    fn progress(&mut self, progress: &Progress) {
        let Self::Live { area, whole, waiting, nodes } = self else { return };
        whole.set_message(progress.headline());
        let waits = progress.waiting.as_ref().map(|w| plain(&w.line()));
        waiting.set_message(progress.silence().or(waits).unwrap_or_default());
        waiting.tick();
        for node in &progress.nodes {
            let line = nodes.entry(node.name.clone()).or_insert_with(|| area.add(bar("  {prefix} {wide_msg}")));
            let mark = match node.result {
                NodeResult::Updated | NodeResult::Skipped => '✓',
                NodeResult::RolledBack | NodeResult::Failed => '✗',
                NodeResult::Pending if progress.in_hand.as_ref() == Some(&node.name) => '▶',
                NodeResult::Pending => '·',
            };
            line.set_prefix(format!("{mark} {:<12}", plain(node.name.as_str())));
            line.set_message(node.line());
            line.tick();
        }
    }

    fn note(&self, text: &str) {
        match self {
            // An error here means that the terminal has gone, and with it whoever could be told.
            Self::Live { area, .. } => drop(area.println(text)),
            Self::Lines { .. } => note(text),
        }
    }

    fn finish(&self) {
        if let Self::Live { area, whole, waiting, nodes } = self {
            whole.finish_and_clear();
            waiting.finish_and_clear();
            nodes.values().for_each(ProgressBar::finish_and_clear);
            drop(area.clear());
        }
    }
}
