//! Which request of the API leads where.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, FromRequestParts, Path, RawQuery, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Response, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use serde::de::DeserializeOwned;

use crate::remote::control::{
    ClaimRequest, EndReport, IDEMPOTENCY, Job, JobFrame, JobKind, JobPage, JobStatus, MAX_BODY, MAX_KINDS, MAX_PAGE, MAX_WAIT,
    NewJob, ProblemDetails, ProgressAnswer, ProgressReport, is_hex,
};
use crate::remote::protocol::{Capability, Code, Refusal};
use crate::serve::api::board::{Board, JobFilter};
use crate::serve::api::{document, drain, events, problem, standing};
use crate::serve::objects::connections::Asker;
use crate::serve::objects::hosted::Hosted;
use crate::serve::objects::{Admitted, Server};

/// The longest Idempotency-Key.
const KEY: usize = 256;
/// Jobs of a list when nobody says how many.
pub(super) const PAGE: usize = 100;

type Answer = Response<Body>;
pub(super) type Ask = (State<Arc<Server>>, Extension<Asker>, HeaderMap);

/// A refusal of the API.
#[derive(Debug)]
pub(crate) struct ApiRefusal(Refusal);

impl From<Refusal> for ApiRefusal {
    fn from(refusal: Refusal) -> Self {
        ApiRefusal(refusal)
    }
}

impl IntoResponse for ApiRefusal {
    fn into_response(self) -> Answer {
        problem(&self.0)
    }
}

pub(super) type ApiResult = Result<Answer, ApiRefusal>;

pub(super) fn invalid(text: impl Into<String>) -> Refusal {
    Refusal::new(Code::Invalid, text)
}

/// The words of a path of the API.
pub(crate) struct ApiWords<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for ApiWords<T> {
    type Rejection = ApiRefusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiRefusal> {
        let words = Path::from_request_parts(parts, state).await;
        words.map(|Path(words)| ApiWords(words)).map_err(|_| invalid("the path is not text").into())
    }
}

async fn nothing() -> ApiRefusal {
    Refusal::new(Code::NotFound, "the API has nothing of this name: /api/v1/openapi.json says what there is").into()
}

async fn no_method() -> Answer {
    let detail = "this path does not take this method: /api/v1/openapi.json says which it takes".to_owned();
    let (kind, title, error) = ("about:blank".to_owned(), "method not allowed".to_owned(), "method_not_allowed".to_owned());
    let body = serde_json::to_vec(&ProblemDetails { kind, title, status: 405, detail, error }).unwrap_or_default();
    (StatusCode::METHOD_NOT_ALLOWED, [(CONTENT_TYPE, "application/problem+json")], body).into_response()
}

/// All routes of the API. The document is made from the same functions.
pub(crate) fn router() -> Router<Arc<Server>> {
    Router::new()
        .route("/api/v1/openapi.json", get(document::answer))
        .route("/api/v1/jobs", get(list).post(create))
        .route("/api/v1/jobs/{id}", get(show))
        .route("/api/v1/jobs/{id}/cancel", post(cancel))
        .route("/api/v1/jobs/{id}/events", get(watch))
        .route("/api/v1/hosts", get(standing::list))
        .route("/api/v1/hosts/{host}", get(standing::of_host))
        .route("/api/v1/hosts/{host}/sets/{set}", get(standing::of_set))
        .route("/api/v1/agent/claim", post(claim))
        .route("/api/v1/agent/report", post(standing::report))
        .route("/api/v1/agent/jobs/{id}/progress", post(progress))
        .route("/api/v1/agent/jobs/{id}/end", post(end))
        .route("/api/v1/{*rest}", axum::routing::any(nothing))
        .method_not_allowed_fallback(no_method)
        .layer(axum::middleware::from_fn(drain::rest))
}

fn json(status: StatusCode, value: &impl serde::Serialize) -> Answer {
    let body = serde_json::to_vec(value).unwrap_or_default();
    (status, [(CONTENT_TYPE, "application/json")], body).into_response()
}

/// A sender that may do something, and the jobs of its repository.
pub(super) struct Entered {
    pub(super) admitted: Admitted,
    board: Arc<Board>,
}

/// Lets in who has the capability.
pub(super) async fn enter(
    (State(server), Extension(asker), headers): &Ask,
    capability: Capability,
    what: &str,
) -> Result<Entered, Refusal> {
    let admitted = server.admit(&with_bearer(headers), asker).await?;
    admitted.who.needs(capability, what)?;
    let board = admitted.hosted.board(server.silence()).await?;
    Ok(Entered { admitted, board })
}

