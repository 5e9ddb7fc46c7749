//! What no real cluster does on demand: answers of the store, one by one, and what is left of the client's threads.
//! One test, since threads are counted for the whole process.
#![cfg(all(feature = "esdb", target_os = "linux"))]

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use esdb_rollout::domain::ids::{Revision, StreamName};
use esdb_rollout::esdb::{EventStoreLog, StoreConfig};
use esdb_rollout::ports::{AppendError, EventLog, Expected, Feed, NewEvent, StartFrom};
use esdb_rollout::sim::wire::proto::event_store::client::{StreamIdentifier, Uuid as WireUuid, uuid as wire_uuid};
use esdb_rollout::sim::wire::proto::streams::streams_server::{Streams, StreamsServer};
use esdb_rollout::sim::wire::proto::streams::{
    AppendReq, AppendResp, BatchAppendReq, BatchAppendResp, DeleteReq, DeleteResp, ReadReq, ReadResp, TombstoneReq,
    TombstoneResp, append_req, append_resp, read_req, read_resp,
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

type Responses<T> = Pin<Box<dyn futures::Stream<Item = Result<T, Status>> + Send>>;

/// What the server does with an append.
#[derive(Clone, Debug)]
enum Step {
    Fails(Status),
    Hangs,
    Conflicts,
    Succeeds(u64),
}

#[derive(Clone, Default)]
struct Script {
    steps: Arc<Mutex<VecDeque<Step>>>,
    /// Ids of the events of each append that came.
    appends: Arc<Mutex<Vec<Vec<String>>>>,
    /// Ids of the events that the stream holds from revision 5 on.
    holds: Arc<Mutex<Vec<Uuid>>>,
    subscriptions: Arc<Mutex<u32>>,
}

fn recorded(id: Uuid, revision: u64) -> read_resp::read_event::RecordedEvent {
    let metadata = [("type", "T"), ("content-type", "application/json"), ("created", "17000000001234567")];
    read_resp::read_event::RecordedEvent {
        id: Some(WireUuid { value: Some(wire_uuid::Value::String(id.to_string())) }),
        stream_identifier: Some(StreamIdentifier { stream_name: b"s".to_vec() }),
        stream_revision: revision,
        prepare_position: revision,
        commit_position: revision,
        metadata: metadata.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>(),
        custom_metadata: vec![],
        data: b"not json".to_vec(),
    }
}

#[tonic::async_trait]
impl Streams for Script {
    type ReadStream = Responses<ReadResp>;
    type BatchAppendStream = Responses<BatchAppendResp>;

    async fn read(&self, request: Request<ReadReq>) -> Result<Response<Self::ReadStream>, Status> {
        let options = request.into_inner().options.unwrap();
        let content = if matches!(options.count_option, Some(read_req::options::CountOption::Subscription(_))) {
            *self.subscriptions.lock().unwrap() += 1;
            // Then the end, with OK: the client library spins on that.
            vec![read_resp::Content::Confirmation(read_resp::SubscriptionConfirmation { subscription_id: "x".into() })]
        } else {
            let held = self.holds.lock().unwrap();
            let event = |(id, at): (&Uuid, u64)| {
                let event = read_resp::ReadEvent { event: Some(recorded(*id, at)), link: None, position: None };
                read_resp::Content::Event(event)
            };
            held.iter().zip(5..).map(event).collect()
        };
        let responses = content.into_iter().map(|content| Ok(ReadResp { content: Some(content) }));
        Ok(Response::new(Box::pin(futures::stream::iter(responses.collect::<Vec<_>>()))))
    }

    async fn append(&self, request: Request<Streaming<AppendReq>>) -> Result<Response<AppendResp>, Status> {
        let mut messages = request.into_inner();
        let mut ids = Vec::new();
        while let Some(message) = messages.message().await? {
            if let Some(append_req::Content::ProposedMessage(m)) = message.content {
                ids.push(format!("{:?}", m.id));
            }
        }
        self.appends.lock().unwrap().push(ids);
        let step = self.steps.lock().unwrap().pop_front();
        let result = match step {
            None => return Err(Status::unavailable("Server Is Not Ready")),
            Some(Step::Fails(status)) => return Err(status),
            Some(Step::Hangs) => std::future::pending().await,
            Some(Step::Succeeds(at)) => append_resp::Result::Success(append_resp::Success {
                current_revision_option: Some(append_resp::success::CurrentRevisionOption::CurrentRevision(at)),
                position_option: Some(append_resp::success::PositionOption::Position(append_resp::Position {
                    commit_position: 1,
                    prepare_position: 1,
                })),
            }),
            Some(Step::Conflicts) => append_resp::Result::WrongExpectedVersion(append_resp::WrongExpectedVersion {
                current_revision_option: Some(
                    append_resp::wrong_expected_version::CurrentRevisionOption::CurrentRevision(5),
                ),
                expected_revision_option: Some(
                    append_resp::wrong_expected_version::ExpectedRevisionOption::ExpectedRevision(4),
                ),
                ..Default::default()
            }),
        };
        Ok(Response::new(AppendResp { result: Some(result) }))
    }

    async fn delete(&self, _: Request<DeleteReq>) -> Result<Response<DeleteResp>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn tombstone(&self, _: Request<TombstoneReq>) -> Result<Response<TombstoneResp>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn batch_append(
        &self,
        _: Request<Streaming<BatchAppendReq>>,
    ) -> Result<Response<Self::BatchAppendStream>, Status> {
        Err(Status::unimplemented(""))
    }
}

fn threads(prefix: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    // A thread may end between the listing and the look.
    tasks
        .filter_map(|t| std::fs::read_to_string(t.ok()?.path().join("comm")).ok())
        .filter(|c| c.starts_with(prefix))
        .count()
}

async fn none_left(prefix: &str) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while threads(prefix) > 0 {
        assert!(Instant::now() < deadline, "{} threads {prefix} are left", threads(prefix));
        sleep(Duration::from_millis(50)).await;
    }
}

