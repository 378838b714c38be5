//! The document that describes the API (OpenAPI 3.1), made from the functions that answer and the types that they take.

use axum::body::Body;
use axum::http::{Response, header};
use axum::response::IntoResponse;
use utoipa::OpenApi;

use crate::serve::api::{routes, standing};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "yester jobs",
        description = "What somebody wants done is kept by the server until an agent takes it (docs/api.md). Every request \
                       shows a token: as Authorization: Bearer TOKEN, or as the password of Basic.",
        license(name = "MIT", identifier = "MIT")
    ),
    paths(
        answer,
        routes::list,
        routes::create,
        routes::show,
        routes::cancel,
        routes::watch,
        standing::list,
        standing::of_host,
        standing::of_set,
        standing::report,
        routes::claim,
        routes::progress,
        routes::end
    )
)]
struct ApiDocument;

/// Describe the API
#[utoipa::path(get, path = "/api/v1/openapi.json", tag = "document", responses((status = 200, body = serde_json::Value)))]
pub(crate) async fn answer() -> Response<Body> {
    let body = ApiDocument::openapi().to_json().unwrap_or_default();
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}