impl Entered {
    /// Works with the jobs.
    pub(super) async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Board, &Hosted, &str) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (hosted, token) = (self.admitted.hosted.clone(), self.admitted.who.id.clone());
        self.board.with(move |board| work(board, &hosted, &token)).await
    }
}

/// Answers who may ask for jobs with what the work gives.
pub(super) async fn respond<T: serde::Serialize + Send + 'static>(
    ask: Ask,
    what: &str,
    work: impl FnOnce(&Board, &Hosted, &str) -> Result<T, Refusal> + Send + 'static,
) -> ApiResult {
    let entered = enter(&ask, Capability::Jobs, what).await?;
    Ok(json(StatusCode::OK, &entered.with(work).await?))
}

/// The same headers, where a token that came as a password (`curl -u any:TOKEN`) is a bearer's.
fn with_bearer(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    let basic = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Basic "));
    let token = basic.and_then(from_base64).and_then(|bytes| {
        let text = zeroize::Zeroizing::new(String::from_utf8(bytes).ok()?);
        let token = zeroize::Zeroizing::new(format!("Bearer {}", text.split_once(':')?.1));
        HeaderValue::from_str(&token).ok()
    });
    if let Some(mut token) = token {
        token.set_sensitive(true);
        headers.insert(AUTHORIZATION, token);
    }
    headers
}

fn from_base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim().trim_end_matches('=');
    let (mut out, mut bits, mut count) = (Vec::new(), 0u32, 0);
    for byte in text.bytes() {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        (bits, count) = (bits << 6 | u32::from(digit), count + 6);
        if count >= 8 {
            count -= 8;
            out.push((bits >> count & 0xff) as u8);
        }
    }
    Some(out)
}

/// Reads a body of JSON.
async fn read<T: DeserializeOwned>(body: Body, headers: &HeaderMap) -> Result<T, Refusal> {
    read_long(body, headers, MAX_BODY).await
}

/// Reads a body of JSON of so many bytes at most.
pub(super) async fn read_long<T: DeserializeOwned>(body: Body, headers: &HeaderMap, most: usize) -> Result<T, Refusal> {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")) {
        return Err(invalid("the body must be JSON, and Content-Type must say so: curl does both with --json"));
    }
    let too_long = |_| Refusal::new(Code::TooLong, format!("the body is longer than {most} bytes, or did not come"));
    let bytes = tokio::time::timeout(Duration::from_secs(30), axum::body::to_bytes(body, most)).await;
    let late = |_| Refusal::new(Code::TooSlow, "the body did not come in time");
    let bytes = bytes.map_err(late)?.map_err(too_long)?;
    serde_json::from_slice(&bytes).map_err(|e| invalid(format!("the body is not what this path takes: {e}")))
}

/// The fields of a query, decoded.
fn fields(query: Option<&str>) -> Result<Vec<(String, String)>, Refusal> {
    let parts = query.unwrap_or_default().split('&').filter(|part| !part.is_empty());
    parts
        .map(|part| part.split_once('=').unwrap_or((part, "")))
        .map(|(name, value)| Ok((decoded(name)?, decoded(value)?)))
        .collect()
}

fn decoded(text: &str) -> Result<String, Refusal> {
    let wrong = || invalid("the query is not text");
    let (mut out, mut bytes) = (Vec::new(), text.bytes());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let (high, low) = digit().zip(digit()).ok_or_else(wrong)?;
                (high << 4 | low) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(out).map_err(|_| wrong())
}

fn filter(query: Option<&str>) -> Result<JobFilter, Refusal> {
    let mut out = JobFilter { limit: PAGE, ..JobFilter::default() };
    for (name, value) in fields(query)? {
        let wrong = |e: crate::error::Error| invalid(e.to_string());
        match name.as_str() {
            "host" => out.host = Some(value),
            "set" => out.set = Some(value),
            "kind" => out.kind = Some(JobKind::parse(&value).map_err(wrong)?),
            "state" => out.state = Some(JobStatus::parse(&value).map_err(wrong)?),
            "after" => out.after = Some(value),
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=MAX_PAGE).contains(limit));
                out.limit = limit.ok_or_else(|| invalid(format!("limit must be a number from 1 to {MAX_PAGE}")))?;
            }
            other => {
                let shown = crate::model::escape(crate::remote::control::cut(other.to_owned(), 64).as_bytes());
                let known = "host, set, kind, state, after, limit";
                return Err(invalid(format!("a list of jobs knows no {shown}: there are {known}")));
            }
        }
    }
    Ok(out)
}

