//! Options of restore by which something comes back other than it was; and what is shown of that.

use std::collections::BTreeMap;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use yester::jobs::config::keys::RestoreKeys;
use yester::jobs::rewrites;
use yester::model::{Snapshot, escape};
use yester::restore::RestoreOptions;
use yester::restore::rewrite::placeholders::Placeholders;
use yester::restore::rewrite::{RewriteFind, RewriteRule, Rewriter, Rewritten};
use yester::{Error, Result};

use crate::cli::context::Context;
use crate::cli::given::patterns::PatternRoots;
use crate::cli::say::output::{JsonPath, Output, lossy};

/// So much of a line is shown.
const LONGEST: usize = 500;

/// What is to be other than it was.
#[derive(Debug, Args)]
pub struct RewriteArgs {
    /// Replace TEXT in files and links that match F, as {from.host}
    ///
    /// F is a pattern. Names in braces stand for values: {from.host}, {from.address}, {from.user}, {host}, {address}, {user}, and those of --value.
    #[arg(long, num_args = 3, value_names = ["F", "TEXT", "NEW"], action = clap::ArgAction::Append)]
    rewrite: Vec<String>,
    /// Replace what a regular expression matches; $1 in NEW is its first group
    #[arg(long, num_args = 3, value_names = ["F", "EXPR", "NEW"], action = clap::ArgAction::Append, hide_short_help = true)]
    rewrite_regex: Vec<String>,
    /// What a placeholder stands for
    #[arg(long, value_name = "NAME=VALUE", hide_short_help = true)]
    value: Vec<String>,
    /// Give what user OLD of the snapshot owned to user NEW
    #[arg(long, value_name = "OLD=NEW", conflicts_with = "numeric_ids")]
    map_user: Vec<String>,
    /// Give what group OLD of the snapshot owned to group NEW
    #[arg(long, value_name = "OLD=NEW", conflicts_with = "numeric_ids", hide_short_help = true)]
    map_group: Vec<String>,
}

fn pair(text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((old, new)) if !old.is_empty() && !new.is_empty() => Ok((old.to_owned(), new.to_owned())),
        _ => Err(Error::invalid(format!("{} is no pair: write OLD=NEW", escape(text.as_bytes())))),
    }
}

impl RewriteArgs {
    /// What stands for placeholders in a restore of `snapshot`: what was typed beats the set.
    pub fn placeholders(&self, set: Option<&RestoreKeys>, snapshot: &Snapshot) -> Result<Placeholders> {
        let mut values: BTreeMap<String, String> = set.map(|set| set.values.clone()).unwrap_or_default();
        values.extend(self.value.iter().map(|text| pair(text)).collect::<Result<Vec<_>>>()?);
        rewrites::placeholders(snapshot, &values)
    }

    /// Adds to `options` what was asked for, and what `set` says. `strict`: each rule must be for some file.
    pub fn apply(
        &self,
        set: Option<&RestoreKeys>,
        snapshot: &Snapshot,
        strict: bool,
        options: &mut RestoreOptions,
    ) -> Result<()> {
        let bases = PatternRoots::new();
        let mut rules = set.iter().flat_map(|set| &set.rewrite).map(rewrites::rule).collect::<Result<Vec<_>>>()?;
        for (expression, words) in [(false, &self.rewrite), (true, &self.rewrite_regex)] {
            for words in words.chunks_exact(3) {
                let [files, text, with] = words else { continue };
                let find = if expression { RewriteFind::Expression } else { RewriteFind::Text };
                let files = bases.all(std::slice::from_ref(files))?;
                rules.push(RewriteRule { files, find: find(text.clone()), with: with.clone() });
            }
        }
        if !rules.is_empty() {
            let values = self.placeholders(set, snapshot)?;
            options.rewriter = Some(Arc::new(Rewriter::new(&rules, &values, strict, options.dry_run)?));
        }
        let typed = |pairs: &[String]| pairs.iter().map(|text| pair(text)).collect::<Result<Vec<_>>>();
        let merged = |set: Option<&BTreeMap<String, String>>, typed: Vec<(String, String)>| {
            let mut all = set.cloned().unwrap_or_default();
            all.extend(typed);
            all.into_iter().collect()
        };
        options.map_users = merged(set.map(|set| &set.map_users), typed(&self.map_user)?);
        options.map_groups = merged(set.map(|set| &set.map_groups), typed(&self.map_group)?);
        Ok(())
    }
}

#[derive(Serialize)]
struct JsonRewrite<'a> {
    message_type: &'static str,
    dry_run: bool,
    #[serde(flatten)]
    path: JsonPath,
    kind: &'static str,
    replaced: Vec<JsonReplaced>,
    #[serde(skip_serializing_if = "str::is_empty")]
    diff: &'a str,
}

#[derive(Serialize)]
struct JsonReplaced {
    was: String,
    is: String,
    count: u64,
}

/// Shows what was rewritten; in a dry run with what would change in each file.
pub fn show(context: &Context, options: &RestoreOptions) -> Result<()> {
    let done = options.rewriter.as_ref().map(|rewriter| rewriter.done()).unwrap_or_default();
    if done.is_empty() || context.global.quiet && !context.global.json {
        return Ok(());
    }
    let mut out = Output::new();
    for one in &done {
        let diff = if options.dry_run { difference(one) } else { Vec::new() };
        if context.global.json {
            let replaced = one.replaced.iter();
            let replaced = replaced.map(|it| JsonReplaced { was: lossy(&it.was), is: lossy(&it.is), count: it.count }).collect();
            let kind = if one.link { "link" } else { "text" };
            let (path, diff) = (JsonPath::new(&one.path), String::from_utf8_lossy(&diff));
            let dry_run = options.dry_run;
            out.json(&JsonRewrite { message_type: "rewrite", dry_run, path, kind, replaced, diff: &diff })?;
            continue;
        }
        match options.dry_run {
            true => out.bytes(&diff)?,
            false => {
                let times = one.replaced.iter().map(|it| it.count).sum::<u64>();
                let texts = crate::cli::say::units::counted(times, "place", "places");
                out.line(&format!("rewritten: {}, in {texts}", escape(&one.path)))?;
            }
        }
    }
    out.finish()
}

/// What would change, as a diff that is safe on a terminal.
fn difference(one: &Rewritten) -> Vec<u8> {
    let (before, after) = (&one.contents.0, &one.contents.1);
    let path = escape(&one.path);
    if one.link {
        return format!("would rewrite the link {path}\n-{}\n+{}\n", escape(before), escape(after)).into_bytes();
    }
    if before.contains(&0) {
        return format!("would rewrite {path}, which is no text\n").into_bytes();
    }
    let diff = similar::TextDiff::from_lines(before.as_slice(), after.as_slice());
    let mut out = Vec::new();
    // Writing into memory does not fail.
    let _ = diff.unified_diff().header(&format!("{path} (stored)"), &format!("{path} (restored)")).to_writer(&mut out);
    let line = |line: &[u8]| {
        let cut = line.get(..LONGEST).unwrap_or(line);
        let more = if cut.len() < line.len() { "…" } else { "" };
        format!("{}{more}", escape(cut).replace("\\t", "\t")).into_bytes()
    };
    out.split_inclusive(|b| *b == b'\n')
        .flat_map(|text| [line(text.strip_suffix(b"\n").unwrap_or(text)), b"\n".to_vec()].concat())
        .collect()
}
