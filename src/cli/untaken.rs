//! Requests that no worker has taken. They stand in no admission stream, and only the whole log tells of them.

use std::time::Duration;

use crate::cli::failure::Failure;
use crate::cli::note;
use crate::cli::store::{Followed, admissions, unreadable};
use crate::domain::ids::{ClusterName, Revision, UPDATE_PREFIX, UpdateId};
use crate::ports::{Clock, EventLog, Feed, ReadError, StartFrom};
use crate::views::why::Why;
use crate::worker::checkpoint;

/// So long the log is read. A worker moves the checkpoint on, so that little is left to read where one runs.
const LOOK_FOR: Duration = Duration::from_secs(5);

/// What is looked for, as people are told.
const WHAT: &str = "requests that no worker has taken";

/// Requests that are looked at, the latest.
const LOOKED_AT_MAX: usize = 100;

/// The requests of these clusters that stand after the checkpoint and that no worker has taken or answered, the oldest first. Among
/// them are those that were admitted and wait for their turn.
pub async fn untaken(
    log: &dyn EventLog,
    clock: &dyn Clock,
    clusters: &[ClusterName],
) -> Result<Vec<Followed>, Failure> {
    let from = match checkpoint(log).await {
        Ok((_, Some(from))) => from,
        // Without a checkpoint nothing is obeyed, and `init` lists what stands in the log.
        Ok((_, None)) => return Ok(Vec::new()),
        Err(error) => return unreadable(error, format!("{WHAT}: the checkpoint")).map(|()| Vec::new()),
    };
    let mut asked: Vec<UpdateId> = Vec::new();
    let until = clock.now().after(LOOK_FOR);
    let mut feed = log.subscribe(StartFrom::After(from), &[UPDATE_PREFIX]).await;
    let unsaid = loop {
        match tokio::time::timeout(until.since(clock.now()), feed.recv()).await {
            Ok(Some(Feed::Event(event))) => {
                // What stands further on in a stream was asked for at its beginning.
                let update = UpdateId::from_stream(&event.stream).filter(|_| event.revision == Revision(0));
                asked.extend(update);
                if asked.len() > LOOKED_AT_MAX {
                    asked.remove(0);
                }
            }
            Ok(Some(Feed::Looked(_))) => {}
            Ok(Some(Feed::CaughtUp)) => break None,
            Ok(Some(Feed::Reconnecting(why))) => break Some(why),
            Ok(None) => break Some("the subscription ended".to_owned()),
            Err(_) => break Some(format!("the log was not read to its end within {} s", LOOK_FOR.as_secs())),
        }
    };
    if let Some(why) = unsaid {
        note(&format!("{WHAT} may be missing: {why}"));
    }
    let mut found = Vec::new();
    for update in asked {
        let mut followed = Followed::unread(update);
        if let Err(error) = followed.read_on(log, clock).await {
            unreadable(error, format!("{WHAT}: update {update}"))?;
            continue;
        }
        let of_these = clusters.iter().any(|cluster| followed.is_of(cluster));
        if of_these && followed.state.holder.is_none() && followed.state.end.is_none() {
            found.push(followed);
        }
    }
    Ok(found)
}

/// Says on stderr that no worker obeys requests in this store yet, where that is so.
pub async fn say_if_not_initialised(log: &dyn EventLog) {
    match checkpoint(log).await {
        Ok((_, Some(_))) => {}
        Ok((_, None)) => note(
            "this store was never initialised: no worker obeys what is asked for before `esdb-rollout init`, not even afterwards",
        ),
        Err(error) => tracing::debug!(%error, "whether the store was initialised cannot be read"),
    }
}

/// Why no worker will ever obey a request, as the checkpoint says; none where one may.
pub async fn never_obeyed(log: &dyn EventLog, followed: &Followed) -> Result<Option<Why>, Failure> {
    let Some(request) = followed.state.request.as_ref() else { return Ok(None) };
    if followed.state.holder.is_some() || followed.state.end.is_some() {
        return Ok(None);
    }
    let why = |code: &str, detail: &str, remedy: &str| Ok(Some(Why::new(code, detail).remedy(remedy)));
    let checkpoint = match checkpoint(log).await {
        Ok((_, checkpoint)) => checkpoint,
        Err(error @ (ReadError::Denied { .. } | ReadError::Refused { .. })) => {
            tracing::debug!(%error, "whether it will be obeyed cannot be read");
            return Ok(None);
        }
        Err(error @ ReadError::Unavailable { .. }) => {
            return Err(Failure::from(error).during("reading the checkpoint".to_owned()));
        }
    };
    let Some(checkpoint) = checkpoint else {
        return why(
            "storeNotInitialised",
            "no worker obeys requests in this store before `esdb-rollout init`",
            "run `esdb-rollout init` and a worker, then ask again: what stands there before is not obeyed",
        );
    };
    if admissions(log, &request.cluster).await?.ever.contains(&followed.update) {
        return Ok(None);
    }
    let first = log.read(&followed.update.stream(), Revision(0), 1).await;
    let first = first.map_err(|e| Failure::from(e).during(format!("reading update {}", followed.update)))?;
    if first.first().and_then(|event| event.position).is_some_and(|at| at <= checkpoint) {
        return why(
            "askedTooEarly",
            "it was asked for before the place in the log from which requests are obeyed, which `esdb-rollout init` set",
            "ask again",
        );
    }
    Ok(None)
}