/// List jobs, the newest first
#[utoipa::path(get, path = "/api/v1/jobs", tag = "jobs",
    params(
        ("host" = Option<String>, Query, description = "only of this host"),
        ("set" = Option<String>, Query, description = "only of this set"),
        ("kind" = Option<JobKind>, Query, description = "only of this kind"),
        ("state" = Option<JobStatus>, Query, description = "only in this state"),
        ("after" = Option<String>, Query, description = "the `next` of the page before"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "so many at most; without it 100")),
    responses((status = 200, body = JobPage), (status = "4XX", body = ProblemDetails, content_type = "application/problem+json")))]
pub(crate) async fn list(
    state: State<Arc<Server>>,
    asker: Extension<Asker>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> ApiResult {
    let work = move |board: &Board, hosted: &Hosted, _: &str| board.list(&filter(query.as_deref())?, &|id| hosted.keeps(id));
    respond((state, asker, headers), "list jobs", work).await
}

/// Ask for a job
#[utoipa::path(post, path = "/api/v1/jobs", tag = "jobs", request_body = NewJob,
    params(("Idempotency-Key" = Option<String>, Header, max_length = 256,
        description = "a word of your own: a repeat with the same word is the same job, as long as that is kept")),
    responses((status = 202, body = Job), (status = "4XX", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 507, body = ProblemDetails, content_type = "application/problem+json")))]
pub(crate) async fn create(state: State<Arc<Server>>, asker: Extension<Asker>, headers: HeaderMap, body: Body) -> ApiResult {
    let ask = (state, asker, headers);
    let entered = enter(&ask, Capability::Jobs, "ask for jobs").await?;
    let job: NewJob = read(body, &ask.2).await?;
    let key = match ask.2.get(IDEMPOTENCY) {
        None => None,
        Some(key) => {
            let key = key.to_str().ok().filter(|key| !key.is_empty() && key.len() <= KEY);
            Some(key.ok_or_else(|| invalid(format!("Idempotency-Key must be 1 to {KEY} characters of ASCII")))?.to_owned())
        }
    };
    let (job, is_new) = entered.with(move |board, _, token| board.create(job, key.as_deref(), token)).await?;
    if is_new {
        let set = job.set.as_deref().unwrap_or("-");
        tracing::info!(token = job.token, job = job.id, kind = job.kind.name(), host = ?job.host, set = ?set, "a job is wanted");
    }
    Ok(json(StatusCode::ACCEPTED, &job))
}

/// Show a job
#[utoipa::path(get, path = "/api/v1/jobs/{id}", tag = "jobs", params(("id" = String, Path, description = "the job's id")),
    responses((status = 200, body = Job), (status = "4XX", body = ProblemDetails, content_type = "application/problem+json")))]
pub(crate) async fn show(
    state: State<Arc<Server>>,
    ApiWords(id): ApiWords<String>,
    asker: Extension<Asker>,
    headers: HeaderMap,
) -> ApiResult {
    let work = move |board: &Board, hosted: &Hosted, _: &str| board.job(&id, &|id| hosted.keeps(id));
    respond((state, asker, headers), "see jobs", work).await
}

/// Cancel a job: one that is queued is over, one that runs is asked to end
#[utoipa::path(post, path = "/api/v1/jobs/{id}/cancel", tag = "jobs", params(("id" = String, Path, description = "the job's id")),
    responses((status = 200, body = Job), (status = "4XX", body = ProblemDetails, content_type = "application/problem+json")))]
pub(crate) async fn cancel(
    state: State<Arc<Server>>,
    ApiWords(id): ApiWords<String>,
    asker: Extension<Asker>,
    headers: HeaderMap,
) -> ApiResult {
    let work = move |board: &Board, _: &Hosted, token: &str| {
        let job = board.cancel(&id, token)?;
        tracing::info!(token, job = job.id, "a job is cancelled");
        Ok(job)
    };
    respond((state, asker, headers), "cancel jobs", work).await
}

/// Watch a job: every state as a server-sent event `job`, until it is over
#[utoipa::path(get, path = "/api/v1/jobs/{id}/events", tag = "jobs", params(("id" = String, Path, description = "the job's id")),
    responses((status = 200, body = JobFrame, content_type = "text/event-stream"),
        (status = "4XX", body = ProblemDetails, content_type = "application/problem+json")))]
pub(crate) async fn watch(
    state: State<Arc<Server>>,
    ApiWords(id): ApiWords<String>,
    asker: Extension<Asker>,
    headers: HeaderMap,
) -> ApiResult {
    let ending = state.ending();
    let Entered { admitted, board } = enter(&(state, asker, headers), Capability::Jobs, "watch jobs").await?;
    let wanted = id.clone();
    board.with(move |board| board.job(&wanted, &|_| true)).await?;
    Ok(events::stream(board, admitted.hosted, id, ending, admitted.request))
}

