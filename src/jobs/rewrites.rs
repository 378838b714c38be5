//! Rewrites of a restore: rules from the configuration, what stands for placeholders, and what a run says of it.

use crate::error::{Error, Result};
use crate::format::run::MAX_REWRITES;
use crate::format::snapshot::MAX_TEXT;
use crate::jobs::config::keys::{RestoreKeys, RewriteKeys};
use crate::jobs::runs;
use crate::model::{RunRewrite, Snapshot};
use crate::restore::RestoreOptions;
use crate::restore::rewrite::placeholders::Placeholders;
use crate::restore::rewrite::{RewriteFind, RewriteRule, Rewriter};
use crate::sys::network;

/// The names that always stand for something.
const NAMES: [&str; 6] = ["from.host", "from.address", "from.user", "host", "address", "user"];

/// What stands for the placeholders in a restore of `snapshot` on this host, where `values` say nothing else.
pub fn placeholders<'v>(snapshot: &Snapshot, values: impl IntoIterator<Item = (&'v String, &'v String)>) -> Result<Placeholders> {
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().filter(|text| !text.is_empty()).map(str::to_owned);
    let (host, user) = runs::who();
    let address = network::addresses().first().map(ToString::to_string);
    let known = [
        text(&snapshot.host),
        snapshot.composition.addresses.first().and_then(|address| text(address)),
        text(&snapshot.user),
        text(&host),
        address,
        text(&user),
    ];
    let mut out = Placeholders::default();
    NAMES.into_iter().zip(known).try_for_each(|(name, value)| out.set(name, value))?;
    values.into_iter().try_for_each(|(name, value)| out.set(name, Some(value.clone())))?;
    Ok(out)
}

/// A rule of a set.
pub fn rule(keys: &RewriteKeys) -> Result<RewriteRule> {
    let find = match (&keys.replace, &keys.regex) {
        (Some(text), None) => RewriteFind::Text(text.clone()),
        (None, Some(expression)) => RewriteFind::Expression(expression.clone()),
        _ => return Err(Error::invalid("a rewrite needs replace (a text) or regex, and not both")),
    };
    Ok(RewriteRule { files: keys.files.clone(), find, with: keys.with.clone() })
}

/// What is wrong with the rewrites and next steps of a set: the key, and why.
pub(crate) fn unfit(keys: &RestoreKeys) -> Vec<(&'static str, String)> {
    let mut values = Placeholders::default();
    let (mut out, any) = (Vec::new(), || Some("x".to_owned()));
    let names = NAMES.into_iter().chain(keys.values.keys().map(String::as_str));
    out.extend(names.filter_map(|name| values.set(name, any()).err()).map(|e| ("values", e.to_string())));
    for (number, keys) in keys.rewrite.iter().enumerate() {
        let good = rule(keys).and_then(|rule| Rewriter::new(&[rule], &values, false, false));
        out.extend(good.err().map(|e| ("rewrite", format!("rewrite {}: {e}", number + 1))));
    }
    out.extend(keys.next_steps.iter().filter_map(|text| values.fill(text).err()).map(|e| ("next-steps", e.to_string())));
    out
}

/// What a restore made other than the snapshot has it, for its run.
pub fn recorded(options: &RestoreOptions, snapshot: &Snapshot) -> Vec<RunRewrite> {
    let cut = |text: &[u8]| text.get(..MAX_TEXT).unwrap_or(text).to_vec();
    let owners = [
        (RunRewrite::USER, &options.map_users, &snapshot.owners.users),
        (RunRewrite::GROUP, &options.map_groups, &snapshot.owners.groups),
    ];
    let mut out = Vec::new();
    for (kind, names, known) in owners {
        let there = |(old, _): &&(String, String)| known.iter().any(|(_, name)| name == old.as_bytes());
        let one = |(old, new): &(String, String)| RunRewrite {
            kind,
            was: old.clone().into_bytes(),
            is: new.clone().into_bytes(),
            ..RunRewrite::default()
        };
        out.extend(names.iter().filter(there).map(one));
    }
    for done in options.rewriter.iter().flat_map(|rewriter| rewriter.done()) {
        let kind = if done.link { RunRewrite::LINK } else { RunRewrite::TEXT };
        out.extend(done.replaced.into_iter().map(|replaced| RunRewrite {
            kind,
            path: cut(&done.path),
            was: replaced.was,
            is: replaced.is,
            count: replaced.count,
        }));
    }
    out.truncate(MAX_REWRITES);
    out
}
