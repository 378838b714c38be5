//! `restore --set NAME --next-steps`: what a person still has to do after the restore.

use serde::Serialize;
use yester::jobs::config::keys::{Set, When};
use yester::model::{Part, Snapshot, escape};
use yester::restore::rewrite::placeholders::Placeholders;
use yester::restore::staged::Staged;
use yester::sys::{process, users};
use yester::{Error, Result};

use crate::cli::context::Context;
use crate::cli::say::output::Output;
use crate::cli::say::units;

#[derive(Serialize)]
struct NextStep {
    message_type: &'static str,
    number: usize,
    text: String,
}

/// Prints them.
pub fn show(context: &Context, name: &str, set: &Set, snapshot: &Snapshot, values: &Placeholders) -> Result<()> {
    let mut out = Output::new();
    let all = all(name, set, snapshot, values)?;
    if all.is_empty() && !context.global.json {
        out.line("nothing: the restore does it all")?;
    }
    for (number, text) in all.into_iter().enumerate() {
        match context.global.json {
            true => out.json(&NextStep { message_type: "next_step", number: number + 1, text })?,
            false => out.line(&format!("{}. {text}", number + 1))?,
        }
    }
    out.finish()
}

fn all(name: &str, set: &Set, snapshot: &Snapshot, values: &Placeholders) -> Result<Vec<String>> {
    let mut out = Vec::new();
    for part in &snapshot.composition.parts {
        let shown = if part.path.is_empty() { "paths".to_owned() } else { escape(&part.path) };
        match part.state {
            Part::FAILED => out.push(format!("{shown} is not in this snapshot, since it failed: {}", escape(&part.message))),
            Part::INCOMPLETE => {
                out.push(format!("entries of {shown} could not be read when the snapshot was taken: look for them"))
            }
            Part::CHANGED => out.push(format!("files of {shown} changed while they were read (yester ls --json): look at them")),
            _ => {}
        }
    }
    for stream in set.streams.iter().filter(|stream| stream.restore.is_empty()) {
        out.push(format!("{} comes back as a file: give it to the program that it is of", escape(stream.at.as_bytes())));
    }
    let mapped = |old: &[u8], map: &std::collections::BTreeMap<String, String>| map.keys().any(|name| name.as_bytes() == old);
    let users = snapshot.owners.users.iter().filter(|(_, user)| users::user_id(user).is_none());
    for (id, user) in users.filter(|(_, user)| !mapped(user, &set.restore.map_users)) {
        let user = escape(user);
        out.push(format!(
            "there is no user {user} here, so what it owned is of number {id}: make it, or give --map-user {user}=NAME"
        ));
    }
    let renames = set.restore.steps.iter().any(|step| step.when == Some(When::HostChanged));
    if snapshot.host != process::host_name() && set.restore.rewrite.is_empty() && !renames {
        let (old, new) = (escape(&snapshot.host), escape(&process::host_name()));
        out.push(format!(
            "the snapshot is of host {old}, and this is {new}: the set rewrites nothing, so look where {old} is named"
        ));
    }
    if !snapshot.rules.is_empty() {
        let rules = units::counted(snapshot.rules.len() as u64, "rule", "rules");
        out.push(format!("what the ingest left out by {rules} does not come back (yester snapshots --json)"));
    }
    for text in &set.restore.next_steps {
        out.push(values.fill(text).map_err(|e: Error| e.context("next-steps"))?);
    }
    // An error here is not reported: --discard-old reports it.
    if Staged::find(&set.paths).is_ok_and(|staged| !staged.is_empty()) {
        out.push(format!("when all is well, remove what the staged restore keeps: yester restore --set {name} --discard-old"));
    }
    Ok(out)
}
