//! Which entries the patterns let pass.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Result;
use crate::model::patterns::Patterns;

/// Include and exclude patterns, compiled.
#[derive(Debug)]
pub(crate) struct PathFilter {
    include: Option<Patterns>,
    exclude: Patterns,
    /// Whether all include patterns have matched.
    all_matched: AtomicBool,
}

/// What a filter says of one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FilterVerdict {
    /// It is restored.
    Take,
    /// It is not, but something below it may be.
    Pass,
    /// Neither it nor what is below it.
    Skip,
}

fn compile(patterns: &[String]) -> Result<Patterns> {
    Patterns::new(patterns.iter().map(|pattern| (pattern.as_str(), false)))
}

impl PathFilter {
    /// Compiles the patterns; one that cannot be used, or could never match, is a usage error.
    pub(crate) fn new(include: &[String], exclude: &[String]) -> Result<Self> {
        let all_matched = AtomicBool::new(include.is_empty());
        let include = if include.is_empty() { None } else { Some(compile(include)?) };
        Ok(PathFilter { include, exclude: compile(exclude)?, all_matched })
    }

    /// Judges an entry of the snapshot, and notes which patterns it matches.
    pub(crate) fn visit(&self, path: &[u8], inside: bool) -> FilterVerdict {
        let verdict = self.judge(path, inside);
        if verdict == FilterVerdict::Take
            && let (false, Some(patterns)) = (self.all_matched.load(Ordering::Relaxed), &self.include)
        {
            // Which pattern it is does not matter: all that match are noted.
            patterns.find(path);
            self.all_matched.store(patterns.unmatched().next().is_none(), Ordering::Relaxed);
        }
        verdict
    }

    /// Tells each include pattern that matched nothing.
    pub(crate) fn unmatched(&self, mut tell: impl FnMut(&[u8])) {
        self.include.iter().flat_map(Patterns::unmatched).for_each(|pattern| tell(pattern.as_bytes()));
    }

    /// Judges the entry at `path` (absolute, inside the snapshot), whose directory was taken itself or only passed.
    pub(crate) fn judge(&self, path: &[u8], inside: bool) -> FilterVerdict {
        if self.exclude.find(path).is_some() {
            return FilterVerdict::Skip;
        }
        match &self.include {
            Some(patterns) if !inside && patterns.find(path).is_none() => FilterVerdict::Pass,
            _ => FilterVerdict::Take,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_anywhere_and_paths_where_they_say() {
        let filter = PathFilter::new(&["/etc/nginx".into(), "*.conf".into()], &["*.bak".into(), "b/secret".into()]).unwrap();
        assert_eq!(filter.judge(b"/etc", false), FilterVerdict::Pass);
        assert_eq!(filter.judge(b"/etc/nginx", false), FilterVerdict::Take);
        assert_eq!(filter.judge(b"/etc/nginx/x", true), FilterVerdict::Take);
        assert_eq!(filter.judge(b"/var/x.conf", false), FilterVerdict::Take);
        assert_eq!(filter.judge(b"/var/x.conf.bak", false), FilterVerdict::Skip);
        assert_eq!(filter.judge(b"/a/b/secret", true), FilterVerdict::Skip);
        assert_eq!(filter.judge(b"/other/etc/nginx", false), FilterVerdict::Pass);
        for bad in ["[", "", "../x"] {
            assert!(PathFilter::new(&[bad.into()], &[]).is_err() && PathFilter::new(&[], &[bad.into()]).is_err(), "{bad}");
        }
    }

    #[test]
    fn later_patterns_take_back() {
        let filter = PathFilter::new(&["/a".into(), "!*.bak".into()], &["*.log".into(), "!keep.log".into()]).unwrap();
        assert_eq!(filter.judge(b"/a", false), FilterVerdict::Take);
        assert_eq!(filter.judge(b"/a/x.log", true), FilterVerdict::Skip);
        assert_eq!(filter.judge(b"/a/keep.log", true), FilterVerdict::Take);
    }

    #[test]
    fn a_star_stays_within_one_name() {
        let filter = PathFilter::new(&["/a/*/c".into()], &[]).unwrap();
        assert_eq!(filter.judge(b"/a/b/c", false), FilterVerdict::Take);
        assert_eq!(filter.judge(b"/a/b/b/c", false), FilterVerdict::Pass);
    }
}
