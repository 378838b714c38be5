//! Patterns against paths: which of several is the one that counts, and which matched nothing.
//!
//! The rules are one page for people, `docs/patterns.md`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use globset::{Candidate, GlobBuilder, GlobSet, GlobSetBuilder};

use crate::error::{Error, Result};

/// Patterns in order. Of those that match a path the last one counts.
#[derive(Debug, Default)]
pub struct Patterns {
    set: GlobSet,
    all: Vec<Pattern>,
}

/// One pattern.
#[derive(Debug)]
struct Pattern {
    /// As it was given.
    text: String,
    /// It takes back what earlier ones match.
    takes_back: bool,
    matched: AtomicBool,
}

impl Patterns {
    /// Compiles patterns, each with whether the case of letters is ignored. One that cannot be used, or could never match, is
    /// a usage error that names it.
    pub fn new<'p>(patterns: impl IntoIterator<Item = (&'p str, bool)>) -> Result<Self> {
        let (mut set, mut all) = (GlobSetBuilder::new(), Vec::new());
        for (text, ignore_case) in patterns {
            let bad = |why: &str| Error::invalid(format!("the pattern {text:?} cannot be used: {why}"));
            let (glob, takes_back) = normal(text).map_err(bad)?;
            let glob = GlobBuilder::new(&glob).literal_separator(true).case_insensitive(ignore_case).build();
            set.add(glob.map_err(|e| bad(&e.kind().to_string()))?);
            all.push(Pattern { text: text.to_owned(), takes_back, matched: AtomicBool::new(false) });
        }
        let set = set.build().map_err(|e| Error::invalid(format!("the patterns cannot be used: {}", e.kind())))?;
        Ok(Patterns { set, all })
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The pattern by which the absolute `path` is matched; `None` when none matches, or the last that does takes it back.
    pub(crate) fn find(&self, path: &[u8]) -> Option<&str> {
        if self.all.is_empty() {
            return None;
        }
        let candidate = Candidate::new(Path::new(OsStr::from_bytes(path)));
        if !self.set.is_match_candidate(&candidate) {
            return None;
        }
        let mut found = Vec::new();
        self.set.matches_candidate_into(&candidate, &mut found);
        let found: Vec<&Pattern> = found.iter().filter_map(|at| self.all.get(*at)).collect();
        // One that takes back matched something only where there was something to take back.
        let first = found.iter().position(|pattern| !pattern.takes_back)?;
        found.iter().skip(first).for_each(|pattern| pattern.matched.store(true, Ordering::Relaxed));
        found.last().filter(|last| !last.takes_back).map(|last| last.text.as_str())
    }

    /// The patterns that have matched nothing so far, as they were given.
    pub fn unmatched(&self) -> impl Iterator<Item = &str> {
        let unmatched = |pattern: &&Pattern| !pattern.matched.load(Ordering::Relaxed);
        self.all.iter().filter(unmatched).map(|pattern| pattern.text.as_str())
    }
}

/// The glob that a pattern means, against absolute paths, and whether it takes back. A pattern without a slash is about names
/// anywhere; one that begins with a slash about absolute paths; any other about the ends of paths.
fn normal(text: &str) -> Result<(String, bool), &'static str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (text, takes_back) = text.strip_prefix('!').map_or((text, false), |rest| (rest, true));
    if text.is_empty() {
        return Err("it is empty");
    }
    let first = text.split('/').next().unwrap_or_default();
    match first {
        "." | ".." => return Err("it begins with the working directory, which is not known here: write an absolute path"),
        "~" | "$HOME" | "${HOME}" => {
            return Err("it begins with a home directory, which is not known here: write an absolute path");
        }
        _ => {}
    }
    let names: Vec<&str> = text.split('/').filter(|name| !name.is_empty() && *name != ".").collect();
    if names.contains(&"..") {
        return Err("a path is never stored with .. in it: write the path that is meant");
    }
    if names.is_empty() {
        return Err("it would match everything or nothing");
    }
    let anchor = if text.starts_with('/') { "/" } else { "/**/" };
    Ok((format!("{anchor}{}", names.join("/")), takes_back))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(patterns: &[&str]) -> Patterns {
        Patterns::new(patterns.iter().map(|p| (*p, false))).expect("patterns")
    }

    #[test]
    fn the_last_that_matches_counts() {
        let patterns = of(&["*.log", "!keep.log", "/var/log/keep.log", "!never", "*.o"]);
        assert_eq!(patterns.find(b"/x/a.log"), Some("*.log"));
        assert_eq!(patterns.find(b"/x/keep.log"), None);
        assert_eq!(patterns.find(b"/var/log/keep.log"), Some("/var/log/keep.log"));
        assert_eq!(patterns.find(b"/x/never"), None);
        assert_eq!(patterns.find(b"/x/other"), None);
        assert_eq!(patterns.unmatched().collect::<Vec<_>>(), ["!never", "*.o"]);
    }

    #[test]
    fn what_is_written_in_other_ways_means_the_same() {
        for same in ["a/b", "a//b", "a/./b", "a/b/", "a/b//", "a/b/.", "\u{feff}a/b", "/**/a/b"] {
            assert_eq!(of(&[same]).find(b"/x/a/b"), Some(same));
            assert_eq!(of(&[same]).find(b"/x/a/c"), None);
        }
        assert_eq!(of(&["//x//a"]).find(b"/x/a"), Some("//x//a"));
        assert_eq!(of(&["\\!a"]).find(b"/x/!a"), Some("\\!a"));
        assert_eq!(of(&["$RECYCLE.BIN"]).find(b"/c/$RECYCLE.BIN"), Some("$RECYCLE.BIN"));
        assert_eq!(of(&["*~"]).find(b"/x/a~"), Some("*~"));
    }

    #[test]
    fn what_could_match_nothing_is_refused() {
        for bad in ["", "!", "/", "//", "./a", "../a", "a/../b", "~/a", "$HOME/a", "${HOME}", ".", "\u{feff}", "[", "/."] {
            let error = Patterns::new([(bad, false)]).expect_err(bad);
            assert_eq!(error.kind(), crate::ErrorKind::Invalid, "{bad}");
        }
    }

    #[test]
    fn letters_may_be_of_any_case() {
        let patterns = Patterns::new([("*.TMP", true), ("*.bak", false)]).expect("patterns");
        assert!(patterns.find(b"/a.tmp").is_some() && patterns.find(b"/a.BAK").is_none());
    }
}
