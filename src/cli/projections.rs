//! `projections`: the files of `projections/` in the store's own engine.

use clap::{Args, Subcommand};
use serde_json::json;

use crate::cli::failure::Failure;
use crate::cli::{Output, note, print};
use crate::esdb::{ProjectionStatus, Projections, ProjectionsError, ProjectionsLeader};
use crate::exit::Exit;
use crate::views::{columns, plain};

/// A projection that this program brings along.
struct Ours {
    name: &'static str,
    text: &'static str,
    emit: bool,
}

/// The projection that `list` asks.
pub const UPDATE_STATE: &str = "esdb-rollout-update-state";

const OURS: [Ours; 2] = [
    Ours { name: UPDATE_STATE, text: include_str!("../../projections/update-state.js"), emit: false },
    Ours {
        name: "esdb-rollout-cluster-updates",
        text: include_str!("../../projections/cluster-updates.js"),
        emit: true,
    },
];

/// The system projection whose streams ours read.
const BY_CATEGORY: &str = "$by_category";

/// Options of `projections`.
#[derive(Args, Debug)]
pub struct ProjectionsArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ProjectionsCommand,
}

/// What to do with the projections.
#[derive(Debug, Subcommand)]
pub enum ProjectionsCommand {
    /// Create the projections in the store, or bring them up to date
    #[command(after_help = "\
esdb-rollout-update-state keeps the state of every update; `list` asks it. esdb-rollout-cluster-updates keeps the active update and the
last result of every cluster, and links its requests, acceptances and ends into the stream clusterUpdates-{cluster}.

What is as it should be is left alone. A projection whose text has changed is stopped, changed, reset and started: it begins anew, and the
links that it has written stand twice from then on.

Both read $ce-clusterUpdate, which the system projection $by_category writes. It is not started by this command, which says so if it does
not run: in a store with many events that is a decision of its own. The user must be in $admins or $ops.")]
    Deploy(OutputArgs),
    /// Show the projections' states and positions, a faulted one with its reason; exit code 1 if one of ours is faulted or missing
    Status(OutputArgs),
}

/// How the command prints.
#[derive(Args, Debug)]
pub struct OutputArgs {
    /// How it is printed; json: one projection a line
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

impl From<ProjectionsError> for Failure {
    fn from(error: ProjectionsError) -> Self {
        match error {
            ProjectionsError::NoLeader { .. } | ProjectionsError::Node(_) => Self::unreachable(error),
            ProjectionsError::Off => Self::refused(error),
            ProjectionsError::Refused { .. } => Self::other(anyhow::anyhow!("{error}")),
        }
    }
}

/// One line of what is printed.
struct Row {
    name: &'static str,
    action: Option<&'static str>,
    status: Option<ProjectionStatus>,
}

/// Does what the command says.
pub async fn run(args: &ProjectionsArgs, projections: &Projections) -> Result<Exit, Failure> {
    let leader = projections.leader().await?;
    match &args.command {
        ProjectionsCommand::Deploy(args) => {
            let mut rows = Vec::new();
            for ours in &OURS {
                let action = deploy(&leader, ours).await.map_err(|e| e.during(format!("deploying {}", ours.name)))?;
                rows.push(Row { name: ours.name, action: Some(action), status: leader.status(ours.name).await? });
            }
            show(&rows, args.output)?;
            let sound = rows.iter().all(Row::is_sound);
            let categories = leader.status(BY_CATEGORY).await?;
            tell_about_categories(categories.as_ref());
            Ok(if sound { Exit::Completed } else { Exit::Other })
        }
        ProjectionsCommand::Status(args) => {
            let mut rows = Vec::new();
            for name in OURS.iter().map(|ours| ours.name).chain([BY_CATEGORY]) {
                rows.push(Row { name, action: None, status: leader.status(name).await? });
            }
            show(&rows, args.output)?;
            tell_about_categories(rows.last().and_then(|row| row.status.as_ref()));
            let sound = rows.iter().all(Row::is_sound);
            Ok(if sound { Exit::Completed } else { Exit::Other })
        }
    }
}

/// Brings one projection up to date, and says what that took.
async fn deploy(leader: &ProjectionsLeader, ours: &Ours) -> Result<&'static str, Failure> {
    let Ours { name, text, emit } = *ours;
    let Some(found) = leader.text(name).await? else {
        leader.create(name, text).await?;
        if emit {
            // One that was just created may not emit, and is faulted by the first event that lets it.
            leader.update(name, text, true).await?;
            leader.enable(name).await?;
        }
        return Ok("created");
    };
    if found.text != text {
        leader.disable(name).await?;
        // Should this end before the reset that follows: no state of the old text may pass for one of the new. A text that cannot be
        // loaded has none.
        if leader.status(name).await?.is_some_and(|status| !status.is_faulted()) {
            leader.reset(name).await?;
        }
        leader.update(name, text, emit).await?;
        leader.reset(name).await?;
        leader.enable(name).await?;
        return Ok("changed");
    }
    if found.emit != emit {
        leader.update(name, text, emit).await?;
        leader.enable(name).await?;
        return Ok("allowed to emit");
    }
    match leader.status(name).await? {
        Some(status) if status.is_stopped() || status.is_faulted() => {
            // Perhaps somebody stopped it, perhaps a deployment ended after its text was changed and before the states of the old one were
            // forgotten. What writes nothing loses nothing by beginning anew.
            if status.is_stopped() && !emit {
                leader.reset(name).await?;
            }
            leader.enable(name).await?;
            Ok("started")
        }
        Some(_) | None => Ok("unchanged"),
    }
}

