//! The Projections service of the leader, and the one HTTP route that tells a projection's text.
//!
//! One catalog for the whole cluster stands for the checkpoints in its log: a new leader goes on where the old one was.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response as HttpResponse};
use axum::routing::get;
use futures::stream::{self, BoxStream};
use serde_json::json;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::proto::projections::create_req::options::Mode;
use super::proto::projections::statistics_req::options::Mode as Which;
use super::proto::projections::statistics_resp::Details;
use super::proto::projections::update_req::options::EmitOption;
use super::proto::projections::{
    CreateReq, CreateResp, DeleteReq, DeleteResp, DisableReq, DisableResp, EnableReq, EnableResp, ResetReq, ResetResp,
    ResultReq, ResultResp, StateReq, StateResp, StatisticsReq, StatisticsResp, UpdateReq, UpdateResp,
    projections_server,
};
use super::{Node, status, stop_asked};
use crate::sim::model::{ExpectedRevision, ProposedEvent, Write, WriteOutcome};
use crate::sim::projections::{Catalog, CatalogError, Emission, Statistics};
use crate::sim::world::SimWorld;

/// Rest before an event that the leader did not take is written again.
const WRITE_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// The projections of a cluster.
#[derive(Clone, Debug, Default)]
pub(super) struct Shared {
    catalog: Arc<Mutex<Catalog>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Catalog> {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The catalog, brought up to the end of the log.
    fn current(&self, world: &SimWorld) -> MutexGuard<'_, Catalog> {
        let mut catalog = self.lock();
        let (from, records) = world.with(|w| {
            let from = catalog.passed().unwrap_or_else(|| w.committed_len());
            (from, w.committed_from(from).cloned().collect::<Vec<_>>())
        });
        catalog.advance(from, &records);
        catalog
    }

    /// Runs the projections while the cluster is served, as far as there is a leader.
    pub(super) async fn drive(self, world: SimWorld, mut stopped: watch::Receiver<bool>) {
        let work = async {
            loop {
                let version = world.with(|w| w.version());
                if world.with(|w| w.leader()).is_some() {
                    let emissions = self.current(&world).emissions();
                    for emission in emissions {
                        write(&world, emission).await;
                    }
                }
                world.changed(version).await;
            }
        };
        tokio::select! {
            () = work => {}
            () = stop_asked(&mut stopped) => {}
        }
    }
}

/// Writes until it stands; with the same id, so once.
async fn write(world: &SimWorld, Emission { id, event }: Emission) {
    let proposed = ProposedEvent {
        id,
        event_type: event.event_type,
        is_json: event.is_json,
        data: event.data.into_bytes(),
        metadata: event.metadata.to_string().into_bytes(),
    };
    loop {
        if let Some(leader) = world.with(|w| w.leader()) {
            let append = Write::Append(vec![proposed.clone()]);
            match world.write(leader, true, &event.stream, ExpectedRevision::Any, append).await {
                WriteOutcome::Done { .. } => return,
                outcome @ (WriteOutcome::StreamDeleted
                | WriteOutcome::TooLarge
                | WriteOutcome::WrongExpectedVersion { .. }) => {
                    tracing::error!(?outcome, stream = event.stream, "a projection's event cannot be written");
                    return;
                }
                WriteOutcome::NotHandled(_) | WriteOutcome::TimedOut(_) => {}
            }
        }
        tokio::time::sleep(WRITE_AGAIN_AFTER).await;
    }
}

/// `GET /projection/{name}/query?config=yes`.
pub(super) fn router(node: Node) -> Router {
    Router::new().route("/projection/:name/query", get(query)).with_state(node)
}

async fn query(State(node): State<Node>, Path(name): Path<String>) -> HttpResponse {
    node.leads().await;
    let catalog = node.projections.lock();
    let Some((text, emit)) = catalog.query(&name) else {
        return (StatusCode::NOT_FOUND, "Not Found").into_response();
    };
    let body = json!({ "name": name, "query": text, "emitEnabled": emit });
    ([(CONTENT_TYPE, "application/json; charset=utf-8")], format!("{body:#}")).into_response()
}

/// An answer of the manager that the handler did not expect, as the server words it.
fn unexpected(node: &Node, name: &str, expected: &str, error: &CatalogError) -> Status {
    let received = match error {
        CatalogError::NotFound if node.version.at_least(24, 6) => {
            return Status::not_found(format!("Projection '{name}' not found"));
        }
        CatalogError::NotFound => "NotFound",
        CatalogError::Conflict => "Conflict",
        CatalogError::OperationFailed(_) => "OperationFailed",
        CatalogError::NotLoaded(_) => return status::handler_threw(),
    };
    Status::unknown(format!("Envelope callback expected {expected}, received {received} instead"))
}

impl Node {
    /// Returns on the leader. Elsewhere the manager is not started, and never answers.
    async fn leads(&self) {
        if self.world.with(|w| w.leader()) != Some(self.n) {
            std::future::pending::<()>().await;
        }
    }

    async fn manage(
        &self,
        name: String,
        act: impl FnOnce(&mut Catalog, &str) -> Result<(), CatalogError>,
    ) -> Result<(), Status> {
        self.leads().await;
        let done = act(&mut self.projections.current(&self.world), &name);
        done.map_err(|error| unexpected(self, &name, "Updated", &error))
    }
}

fn options<T>(options: Option<T>) -> Result<T, Status> {
    options.ok_or_else(status::handler_threw)
}

