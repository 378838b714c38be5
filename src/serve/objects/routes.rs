//! Which request leads where.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Response, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};

use crate::remote::protocol::{self, About, Capability, Code, LeftoversFound, Refusal};
use crate::serve::objects::access::Principal;
use crate::serve::objects::connections::Asker;
use crate::serve::objects::hosted::refuse;
use crate::serve::objects::metrics::add;
use crate::serve::objects::upload::Incoming;
use crate::serve::objects::{Admitted, Server, download, upload};
use crate::storage::{Class, Created, Name};

type RouteResult = Result<Response<Body>, Refusal>;
type ServerState = State<Arc<Server>>;
type Asked = Extension<Asker>;

/// The answer that is a refusal.
impl IntoResponse for Refusal {
    fn into_response(self) -> Response<Body> {
        let status = StatusCode::from_u16(self.error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = json(status, &self);
        // For who counts refusals.
        response.extensions_mut().insert(self.error);
        response
    }
}

/// The words of a path, as [`Path`] gives them. A path that is no text is refused as everything is.
struct Words<T>(T);

impl<S: Send + Sync, T: serde::de::DeserializeOwned + Send> FromRequestParts<S> for Words<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let words = Path::from_request_parts(parts, state).await;
        words.map(|Path(words)| Words(words)).map_err(|_| Refusal::new(Code::Invalid, "the path is not the name of an object"))
    }
}

fn json(status: StatusCode, value: &impl serde::Serialize) -> Response<Body> {
    let body = serde_json::to_vec(value).unwrap_or_default();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn empty(status: StatusCode) -> Response<Body> {
    status.into_response()
}

/// All routes.
pub(crate) fn router(server: Arc<Server>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/metrics", get(metrics))
        .route("/v1/repository", get(about).put(create_repository))
        .route("/v1/sync", post(sync))
        .route("/v1/leftovers", get(leftovers).delete(leftovers))
        .route("/v1/objects/{class}", get(list))
        .route("/v1/objects/{class}/{leaf}", get(read).put(create).delete(delete))
        .merge(crate::serve::api::routes::router())
        .fallback(|| async { Refusal::new(Code::Invalid, "there is nothing of this name here") })
        .with_state(server)
}

/// The object that two parts of a path name.
fn object(class: &str, leaf: &str) -> Result<Name, Refusal> {
    let name = protocol::parse_class(class).and_then(|class| Name::parse(class, leaf));
    name.ok_or_else(|| Refusal::new(Code::Invalid, "the path is not the name of an object"))
}

fn class(text: &str) -> Result<Class, Refusal> {
    protocol::parse_class(text).ok_or_else(|| Refusal::new(Code::Invalid, "there is no such class of objects"))
}

async fn metrics(State(server): ServerState, asker: Asked, headers: HeaderMap) -> RouteResult {
    let who = server.principal(&headers, &asker).await?;
    who.needs(Capability::Metrics, "read the counters")?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], server.metrics.text(server.gate.count())).into_response())
}

async fn about(State(server): ServerState, asker: Asked, headers: HeaderMap) -> RouteResult {
    let Admitted { who, hosted, request: _request, .. } = server.admit(&headers, &asker).await?;
    let Principal { quota, capabilities, id, .. } = who;
    let room = hosted.clone();
    let free = room.asking(move || {
        let disk = hosted.backing.with(|storage| storage.free_space()).map_err(|e| refuse(&e))?;
        let left = match quota {
            Some(quota) => Some(quota.saturating_sub(hosted.used().map_err(|e| refuse(&e))?)),
            None => None,
        };
        Ok([disk, left].into_iter().flatten().min())
    });
    Ok(json(StatusCode::OK, &About { free: free.await?, capabilities, client: Some(id) }))
}

async fn create_repository(State(server): ServerState, asker: Asked, headers: HeaderMap) -> RouteResult {
    let who = server.principal(&headers, &asker).await?;
    who.needs(Capability::Put, "make a repository")?;
    let made = server.create(&who).await?;
    if made {
        let repository = who.repository.as_deref().unwrap_or(std::path::Path::new(""));
        tracing::info!(token = %who.id, repository = %crate::remote::tls::shown(repository), "made a repository");
    }
    Ok(empty(if made { StatusCode::CREATED } else { StatusCode::OK }))
}

