//! The text of a configuration file: where in it a key stands, and what is wrong with it, for people.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use crate::jobs::config::keys::FileKeys;
use crate::model::escape;

/// Something that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1; 0 where it is no line's.
    pub line: usize,
    /// The key with all above it, as in `sets.web.paths`; empty where it is no key's.
    pub(crate) key: String,
    /// What is wrong, and what to do.
    pub(crate) message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(self.file.as_os_str().as_bytes()))?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", escape(self.key.as_bytes()))?;
        }
        write!(f, ": {}", self.message)
    }
}

/// A file and its text.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    /// Where it is.
    pub(crate) file: PathBuf,
    text: String,
}

impl Document {
    /// A file with this text.
    pub(crate) fn new(file: &Path, text: String) -> Self {
        Document { file: file.to_owned(), text }
    }

    /// What it says.
    pub(crate) fn keys(&self) -> Result<FileKeys, Problem> {
        toml::from_str(&self.text).map_err(|e| self.told(&e))
    }

    /// A problem of the key at `path`.
    pub(crate) fn problem(&self, path: &[&str], message: impl Into<String>) -> Problem {
        let line = self.find(path).map_or(0, |at| self.line(at));
        Problem { file: self.file.clone(), line, key: path.join("."), message: message.into() }
    }

    fn told(&self, error: &toml::de::Error) -> Problem {
        let at = error.span().map(|span| span.start);
        let line = at.map_or(0, |at| self.line(at));
        let mut key = at.and_then(|at| self.key_at(at)).unwrap_or_default();
        let mut message = error.message().trim().replace('\n', ": ");
        if let Some(rest) = message.strip_prefix("unknown field `").or_else(|| message.strip_prefix("unknown variant `"))
            && let Some((unknown, expected)) = rest.split_once('`')
        {
            let known: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
            if !key.ends_with(unknown) {
                key = if key.is_empty() { unknown.to_owned() } else { format!("{key}.{unknown}") };
            }
            message = format!("there is no such key{}", nearest(unknown, known));
        }
        Problem { file: self.file.clone(), line, key, message }
    }

    fn line(&self, at: usize) -> usize {
        1 + self.text.bytes().take(at).filter(|b| *b == b'\n').count()
    }

    /// Where the key at `path` begins.
    fn find(&self, path: &[&str]) -> Option<usize> {
        let table = DeTable::parse(&self.text).ok()?;
        let (first, rest) = path.split_first()?;
        let mut found = table.get_ref().get_key_value(*first)?;
        for name in rest {
            let DeValue::Table(below) = found.1.get_ref() else { break };
            match below.get_key_value(*name) {
                Some(next) => found = next,
                None => break,
            }
        }
        Some(found.0.span().start)
    }

    /// The key whose text is at `at`, or whose value is, with all above it.
    fn key_at(&self, at: usize) -> Option<String> {
        let table = DeTable::parse(&self.text).ok()?;
        let mut best: Option<(usize, String)> = None;
        walk(table.get_ref(), "", at, &mut best);
        best.map(|(_, key)| key)
    }
}

/// Looks for the smallest place around `at`.
fn walk(table: &DeTable<'_>, above: &str, at: usize, best: &mut Option<(usize, String)>) {
    for (name, value) in table {
        let key = if above.is_empty() { name.get_ref().to_string() } else { format!("{above}.{}", name.get_ref()) };
        for span in [name.span(), value.span()] {
            let smaller = best.as_ref().is_none_or(|(len, _)| span.len() <= *len);
            if span.contains(&at) && smaller {
                *best = Some((span.len(), key.clone()));
            }
        }
        below(value.get_ref(), &key, at, best);
    }
}

fn below(value: &DeValue<'_>, key: &str, at: usize, best: &mut Option<(usize, String)>) {
    match value {
        DeValue::Table(table) => walk(table, key, at, best),
        DeValue::Array(values) => values.iter().for_each(|value| below(value.get_ref(), key, at, best)),
        _ => {}
    }
}

/// Words for the known name that is nearest to `unknown`, or for all of them.
pub(crate) fn nearest<'a>(unknown: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    let near = known.iter().map(|name| (strsim::damerau_levenshtein(unknown, name), *name)).min();
    match near {
        Some((distance, name)) if distance <= 1 + unknown.len() / 3 && distance < unknown.len() => {
            format!(": the nearest is {name}")
        }
        Some(_) => format!(": there are {}", known.join(", ")),
        None => String::new(),
    }
}
