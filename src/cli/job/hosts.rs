//! `job hosts`: how the sets of hosts stand, as their agents have told the server.

use comfy_table::{Table, presets};
use serde::Serialize;
use yester::Result;
use yester::model::escape;
use yester::remote::control::client::JobClient;
use yester::remote::control::report::{HostStanding, ReportedSet, SetReport};

use crate::cli::context::Context;
use crate::cli::job::moment;
use crate::cli::say::exit::Outcome;
use crate::cli::say::output::Output;
use crate::cli::say::units;

#[derive(Serialize)]
struct JsonHostSet<'a> {
    message_type: &'static str,
    host: &'a str,
    reported_at: &'a str,
    token: &'a str,
    #[serde(flatten)]
    standing: &'a ReportedSet,
}

/// Lists the sets of all hosts, or of one.
pub(super) fn list(context: &Context, client: &JobClient, host: Option<&str>) -> Result<Outcome> {
    let mut hosts = client.hosts()?;
    hosts.retain(|standing| host.is_none_or(|host| standing.host == host));
    let rows = hosts.iter().flat_map(|host| host.sets.iter().map(move |set| (host, set)));
    let mut out = Output::new();
    if context.global.json {
        for (HostStanding { host, reported_at, token, .. }, standing) in rows {
            out.json(&JsonHostSet { message_type: "host_set", host, reported_at, token, standing })?;
        }
    } else {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_header(["Host", "Set", "Last good", "Next", "State", "Told"]);
        let time = |text: &Option<String>| text.as_deref().map(moment);
        for (host, set) in rows {
            table.add_row([
                escape(host.host.as_bytes()),
                escape(set.report.set.as_bytes()),
                time(&set.report.last_good).unwrap_or_else(|| "never".to_owned()),
                time(&set.report.next_due).unwrap_or_default(),
                state(set),
                moment(&host.reported_at),
            ]);
        }
        out.line(&table.trim_fmt())?;
        if !context.global.quiet {
            out.line(&units::counted(hosts.len() as u64, "host", "hosts"))?;
        }
    }
    out.finish()?;
    Ok(Outcome::Done)
}

fn state(set: &ReportedSet) -> String {
    let SetReport { failed_since, message, .. } = &set.report;
    let mut words = Vec::new();
    words.extend(set.overdue.then(|| "overdue".to_owned()));
    words.extend(failed_since.is_some().then(|| match message {
        Some(message) => format!("failed: {}", escape(message.as_bytes())),
        None => "failed".to_owned(),
    }));
    if words.is_empty() { "good".to_owned() } else { words.join(", ") }
}