fn details(s: Statistics) -> StatisticsResp {
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    StatisticsResp {
        details: Some(Details {
            version: s.version,
            epoch: -1,
            effective_name: s.name.clone(),
            partitions_cached: count(s.partitions),
            status: s.status,
            state_reason: s.reason,
            name: s.name,
            mode: "Continuous".to_owned(),
            position: s.position,
            progress: s.progress,
            last_checkpoint: s.checkpoint,
            events_processed_after_restart: i64::try_from(s.processed).unwrap_or(i64::MAX),
            ..Details::default()
        }),
    }
}

/// A state as the service gives it: nothing is an empty structure.
fn value(found: Option<serde_json::Value>) -> prost_types::Value {
    converted(found.unwrap_or_else(|| json!({})))
}

fn converted(value: serde_json::Value) -> prost_types::Value {
    use prost_types::value::Kind;
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(b) => Kind::BoolValue(b),
        serde_json::Value::Number(n) => Kind::NumberValue(n.as_f64().unwrap_or(f64::NAN)),
        serde_json::Value::String(s) => Kind::StringValue(s),
        serde_json::Value::Array(list) => {
            Kind::ListValue(prost_types::ListValue { values: list.into_iter().map(converted).collect() })
        }
        serde_json::Value::Object(map) => {
            Kind::StructValue(prost_types::Struct { fields: map.into_iter().map(|(k, v)| (k, converted(v))).collect() })
        }
    };
    prost_types::Value { kind: Some(kind) }
}

#[tonic::async_trait]
impl projections_server::Projections for Node {
    type StatisticsStream = BoxStream<'static, Result<StatisticsResp, Status>>;

    async fn create(&self, request: Request<CreateReq>) -> Result<Response<CreateResp>, Status> {
        let asked = options(request.into_inner().options)?;
        let Some(Mode::Continuous(continuous)) = asked.mode else {
            return Err(Status::unimplemented("the simulated cluster knows continuous projections only"));
        };
        if continuous.track_emitted_streams {
            return Err(Status::unimplemented("the simulated cluster does not track emitted streams"));
        }
        let emit = continuous.emit_enabled;
        self.manage(continuous.name, |catalog, name| catalog.create(name, &asked.query, emit)).await?;
        Ok(Response::new(CreateResp {}))
    }

    async fn update(&self, request: Request<UpdateReq>) -> Result<Response<UpdateResp>, Status> {
        let asked = options(request.into_inner().options)?;
        let emit = match asked.emit_option {
            Some(EmitOption::EmitEnabled(emit)) => Some(emit),
            Some(EmitOption::NoEmitOptions(())) | None => None,
        };
        self.manage(asked.name, |catalog, name| catalog.update(name, &asked.query, emit)).await?;
        Ok(Response::new(UpdateResp {}))
    }

    async fn delete(&self, request: Request<DeleteReq>) -> Result<Response<DeleteResp>, Status> {
        self.manage(options(request.into_inner().options)?.name, Catalog::delete).await?;
        Ok(Response::new(DeleteResp {}))
    }

    async fn statistics(&self, request: Request<StatisticsReq>) -> Result<Response<Self::StatisticsStream>, Status> {
        let which = options(options(request.into_inner().options)?.mode)?;
        self.leads().await;
        let mut catalog = self.projections.current(&self.world);
        let names = match which {
            Which::Name(name) => vec![name],
            Which::All(()) | Which::Continuous(()) => catalog.names(),
            Which::Transient(()) | Which::OneTime(()) => Vec::new(),
        };
        let one = |name: String| {
            let found = catalog.statistics(&name);
            found.map(details).map_err(|error| unexpected(self, &name, "Statistics", &error))
        };
        let found: Vec<StatisticsResp> = names.into_iter().map(one).collect::<Result<_, _>>()?;
        Ok(Response::new(Box::pin(stream::iter(found.into_iter().map(Ok)))))
    }

    async fn disable(&self, request: Request<DisableReq>) -> Result<Response<DisableResp>, Status> {
        let asked = options(request.into_inner().options)?;
        self.manage(asked.name, |catalog, name| catalog.disable(name, asked.write_checkpoint)).await?;
        Ok(Response::new(DisableResp {}))
    }

    async fn enable(&self, request: Request<EnableReq>) -> Result<Response<EnableResp>, Status> {
        self.manage(options(request.into_inner().options)?.name, Catalog::enable).await?;
        Ok(Response::new(EnableResp {}))
    }

    async fn reset(&self, request: Request<ResetReq>) -> Result<Response<ResetResp>, Status> {
        self.manage(options(request.into_inner().options)?.name, Catalog::reset).await?;
        Ok(Response::new(ResetResp {}))
    }

    async fn state(&self, request: Request<StateReq>) -> Result<Response<StateResp>, Status> {
        let asked = options(request.into_inner().options)?;
        self.leads().await;
        let found = self.projections.current(&self.world).state(&asked.name, &asked.partition);
        let found = found.map_err(|error| unexpected(self, &asked.name, "ProjectionState", &error))?;
        Ok(Response::new(StateResp { state: Some(value(found)) }))
    }

    async fn result(&self, request: Request<ResultReq>) -> Result<Response<ResultResp>, Status> {
        let asked = options(request.into_inner().options)?;
        self.leads().await;
        let found = self.projections.current(&self.world).result(&asked.name, &asked.partition);
        let found = found.map_err(|error| unexpected(self, &asked.name, "ProjectionResult", &error))?;
        Ok(Response::new(ResultResp { result: Some(value(found)) }))
    }

    async fn restart_subsystem(&self, _: Request<()>) -> Result<Response<()>, Status> {
        Err(Status::unimplemented("the simulated cluster's projections cannot be restarted as a whole"))
    }
}
