//! Which extended attributes are left out: patterns for their names, the same for every command.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use globset::{Glob, GlobSet, GlobSetBuilder};

use crate::error::{Error, Result};

/// Patterns for names of extended attributes.
#[derive(Debug, Clone, Default)]
pub(crate) struct AttributeFilter(GlobSet);

impl AttributeFilter {
    /// Compiles globs such as `user.*` or `security.selinux`; one that is no glob is a usage error.
    pub(crate) fn new(patterns: &[String]) -> Result<Self> {
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            let bad = |e: globset::Error| Error::invalid(format!("the pattern {pattern:?} for attributes: {}", e.kind()));
            set.add(Glob::new(pattern).map_err(bad)?);
        }
        let set = set.build().map_err(|e| Error::invalid(format!("the patterns for attributes: {}", e.kind())))?;
        Ok(AttributeFilter(set))
    }

    /// Whether there is no pattern.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the attribute is left out.
    pub(crate) fn excludes(&self, name: &[u8]) -> bool {
        !self.0.is_empty() && self.0.is_match(Path::new(OsStr::from_bytes(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_whole() {
        let filter = AttributeFilter::new(&["user.*".into(), "security.selinux".into()]).unwrap();
        assert!(filter.excludes(b"user.a.b") && filter.excludes(b"security.selinux"));
        assert!(!filter.excludes(b"security.selinux2") && !filter.excludes(b"trusted.user.x"));
        assert!(AttributeFilter::new(&["[".into()]).is_err());
        assert!(!AttributeFilter::default().excludes(b"user.a"));
    }
}