async fn sync(State(server): ServerState, asker: Asked, headers: HeaderMap) -> RouteResult {
    let Admitted { who, hosted, request: _request, .. } = server.admit(&headers, &asker).await?;
    // Needed only by those who write or delete, and slow: every directory is synced.
    who.needs(Capability::Put, "ask for a barrier").or_else(|_| who.needs(Capability::Prune, "ask for a barrier"))?;
    let room = hosted.clone();
    room.asking(move || hosted.backing.with(|storage| storage.sync_everything()).map_err(|e| refuse(&e))).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

async fn leftovers(State(server): ServerState, method: Method, asker: Asked, headers: HeaderMap) -> RouteResult {
    let Admitted { who, hosted, request: _request, .. } = server.admit(&headers, &asker).await?;
    let remove = method == Method::DELETE;
    match remove {
        true => who.needs(Capability::Prune, "remove what dead writers left")?,
        false => who.needs(Capability::List, "list what dead writers left")?,
    }
    let room = hosted.clone();
    let found = room.asking(move || hosted.backing.with(|storage| storage.leftovers(remove)).map_err(|e| refuse(&e))).await?;
    if remove && found.files > 0 {
        tracing::info!(token = %who.id, files = found.files, bytes = found.bytes, "removed what dead writers left");
    }
    Ok(json(StatusCode::OK, &LeftoversFound { files: found.files, bytes: found.bytes }))
}

async fn list(State(server): ServerState, Words(text): Words<String>, asker: Asked, headers: HeaderMap) -> RouteResult {
    let class = class(&text)?;
    let Admitted { who, hosted, client, request } = server.admit(&headers, &asker).await?;
    who.needs(Capability::List, &format!("list {}/", class.prefix()))?;
    download::list(&server, &client, &hosted, class, request).await
}

async fn read(
    State(server): ServerState,
    Words((first, second)): Words<(String, String)>,
    method: Method,
    asker: Asked,
    headers: HeaderMap,
) -> RouteResult {
    let name = object(&first, &second)?;
    let Admitted { who, hosted, client, request } = server.admit(&headers, &asker).await?;
    who.may_read(name.class())?;
    download::object(&server, &client, &hosted, name, &headers, method == Method::HEAD, request).await
}

async fn create(
    State(server): ServerState,
    Words((first, second)): Words<(String, String)>,
    asker: Asked,
    headers: HeaderMap,
    body: Body,
) -> RouteResult {
    let name = object(&first, &second)?;
    let Admitted { who, hosted, client, request: _request } = server.admit(&headers, &asker).await?;
    let length = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    let length = length.ok_or_else(|| Refusal::new(Code::NoLength, "an upload needs its length (Content-Length)"))?;
    let most = protocol::max_object(name.class());
    if length > most {
        let text = format!("an object of {}/ has at most {most} bytes", name.class().prefix());
        return Err(Refusal::new(Code::TooLong, text));
    }
    let (asking, place) = (who.clone(), hosted.clone());
    hosted.asking(move || asking.may_create(&place, &name)).await?;
    let content = headers.get(protocol::CONTENT_HEADER).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let incoming = Incoming { name, length, content, who };
    let created = upload::receive(&server, &client, &hosted, incoming, body).await?;
    Ok(empty(if created == Created::New { StatusCode::CREATED } else { StatusCode::OK }))
}

async fn delete(
    State(server): ServerState,
    Words((first, second)): Words<(String, String)>,
    asker: Asked,
    headers: HeaderMap,
) -> RouteResult {
    let name = object(&first, &second)?;
    let Admitted { who, hosted, request: _request, .. } = server.admit(&headers, &asker).await?;
    let room = hosted.clone();
    let deleted = room.asking(move || {
        let failed = |e| refuse(&e);
        who.may_delete(&hosted, &name)?;
        // Durable when the client asks for a barrier.
        let deleted = hosted.delete(&name).map_err(failed)?;
        if let Some(bytes) = deleted {
            tracing::info!(token = %who.id, object = %name, bytes, "deleted");
        }
        Ok(u64::from(deleted.is_some()))
    });
    add(&server.metrics.deleted, deleted.await?);
    Ok(empty(StatusCode::NO_CONTENT))
}