fn tell_about_categories(status: Option<&ProjectionStatus>) {
    if status.is_some_and(ProjectionStatus::is_running) {
        return;
    }
    let found = status.map_or("not there", |s| s.status.as_str());
    note(&format!(
        "{BY_CATEGORY} is {}: until it runs, the projections see no new event, and `list` folds the streams. To start it, enable it in the \
         server's user interface, or start the nodes with StartStandardProjections",
        plain(found)
    ));
}

impl Row {
    fn is_sound(&self) -> bool {
        self.name == BY_CATEGORY || self.status.as_ref().is_some_and(|s| !s.is_faulted())
    }
}

fn show(rows: &[Row], output: Output) -> Result<(), Failure> {
    let word = |row: &Row| row.status.as_ref().map_or("missing", |s| s.status.as_str()).to_owned();
    if output == Output::Json {
        for row in rows {
            let status = row.status.as_ref();
            let mut line = json!({
                "name": row.name,
                "status": word(row),
                "position": status.map(|s| &s.position),
                "progress": status.map(|s| s.progress),
                "reason": status.map(|s| &s.reason).filter(|r| !r.is_empty()),
            });
            if let Some(action) = row.action {
                line["action"] = action.into();
            }
            print(&line.to_string())?;
        }
        return Ok(());
    }
    let acted = rows.iter().any(|row| row.action.is_some());
    let cells = |name: &str, action: &str, rest: [String; 3]| {
        let mut cells = vec![name.to_owned()];
        cells.extend(acted.then(|| action.to_owned()));
        cells.extend(rest);
        cells
    };
    let mut table = vec![cells("NAME", "DEPLOYED", ["STATUS", "PROGRESS", "POSITION"].map(String::from))];
    for row in rows {
        let progress = row.status.as_ref().map(|s| s.progress).filter(|p| *p >= 0.0);
        let position = row.status.as_ref().map(|s| s.position.clone()).unwrap_or_default();
        let progress = progress.map(|p| format!("{p:.0}%")).unwrap_or_default();
        table.push(cells(row.name, row.action.unwrap_or_default(), [word(row), progress, position]));
    }
    print(&columns(&table))?;
    for row in rows {
        if let Some(status) = row.status.as_ref().filter(|s| !s.reason.is_empty()) {
            let reason: Vec<&str> = status.reason.split_whitespace().collect();
            print(&format!("{}: {}", row.name, plain(&reason.join(" "))))?;
        }
    }
    Ok(())
}
