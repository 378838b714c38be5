//! The job API: what somebody wants done is kept here until an agent takes it. The server has no key, and needs none.

pub(crate) mod board;
mod document;
mod drain;
mod events;
mod hosts;
mod ledger;
pub(crate) mod routes;
mod standing;

use axum::body::Body;
use axum::http::{Response, StatusCode, header};
use axum::response::IntoResponse;

use crate::remote::control::{ProblemDetails, ROOT};
use crate::remote::protocol::Refusal;

/// Whether a path is one of the API.
pub(crate) fn is_path(path: &str) -> bool {
    path.strip_prefix(ROOT).is_some_and(|rest| rest.starts_with('/'))
}

/// A refusal as the API says it (RFC 9457).
pub(crate) fn problem(refusal: &Refusal) -> Response<Body> {
    let status = StatusCode::from_u16(refusal.error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = serde_json::to_vec(&ProblemDetails::from(refusal)).unwrap_or_default();
    let mut response = (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
    if status == StatusCode::UNAUTHORIZED {
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer, Basic realm=\"yester\""));
    }
    // For who counts refusals.
    response.extensions_mut().insert(refusal.error);
    response
}
