//! `watch`: follows an update to its end.

use std::time::Duration;

use clap::Args;

use crate::cli::failure::Failure;
use crate::cli::follow::{Follow, follow};
use crate::cli::{Output, duration, update_id};
use crate::domain::ids::UpdateId;
use crate::exit::{self, Exit};
use crate::ports::{Clock, EventLog};

/// Options of `watch`.
#[derive(Args, Debug)]
#[command(after_help = format!("\
On a terminal each node has a line that is kept up to date; else each event is a line. Ctrl-C ends the watching, not the update.

{JSON_HELP}

{}

Examples:
  esdb-rollout watch 6f1c2a34-5b6c-4d7e-8f90-a1b2c3d4e5f6
  esdb-rollout watch 6f1c2a34-5b6c-4d7e-8f90-a1b2c3d4e5f6 --timeout 2h --output json", exit::HELP))]
pub struct WatchArgs {
    /// The update
    #[arg(value_name = "ID", value_parser = update_id)]
    pub id: UpdateId,
    /// Give up after this long: 90, 15m, 2h
    #[arg(long, value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Go on while it is parked or waits for an approval, in place of ending with 7
    #[arg(long)]
    pub stay: bool,
    /// How the end is printed
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

/// The fields of `--output json`, for help texts.
pub const JSON_HELP: &str = "\
--output json prints one object on one line: verdict (completed, failed, cancelled, rejected, parked, running), update, cluster,
strategy, targetInstanceType, by, why, requestedAt, seconds, worker, paused, cancelling, inHand, nodes, elections, notRunning; where
they apply workerSilentSeconds (its worker was listened to and not heard: nobody acts), waiting {code, detail, numbers, remedy},
waivers[] {check, node, by, why, until}, code, remedy, reasons. Each of nodes: name, roleAtSelection, plannedRole, fromType, toType,
type, instance, address, phase, result (pending, skipped, updated, rolledBack, failed), leftIn, seconds {prepare, stop, modify,
start, rejoin, catchUp, total}.";

/// Follows an update to its end.
pub async fn run(args: WatchArgs, log: &dyn EventLog, clock: &dyn Clock) -> Result<Exit, Failure> {
    let WatchArgs { id, timeout, stay, output } = args;
    follow(log, clock, Follow { update: id, timeout, stay, output, events_are_data: true }).await
}
