//! Which snapshots, and what in them: filters and `SNAP[:PATH]`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Args;
use yester::model::Snapshot;
use yester::repo::Repository;
use yester::repo::snapshots::{self, Filter};
use yester::{Error, Result};

use super::paths;

/// Options that choose among snapshots.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Filters")]
pub struct Filters {
    /// Only snapshots of this host (may be repeated: any of them)
    #[arg(short = 'H', long = "host", value_name = "HOST")]
    hosts: Vec<OsString>,
    /// Only snapshots with all these tags (may be repeated: any of the sets)
    #[arg(long = "tag", value_name = "TAG[,TAG…]")]
    tags: Vec<OsString>,
    /// Only snapshots that were given this path (may be repeated: all of them)
    #[arg(long = "path", value_name = "PATH")]
    paths: Vec<PathBuf>,
}

impl Filters {
    /// The same from options of a command of its own.
    pub fn new(hosts: &[OsString], tags: &[OsString], paths: &[PathBuf]) -> Self {
        Filters { hosts: hosts.to_vec(), tags: tags.to_vec(), paths: paths.to_vec() }
    }

    /// The library's filter.
    pub fn filter(&self) -> Result<Filter> {
        let absolute = |path: &PathBuf| paths::absolute(path).map(|p| paths::bytes(&p).to_vec());
        Ok(Filter {
            hosts: self.hosts.iter().map(|h| h.as_bytes().to_vec()).collect(),
            tags: self.tags.iter().map(|set| tags(set)).collect(),
            paths: self.paths.iter().map(absolute).collect::<Result<_>>()?,
        })
    }
}

/// The tags of one `--tag`: parted at commas, sorted, without doubles and empty ones.
pub fn tags(list: &OsStr) -> Vec<Vec<u8>> {
    let mut tags: Vec<Vec<u8>> = list.as_bytes().split(|b| *b == b',').filter(|t| !t.is_empty()).map(<[u8]>::to_vec).collect();
    tags.sort_unstable();
    tags.dedup();
    tags
}

/// `SNAP[:PATH]` as it was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// The snapshot's name.
    pub snapshot: String,
    /// The path, absolute; `None` when there was no colon.
    pub path: Option<PathBuf>,
}

impl Spec {
    /// Parts `text` at its first colon. A relative path is joined to the working directory; nothing after the colon
    /// is the root.
    pub fn parse(text: &OsStr) -> Result<Self> {
        let bytes = text.as_bytes();
        let (name, path) = match bytes.iter().position(|b| *b == b':').and_then(|at| bytes.split_at_checked(at)) {
            Some((name, rest)) => (name, rest.get(1..)),
            None => (bytes, None),
        };
        let path =
            path.map(|p| if p.is_empty() { Ok(PathBuf::from("/")) } else { paths::absolute(Path::new(OsStr::from_bytes(p))) });
        // A name that is not UTF-8 is none; `find` says so.
        Ok(Spec { snapshot: String::from_utf8_lossy(name).into_owned(), path: path.transpose()? })
    }

    /// The path's names, from the root.
    pub fn names(&self) -> Vec<&[u8]> {
        self.path.as_deref().map(paths::names).unwrap_or_default()
    }
}

/// The snapshot called `name` among those that pass.
pub fn snapshot(repo: &Repository, name: &str, filter: &Filter) -> Result<Snapshot> {
    let (all, damaged) = snapshots::list_with_damage(repo)?;
    // A damaged snapshot may be the one that is meant: `latest` must not silently become an older one.
    match damaged.into_iter().next() {
        Some(e) if name.starts_with("latest") => Err(Error::new(e.kind(), format!("{name} cannot be told: {e}"))),
        first => match snapshots::find(&all, name, filter) {
            Ok(found) => Ok(found.clone()),
            Err(error) => Err(first.unwrap_or(error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_are_parted_at_the_first_colon() {
        let spec = |text: &str| Spec::parse(OsStr::new(text)).unwrap();
        assert_eq!(spec("latest"), Spec { snapshot: "latest".into(), path: None });
        assert_eq!(spec("latest:"), Spec { snapshot: "latest".into(), path: Some("/".into()) });
        assert_eq!(spec("latest~2:/a/../b:c/").names(), [b"b:c"]);
        assert!(spec("abcd:x").path.is_some_and(|p| p.is_absolute() && p.ends_with("x")));
    }

    #[test]
    fn tags_are_sets() {
        assert_eq!(tags(OsStr::new("b,a,,b")), [b"a".to_vec(), b"b".to_vec()]);
    }
}
