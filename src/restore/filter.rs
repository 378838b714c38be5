//! Which entries the patterns let pass.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::error::{Error, Result};

/// Include and exclude patterns, compiled.
#[derive(Debug)]
pub(crate) struct Filter {
    include: Option<GlobSet>,
    exclude: GlobSet,
    /// The include patterns, and whether each has matched.
    included: Vec<(String, AtomicBool)>,
    /// Whether all of them have.
    all_matched: AtomicBool,
}

/// What a filter says of one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is restored.
    Take,
    /// It is not, but something below it may be.
    Pass,
    /// Neither it nor what is below it.
    Skip,
}

fn compile(patterns: &[String]) -> Result<GlobSet> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        // A name may be anywhere; so may a path that does not say where it begins.
        let anchored = if pattern.starts_with('/') { pattern.clone() } else { format!("**/{pattern}") };
        let trimmed = if anchored.len() > 1 { anchored.trim_end_matches('/') } else { &anchored };
        let glob = GlobBuilder::new(trimmed).literal_separator(true).build();
        set.add(glob.map_err(|e| Error::invalid(format!("the pattern {pattern:?}: {e}")))?);
    }
    set.build().map_err(|e| Error::invalid(format!("the patterns: {e}")))
}

impl Filter {
    /// Compiles the patterns; one that is no glob is a usage error.
    pub(crate) fn new(patterns: &[String], exclude: &[String]) -> Result<Self> {
        let include = if patterns.is_empty() { None } else { Some(compile(patterns)?) };
        let exclude = compile(exclude)?;
        let included: Vec<_> = patterns.iter().map(|pattern| (pattern.clone(), AtomicBool::new(false))).collect();
        let all_matched = AtomicBool::new(included.is_empty());
        Ok(Filter { include, exclude, included, all_matched })
    }

    /// Judges an entry of the snapshot, and notes which patterns it matches.
    pub(crate) fn visit(&self, path: &[u8], inside: bool) -> Verdict {
        let verdict = self.judge(path, inside);
        if verdict == Verdict::Take
            && let (false, Some(set)) = (self.all_matched.load(Ordering::Relaxed), &self.include)
        {
            for at in set.matches(Path::new(OsStr::from_bytes(path))) {
                if let Some((_, matched)) = self.included.get(at) {
                    matched.store(true, Ordering::Relaxed);
                }
            }
            let all = self.included.iter().all(|(_, matched)| matched.load(Ordering::Relaxed));
            self.all_matched.store(all, Ordering::Relaxed);
        }
        verdict
    }

    /// Tells each include pattern that matched nothing.
    pub(crate) fn unmatched(&self, mut tell: impl FnMut(&[u8])) {
        let unmatched = self.included.iter().filter(|(_, matched)| !matched.load(Ordering::Relaxed));
        unmatched.for_each(|(pattern, _)| tell(pattern.as_bytes()));
    }

    /// Judges the entry at `path` (absolute, inside the snapshot), whose directory was taken itself or only passed.
    pub(crate) fn judge(&self, path: &[u8], inside: bool) -> Verdict {
        let path = Path::new(OsStr::from_bytes(path));
        if self.exclude.is_match(path) {
            return Verdict::Skip;
        }
        match &self.include {
            Some(set) if !inside && !set.is_match(path) => Verdict::Pass,
            _ => Verdict::Take,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_anywhere_and_paths_where_they_say() {
        let filter = Filter::new(&["/etc/nginx".into(), "*.conf".into()], &["*.bak".into(), "b/secret".into()]).unwrap();
        assert_eq!(filter.judge(b"/etc", false), Verdict::Pass);
        assert_eq!(filter.judge(b"/etc/nginx", false), Verdict::Take);
        assert_eq!(filter.judge(b"/etc/nginx/x", true), Verdict::Take);
        assert_eq!(filter.judge(b"/var/x.conf", false), Verdict::Take);
        assert_eq!(filter.judge(b"/var/x.conf.bak", false), Verdict::Skip);
        assert_eq!(filter.judge(b"/a/b/secret", true), Verdict::Skip);
        assert_eq!(filter.judge(b"/other/etc/nginx", false), Verdict::Pass);
        assert!(Filter::new(&["[".into()], &[]).is_err());
    }

    #[test]
    fn a_star_stays_within_one_name() {
        let filter = Filter::new(&["/a/*/c".into()], &[]).unwrap();
        assert_eq!(filter.judge(b"/a/b/c", false), Verdict::Take);
        assert_eq!(filter.judge(b"/a/b/b/c", false), Verdict::Pass);
    }
}
