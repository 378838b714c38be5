//! What was asked of an object store: what its bill will say.

use serde::Serialize;
use yester::Result;
use yester::storage::Requests;

use crate::cli::context::Context;
use crate::cli::say::output::{Output, note};
use crate::cli::say::units;

#[derive(Serialize)]
struct Json {
    message_type: &'static str,
    #[serde(flatten)]
    requests: JsonRequests,
}

/// Requests by class, and bytes.
#[derive(Serialize)]
pub struct JsonRequests {
    requests_put: u64,
    requests_get: u64,
    requests_head: u64,
    requests_list: u64,
    requests_delete: u64,
    bytes_sent: u64,
    bytes_received: u64,
}

/// Says it; nothing where no object store was used. `aside`: standard output is a file's content.
pub fn say(context: &Context, aside: bool) -> Result<()> {
    let Some(asked) = context.requests() else { return Ok(()) };
    if !context.global.json || aside {
        note(&format!("yester: asked of the object store: {}", text(&asked)));
        return Ok(());
    }
    let mut out = Output::new();
    out.json(&Json { message_type: "requests", requests: JsonRequests::new(&asked) })?;
    out.finish()
}

impl JsonRequests {
    /// Of these.
    pub fn new(asked: &Requests) -> Self {
        JsonRequests {
            requests_put: asked.put,
            requests_get: asked.get,
            requests_head: asked.head,
            requests_list: asked.list,
            requests_delete: asked.delete,
            bytes_sent: asked.sent,
            bytes_received: asked.received,
        }
    }
}

/// For people.
pub fn text(asked: &Requests) -> String {
    let Requests { put, get, head, list, delete, sent, received } = *asked;
    let requests = [(put, "PUT"), (get, "GET"), (head, "HEAD"), (list, "LIST"), (delete, "DELETE")];
    let requests: Vec<String> = requests.iter().map(|(n, kind)| format!("{} {kind}", units::count(*n))).collect();
    let (sent, received) = (units::size(sent), units::size(received));
    format!("{}; {sent} sent, {received} received", requests.join(", "))
}
