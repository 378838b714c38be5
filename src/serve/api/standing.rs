//! Hosts and their sets: what agents report, and what is answered about it.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;

use crate::remote::control::report::{HostList, HostReport, HostStanding, MAX_REPORT};
use crate::remote::control::{JobKind, ProblemDetails, SetJobs, cut};
use crate::remote::protocol::{Capability, Code, Refusal};
use crate::serve::api::board::{Board, JobFilter};
use crate::serve::api::routes::{ApiResult, ApiWords, PAGE, enter, read_long, respond};
use crate::serve::objects::Server;
use crate::serve::objects::connections::Asker;
use crate::serve::objects::hosted::Hosted;
use crate::sys::clock;

/// List the hosts whose agents have reported, with their sets
#[utoipa::path(get, path = "/api/v1/hosts", tag = "hosts",
    responses((status = 200, body = HostList), (status = "4XX", body = ProblemDetails, content_type = "application/problem+json")))]
pub(crate) async fn list(state: State<Arc<Server>>, asker: Extension<Asker>, headers: HeaderMap) -> ApiResult {
    let work = |board: &Board, _: &Hosted, _: &str| Ok(HostList { hosts: board.hosts().all(clock::now().secs)? });
    respond((state, asker, headers), "list hosts", work).await
}

/// Show how the sets of a host stand
#[utoipa::path(get, path = "/api/v1/hosts/{host}", tag = "hosts", params(("host" = String, Path, description = "the host")),
    responses((status = 200, body = HostStanding), (status = "4XX", body = ProblemDetails, content_type = "application/problem+json")))]
pub(crate) async fn of_host(
    state: State<Arc<Server>>,
    ApiWords(host): ApiWords<String>,
    asker: Extension<Asker>,
    headers: HeaderMap,
) -> ApiResult {
    let work = move |board: &Board, _: &Hosted, _: &str| {
        board.hosts().of_host(&host, clock::now().secs).ok_or_else(|| {
            let host = crate::model::escape(cut(host, 64).as_bytes());
            Refusal::new(Code::NotFound, format!("no agent of a host {host} has reported: see yester agent there"))
        })
    };
    respond((state, asker, headers), "see hosts", work).await
}

/// List the newest backups and restores of a set of a host, and how the set stands
#[utoipa::path(get, path = "/api/v1/hosts/{host}/sets/{set}", tag = "hosts",
    params(("host" = String, Path, description = "the host"), ("set" = String, Path, description = "the set")),
    responses((status = 200, body = SetJobs), (status = "4XX", body = ProblemDetails, content_type = "application/problem+json")))]
pub(crate) async fn of_set(
    state: State<Arc<Server>>,
    ApiWords((host, set)): ApiWords<(String, String)>,
    asker: Extension<Asker>,
    headers: HeaderMap,
) -> ApiResult {
    let of = move |board: &Board, hosted: &Hosted, _: &str| {
        let newest = |kind| {
            let (host, set) = (Some(host.clone()), Some(set.clone()));
            let filter = JobFilter { host, set, kind: Some(kind), limit: PAGE, ..JobFilter::default() };
            board.list(&filter, &|id| hosted.keeps(id)).map(|page| page.jobs)
        };
        let known = board.hosts().of_host(&host, clock::now().secs);
        let reported_at = known.as_ref().map(|known| known.reported_at.clone());
        Ok(SetJobs {
            standing: known.and_then(|known| known.sets.into_iter().find(|standing| standing.report.set == set)),
            reported_at,
            backups: newest(JobKind::Ingest)?,
            restores: newest(JobKind::Restore)?,
            host: host.clone(),
            set: set.clone(),
        })
    };
    respond((state, asker, headers), "list jobs", of).await
}

/// Say how the sets of a host stand (for agents)
#[utoipa::path(post, path = "/api/v1/agent/report", tag = "agent", request_body = HostReport,
    responses((status = 204), (status = "4XX", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 507, body = ProblemDetails, content_type = "application/problem+json")))]
pub(crate) async fn report(state: State<Arc<Server>>, asker: Extension<Asker>, headers: HeaderMap, body: Body) -> ApiResult {
    let ask = (state, asker, headers);
    let entered = enter(&ask, Capability::Agent, "report sets").await?;
    let report: HostReport = read_long(body, &ask.2, MAX_REPORT).await?;
    entered.with(move |board, _, token| board.hosts().keep(report, token, clock::now().secs)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