fn event(n: u128) -> NewEvent {
    NewEvent { id: Uuid::from_u128(n), event_type: "T".into(), data: json!({}), metadata: Value::Null }
}

#[tokio::test(flavor = "multi_thread")]
async fn scripted_answers() {
    let script = Script::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = axum::Router::new()
        .route_service("/event_store.client.streams.Streams/*method", StreamsServer::new(script.clone()));
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let log =
        EventStoreLog::new(StoreConfig { connection: format!("esdb://{address}?tls=false"), ..StoreConfig::default() })
            .unwrap();
    let (s, four) = (StreamName::from("s"), Expected::Exact(Revision(4)));
    let aborted = || Step::Fails(Status::aborted("Operation timed out: Request canceled by server"));

    // Unknown, then a conflict with what we sent ourselves: it was written.
    let (script, log) = (&script, &log);
    let (s, ours, other) = (&s, Uuid::from_u128(1), Uuid::from_u128(2));
    let run = |steps: Vec<Step>, holds: Vec<Uuid>| async move {
        *script.steps.lock().unwrap() = steps.into();
        *script.holds.lock().unwrap() = holds;
        script.appends.lock().unwrap().clear();
        let began = Instant::now();
        let result = log.append(s, four, vec![event(1)]).await;
        let sent = script.appends.lock().unwrap().clone();
        assert!(sent.iter().all(|ids| *ids == sent[0]), "the same ids each time: {sent:?}");
        assert!(began.elapsed() < Duration::from_millis(5800), "{:?}", began.elapsed());
        (result.map(|a| a.last.0), sent.len(), began.elapsed())
    };
    let conflict = Err(AppendError::Conflict { stream: s.clone() });

    let (result, tries, _) = run(vec![aborted(), Step::Conflicts], vec![ours]).await;
    assert_eq!((result, tries), (Ok(5), 2));
    let (result, tries, _) = run(vec![aborted(), Step::Conflicts], vec![other]).await;
    assert_eq!((result, tries), (conflict.clone(), 2));
    let (result, tries, _) = run(vec![Step::Conflicts], vec![ours]).await;
    assert_eq!((result, tries), (Ok(5), 1), "an earlier call's send counts as well");
    let (result, _, _) = run(vec![Step::Conflicts], vec![]).await;
    assert_eq!(result, conflict);
    let (result, tries, _) = run(vec![aborted(), Step::Succeeds(5)], vec![]).await;
    assert_eq!((result, tries), (Ok(5), 2));
    // A hung call is given up by our own time-out, and sent again by another client.
    let (result, tries, _) = run(vec![Step::Hangs, Step::Succeeds(5)], vec![]).await;
    assert_eq!((result, tries), (Ok(5), 2));
    // Nothing but "not ready": nothing was written, and that is said when time is over.
    let (result, tries, took) = run(vec![], vec![]).await;
    assert!(matches!(result, Err(AppendError::Unavailable { .. })), "{result:?}");
    assert!(tries > 5 && took > Duration::from_secs(4), "{tries} tries in {took:?}");
    // One unknown outcome stays unknown, whatever comes after it.
    let (result, _, _) = run(vec![aborted()], vec![]).await;
    assert!(matches!(result, Err(AppendError::Unknown { .. })), "{result:?}");
    let refusal = || Step::Fails(Status::invalid_argument("Maximum Append Size Exceeded"));
    let (result, tries, _) = run(vec![refusal()], vec![]).await;
    assert!(matches!(result, Err(AppendError::Refused { .. })) && tries == 1, "{result:?}");
    let (result, _, _) = run(vec![aborted(), refusal()], vec![]).await;
    assert!(matches!(result, Err(AppendError::Unknown { .. })), "{result:?}");
    let denied = || Step::Fails(Status::permission_denied("Access Denied"));
    let (result, tries, _) = run(vec![denied(), denied(), Step::Succeeds(5)], vec![]).await;
    assert_eq!((result, tries), (Ok(5), 3), "a node that starts denies for a while");
    let (result, tries, took) = run(vec![denied(), denied(), denied(), denied(), denied()], vec![]).await;
    assert!(
        matches!(result, Err(AppendError::Denied { .. })) && tries == 4 && took < Duration::from_secs(2),
        "{result:?}"
    );

    // Data that is no JSON, and the fraction of the second.
    *script.holds.lock().unwrap() = vec![ours];
    let read = log.read(s, Revision(5), 1).await.unwrap();
    assert_eq!((read[0].is_json, &read[0].data, &read[0].metadata), (false, &Value::Null, &Value::Null));
    assert_eq!(read[0].created, "2023-11-14T22:13:20.1234567Z".parse().unwrap());

    // A subscription that the server ends with OK is made anew, and leaves no thread that spins.
    let mut feed = log.subscribe(StartFrom::Beginning, &["x-"]).await;
    for _ in 0..3 {
        let item = timeout(Duration::from_secs(5), feed.recv()).await.expect("the end is noticed").unwrap();
        assert_eq!(item, Feed::Reconnecting("the server ended the subscription".into()));
    }
    assert!(*script.subscriptions.lock().unwrap() >= 3);
    assert!(threads("esdb-subscripti") <= 1, "one attempt at a time");
    drop(feed);
    none_left("esdb-subscripti").await;
    assert_eq!(threads("esdb-client"), 1, "one client is in use, those before it are gone");
}