/// Take a job (for agents): waits until there is one
#[utoipa::path(post, path = "/api/v1/agent/claim", tag = "agent", request_body = ClaimRequest,
    responses((status = 200, body = Job, description = "the job, which is this agent's now"), (status = 204, description = "no job came"),
        (status = "4XX", body = ProblemDetails, content_type = "application/problem+json")))]
pub(crate) async fn claim(state: State<Arc<Server>>, asker: Extension<Asker>, headers: HeaderMap, body: Body) -> ApiResult {
    let mut ending = state.ending();
    let ask = (state, asker, headers);
    let entered = enter(&ask, Capability::Agent, "take jobs").await?;
    let request: ClaimRequest = read(body, &ask.2).await?;
    if !is_hex(&request.claim, 16..=64) {
        return Err(invalid("claim must be 16 to 64 hexadecimal digits").into());
    }
    if !(1..=253).contains(&request.host.len()) {
        return Err(invalid("host must be a name of 1 to 253 bytes").into());
    }
    if request.kinds.len() > MAX_KINDS {
        return Err(invalid(format!("kinds may be {MAX_KINDS} at most")).into());
    }
    if request.wait > MAX_WAIT {
        return Err(invalid(format!("wait must be {MAX_WAIT} seconds at most")).into());
    }
    let until = Instant::now() + Duration::from_secs(request.wait);
    let mut wanted = entered.board.wanted(&request.host);
    loop {
        wanted.borrow_and_update();
        let asked = request.clone();
        if let Some(job) = entered.with(move |board, _, token| board.claim(&asked, token)).await? {
            tracing::info!(token = entered.admitted.who.id, job = job.id, host = ?job.host, "a job is taken");
            return Ok(json(StatusCode::OK, &job));
        }
        let is_late = tokio::select! {
            _ = wanted.changed() => false,
            _ = ending.wait_for(|ending| *ending) => true,
            () = tokio::time::sleep_until(until.into()) => true,
        };
        if is_late {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
    }
}

/// Say how far a job is (for agents)
#[utoipa::path(post, path = "/api/v1/agent/jobs/{id}/progress", tag = "agent", request_body = ProgressReport,
    params(("id" = String, Path, description = "the job's id")),
    responses((status = 200, body = ProgressAnswer), (status = "4XX", body = ProblemDetails, content_type = "application/problem+json")))]
pub(crate) async fn progress(
    state: State<Arc<Server>>,
    ApiWords(id): ApiWords<String>,
    asker: Extension<Asker>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult {
    let ask = (state, asker, headers);
    let entered = enter(&ask, Capability::Agent, "report progress").await?;
    let report: ProgressReport = read(body, &ask.2).await?;
    let cancel = entered.with(move |board, _, token| board.progress(&id, report, token)).await?;
    Ok(json(StatusCode::OK, &ProgressAnswer { cancel }))
}

/// Say how a job ended (for agents)
#[utoipa::path(post, path = "/api/v1/agent/jobs/{id}/end", tag = "agent", request_body = EndReport,
    params(("id" = String, Path, description = "the job's id")),
    responses((status = 204), (status = "4XX", body = ProblemDetails, content_type = "application/problem+json")))]
pub(crate) async fn end(
    state: State<Arc<Server>>,
    ApiWords(id): ApiWords<String>,
    asker: Extension<Asker>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult {
    let ask = (state, asker, headers);
    let entered = enter(&ask, Capability::Agent, "report the end of a job").await?;
    let report: EndReport = read(body, &ask.2).await?;
    let (told, outcome) = (id.clone(), report.outcome);
    entered.with(move |board, _, token| board.end(&told, report, token)).await?;
    tracing::info!(token = entered.admitted.who.id, job = id, ?outcome, "a job ended");
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_may_come_as_a_password() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Basic YWRtaW46c2VjcmV0LXRva2Vu"));
        assert_eq!(with_bearer(&headers)[AUTHORIZATION], "Bearer secret-token");
        for bad in ["Basic ?", "Basic YWRtaW4=", "Basic", "Bearer x"] {
            headers.insert(AUTHORIZATION, HeaderValue::from_static(bad));
            assert_eq!(with_bearer(&headers)[AUTHORIZATION], bad);
        }
    }

    #[test]
    fn queries_are_decoded_and_what_is_not_known_is_refused() {
        let filter = |query| super::filter(Some(query)).map_err(|refusal| refusal.message);
        let found = filter("host=a%20b&set=x%2By&state=done&limit=5&").unwrap();
        assert_eq!((found.host.as_deref(), found.set.as_deref(), found.limit), (Some("a b"), Some("x+y"), 5));
        for bad in ["host=%f", "host=%ff", "limit=0", "limit=1001", "limit=x", "state=x", "kind=", "what=1"] {
            assert!(filter(bad).is_err(), "{bad}");
        }
    }
}
