//! What a configuration can say that makes no sense, or cannot be done here: found before anything runs.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::jobs::config::keys::{AgentKeys, Hook, Keep, RepositoryKeys, Set};
use crate::jobs::config::text::{Problem, nearest};
use crate::jobs::config::{Configuration, Named};
use crate::jobs::guards::ServiceGuard;
use crate::jobs::schedule::Schedule;
use crate::jobs::volumes::VolumeMethod;
use crate::jobs::{buckets, location, rewrites, units};
use crate::maintain::retention::{KeepCount, Within};
use crate::model::escape;
use crate::model::node::check_name;
use crate::model::patterns::Patterns;
use crate::remote::tls::Fingerprint;
use crate::remote::webhook;

/// The directories where programs are looked for: those of `PATH`.
#[derive(Debug, Clone, Copy)]
pub struct Programs<'a>(pub &'a [PathBuf]);

impl Programs<'_> {
    /// Why this program cannot be run; `None` if it can.
    fn obstacle(&self, program: &str) -> Option<String> {
        let runs = |path: &Path| fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
        let shown = escape(program.as_bytes());
        if program.is_empty() {
            return Some("a command needs a program".to_owned());
        }
        if program.contains('/') {
            return match (program.starts_with('/'), runs(Path::new(program))) {
                (true, true) => None,
                (true, false) => Some(format!("there is no program {shown}")),
                (false, _) => Some(format!("{shown} depends on the working directory: give an absolute path")),
            };
        }
        let found = self.0.iter().any(|dir| runs(&dir.join(program)));
        (!found).then(|| format!("there is no program {shown} in the directories of PATH"))
    }
}

/// Everything that is wrong.
pub fn all(configuration: &Configuration, programs: Programs<'_>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for named in configuration.repositories.values() {
        problems.extend(repository(configuration, named));
    }
    for named in configuration.sets.values() {
        problems.extend(set(configuration, named, programs));
    }
    problems.extend(configuration.agent.iter().flat_map(|named| agent(configuration, named, programs)));
    problems
}

/// What is wrong with what the agent is told.
pub(crate) fn agent(all: &Configuration, named: &Named<AgentKeys>, programs: Programs<'_>) -> Vec<Problem> {
    let mut problems = Vec::new();
    if named.value.at_once == Some(0) {
        problems.push(all.problem(named, &["at-once"], "it must be 1 at least"));
    }
    let repository = all.repository(crate::jobs::config::DEFAULT).and_then(|named| named.value.location.as_deref());
    if !named.value.jobs.is_empty() && !repository.is_some_and(|location| location.starts_with("https://")) {
        let text = "jobs come from the server of [repository]: its location must be one, as in https://backup.example:7070/web";
        problems.push(all.problem(named, &["jobs"], text));
    }
    let notify = &named.value.notify;
    if let Some(message) = notify.command.as_ref().and_then(|command| obstacle_of(command, programs)) {
        problems.push(all.problem(named, &["notify", "command"], message));
    }
    if let Some(Err(e)) = notify.webhook.as_deref().map(webhook::Webhook::parse) {
        problems.push(all.problem(named, &["notify", "webhook"], e.to_string()));
    }
    problems
}

/// What is wrong with a repository.
pub fn repository(all: &Configuration, named: &Named<RepositoryKeys>) -> Vec<Problem> {
    let it = &named.value;
    let mut problems = Vec::new();
    let mut say = |key: &str, message: String| problems.push(all.problem(named, &[key], message));
    match &it.location {
        None => say("location", "a repository needs a location, as in location = \"/srv/backup\"".to_owned()),
        Some(location) => match location::parse(OsStr::new(location)) {
            Err(e) => say("location", e.to_string()),
            Ok(location::Location::Local(_)) if !location.starts_with('/') => {
                say(
                    "location",
                    format!("{} depends on the working directory: give an absolute path", escape(location.as_bytes())),
                );
            }
            Ok(_) => {}
        },
    }
    let credentials = [
        ("key-file", it.key_file.is_some()),
        ("password-file", it.password_file.is_some()),
        ("password-command", it.password_command.is_some()),
    ];
    if let [_, (second, _), ..] = credentials.into_iter().filter(|(_, there)| *there).collect::<Vec<_>>()[..] {
        say(second, "there is another way to unlock it: keep one of key-file, password-file and password-command".to_owned());
    }
    let secrets = [("key-file", &it.key_file), ("password-file", &it.password_file), ("token-file", &it.token_file)];
    for (key, file) in secrets.into_iter().filter_map(|(key, file)| Some((key, file.as_ref()?))) {
        if let Some(message) = secret(file) {
            say(key, message);
        }
    }
    for (key, file) in [("cacert", &it.cacert), ("cache-dir", &it.cache_dir)] {
        if let Some(message) = file.as_ref().and_then(|file| relative(file)) {
            say(key, message);
        }
    }
    if let Some(Err(e)) = it.tls_fingerprint.as_deref().map(Fingerprint::parse) {
        say("tls-fingerprint", e.to_string());
    }
    for (key, limit) in [("limit-upload", &it.limit_upload), ("limit-download", &it.limit_download)] {
        let rules = limit.iter().flat_map(|limit| &limit.0);
        if let Some(e) = rules.filter_map(|rule| units::parse_limit(rule).err()).next() {
            say(key, e);
        }
    }
    if it.connections.is_some_and(|n| !(1..=64).contains(&n)) {
        say("connections", "it must be from 1 to 64".to_owned());
    }
    problems
}

/// What is wrong with a set.
pub fn set(all: &Configuration, named: &Named<Set>, programs: Programs<'_>) -> Vec<Problem> {
    let it = &named.value;
    let found = values(all, it).into_iter().chain(streams(it, programs)).chain(places_of_buckets(it));
    let mut problems: Vec<Problem> = found.map(|(key, message)| all.problem(named, &[key], message)).collect();
    for (name, hook) in it.hooks.all() {
        if let Some(message) = obstacle_of(hook, programs) {
            problems.push(all.problem(named, &["hooks", name], message));
        }
    }
    problems.extend(back(all, named, programs));
    for (keep, amount) in &it.keep {
        let parsed = match keep {
            Keep::Within => Within::from_str(&amount.0).map(drop),
            _ => KeepCount::from_str(&amount.0).map(drop),
        };
        if let Err(message) = parsed {
            problems.push(all.problem(named, &["keep", keep.name()], message));
        }
    }
    problems
}

/// A key of a set, and what is wrong with its value.
type WrongValue = (&'static str, String);

/// What is wrong with what stands directly in a set.
fn values(all: &Configuration, it: &Set) -> Vec<WrongValue> {
    let mut out = Vec::new();
    let mut say = |key: &'static str, message: String| out.push((key, message));
    if it.paths.is_empty() && it.streams.is_empty() && it.buckets.is_empty() {
        say("", "a set needs paths, streams or buckets".to_owned());
    }
    if let Some(name) = it.repository.as_ref().filter(|name| !all.repositories.contains_key(*name)) {
        let near = nearest(name, all.repositories.keys().map(String::as_str));
        say("repository", format!("there is no repository {}{near}", escape(name.as_bytes())));
    }
    for message in it.paths.iter().filter_map(|path| relative(path)) {
        say("paths", message);
    }
    for (key, patterns) in [("exclude", &it.exclude), ("iexclude", &it.iexclude), ("changed-is-ok", &it.changed_is_ok)] {
        if let Err(e) = Patterns::new(patterns.iter().map(|pattern| (pattern.as_str(), false))) {
            say(key, e.to_string());
        }
        // A pattern of the command line may be from the working directory.
        let from_here =
            |pattern: &&String| ["./", "../", "~"].iter().any(|begin| pattern.trim_start_matches('!').starts_with(begin));
        if let Some(pattern) = patterns.iter().find(from_here) {
            say(key, format!("{} depends on who runs this and where: give an absolute path", escape(pattern.as_bytes())));
        }
    }
    if let Some(Err(e)) = it.exclude_larger_than.as_deref().map(units::parse_size) {
        say("exclude-larger-than", e);
    }
    if let Some(Err(e)) = it.compression.as_deref().map(units::parse_compression) {
        say("compression", e);
    }
    if let Some(Err(e)) = it.source_snapshot.as_deref().map(str::parse::<VolumeMethod>) {
        say("source-snapshot", e);
    }
    if let Some(Err(e)) = it.schedule.as_deref().map(Schedule::parse) {
        say("schedule", e);
    }
    for (key, length) in [("splay", &it.splay), ("overdue-after", &it.overdue_after)] {
        if let Some(Err(e)) = length.as_deref().map(units::parse_wait) {
            say(key, e);
        }
    }
    out
}

/// What is wrong with the streams of a set.
fn streams(it: &Set, programs: Programs<'_>) -> Vec<WrongValue> {
    let mut out = Vec::new();
    let mut places = HashMap::new();
    for (number, stream) in it.streams.iter().enumerate() {
        let mut message = stream_place(&stream.at).err();
        if let Some(other) = places.insert(stream.at.clone(), number) {
            message = Some(format!("stream {} of this set has the same place, {}", other + 1, escape(stream.at.as_bytes())));
        }
        message = message.or_else(|| stream.timeout.as_deref().and_then(|limit| units::parse_wait(limit).err()));
        message = message.or_else(|| programs.obstacle(stream.command.first().map_or("", String::as_str)));
        if let Some(message) = message {
            out.push(("streams", format!("stream {}: {message}", number + 1)));
        }
    }
    out
}

/// What is wrong with the buckets of a set.
fn places_of_buckets(it: &Set) -> Vec<WrongValue> {
    let mut out = Vec::new();
    for (number, bucket) in it.buckets.iter().enumerate() {
        let same = |at: &str| at == bucket.at || Path::new(at).starts_with(&bucket.at) || Path::new(&bucket.at).starts_with(at);
        let others = it.streams.iter().map(|stream| stream.at.as_str());
        let others = others.chain(it.buckets.iter().take(number).map(|bucket| bucket.at.as_str()));
        let inside = it.paths.iter().find(|path| path.starts_with(&bucket.at)).map(|path| escape(path.as_os_str().as_bytes()));
        let inside = inside.or_else(|| others.into_iter().find(|at| same(at)).map(|at| escape(at.as_bytes())));
        let message = inside.map(|other| format!("{} and {other} are in one place", escape(bucket.at.as_bytes())));
        if let Some(message) = message.or_else(|| buckets::unfit(bucket).err().map(|e| e.to_string())) {
            out.push(("buckets", format!("bucket {}: {message}", number + 1)));
        }
    }
    out
}

/// What is wrong with the way back of a set: all that a restore needs.
pub fn back(all: &Configuration, named: &Named<Set>, programs: Programs<'_>) -> Vec<Problem> {
    let wrong = unfit(&named.value, programs).into_iter();
    wrong.map(|(key, message)| all.problem(named, &key, message)).collect()
}

/// The same for a set that is in no file: the keys, and what is wrong with each.
pub fn unfit(set: &Set, programs: Programs<'_>) -> Vec<(Vec<&'static str>, String)> {
    let mut out = Vec::new();
    for (number, stream) in set.streams.iter().enumerate().filter(|(_, stream)| !stream.restore.is_empty()) {
        if let Some(message) = programs.obstacle(stream.restore.first().map_or("", String::as_str)) {
            out.push((vec!["streams"], format!("stream {}: {message}", number + 1)));
        }
    }
    for (number, bucket) in set.buckets.iter().enumerate() {
        if let Err(e) = buckets::unfit(bucket) {
            out.push((vec!["buckets"], format!("bucket {}: {e}", number + 1)));
        }
    }
    for guard in &set.restore.refuse_while {
        if let Err(message) = ServiceGuard::from_str(guard) {
            out.push((vec!["restore", "refuse-while"], message));
        }
    }
    out.extend(rewrites::unfit(&set.restore).into_iter().map(|(key, message)| (vec!["restore", key], message)));
    for step in &set.restore.steps {
        let hook = Hook { command: step.command.clone(), timeout: step.timeout.clone() };
        if let Some(message) = obstacle_of(&hook, programs) {
            out.push((vec!["restore", "steps"], format!("step {}: {message}", escape(step.name.as_bytes()))));
        }
    }
    out
}

fn obstacle_of(hook: &Hook, programs: Programs<'_>) -> Option<String> {
    let program = programs.obstacle(hook.command.first().map_or("", String::as_str));
    program.or_else(|| hook.timeout.as_deref().and_then(|timeout| units::parse_wait(timeout).err()))
}

/// Refuses what is no place of a stream or a bucket: an absolute path of names.
pub(crate) fn stream_place(at: &str) -> Result<(), String> {
    let shown = escape(at.as_bytes());
    let Some(names) = at.strip_prefix('/') else {
        return Err(format!("at = {shown} is no absolute path in the snapshot"));
    };
    match names.split('/').all(|name| check_name(name.as_bytes()).is_ok()) {
        true => Ok(()),
        false => Err(format!("at = {shown} is no path in a snapshot")),
    }
}

pub(crate) fn relative(path: &Path) -> Option<String> {
    let shown = escape(path.as_os_str().as_bytes());
    (!path.is_absolute()).then(|| format!("{shown} depends on the working directory: give an absolute path"))
}

/// What is wrong with a file that holds a secret. One that is not there yet may be made.
fn secret(file: &Path) -> Option<String> {
    let shown = escape(file.as_os_str().as_bytes());
    let open = |file: &Path| fs::metadata(file).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o004 != 0);
    relative(file).or_else(|| open(file).then(|| format!("every user may read the secret in {shown}: chmod o-rwx {shown}")))
}

/// Words of a command as the system has them.
pub fn words(command: &[String]) -> Vec<OsString> {
    command.iter().map(OsString::from).collect()
}
