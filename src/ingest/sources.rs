//! The given paths as a tree of names: what stands where in the snapshot, and what only leads there.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::ingest::input::Input;
use crate::ingest::options::Source;
use crate::model::escape;
use crate::model::node::check_name;

/// A name on the way to given paths, or a given path itself.
#[derive(Debug, Default)]
pub(crate) struct SourceEntry {
    /// What is stored here, when something was given for this place.
    pub(crate) input: Option<NumberedInput>,
    /// What is below it.
    pub(crate) below: BTreeMap<Vec<u8>, SourceEntry>,
}

/// An input, and its number among all of them.
#[derive(Debug, Clone)]
pub(crate) struct NumberedInput {
    /// Its number.
    pub(crate) number: usize,
    /// The input.
    pub(crate) input: Arc<dyn Input>,
}

/// Builds the tree. Two inputs for one place are a usage error.
pub(crate) fn places(inputs: &[Arc<dyn Input>]) -> Result<SourceEntry> {
    let mut root = SourceEntry::default();
    for (number, input) in inputs.iter().enumerate() {
        let mut place = &mut root;
        for name in names(input.stored())? {
            place = place.below.entry(name.to_vec()).or_default();
        }
        if place.input.as_ref().is_some_and(|other| input.differs(&*other.input)) {
            return Err(Error::invalid(format!("two sources would be stored as {}", escape(input.stored()))));
        }
        place.input = Some(NumberedInput { number, input: input.clone() });
    }
    Ok(root)
}

impl SourceEntry {
    /// Calls `visit` with every input at and below this place: where it stands, and what it is. There may be thousands of
    /// levels.
    pub(crate) fn each<'p>(&'p self, path: &[u8], mut visit: impl FnMut(&[u8], &'p NumberedInput)) {
        let mut rest = vec![(path.to_vec(), self)];
        while let Some((path, place)) = rest.pop() {
            if let Some(given) = &place.input {
                visit(&path, given);
            }
            rest.extend(place.below.iter().rev().map(|(name, place)| ([&path[..], b"/", name].concat(), place)));
        }
    }

    /// Whether anything that was given at or below this place is there. Of a stream only its end tells.
    pub(crate) fn is_there(&self) -> bool {
        let mut there = false;
        self.each(b"", |_, given| there = there || given.input.path().is_none_or(|path| path.symlink_metadata().is_ok()));
        there
    }
}

/// Whether a given path stands for what the link of its name leads to: it ends with a slash, as with rsync.
pub(crate) fn follows(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    bytes.len() > 1 && bytes.ends_with(b"/")
}

/// Why a given path that the walk did not come to cannot be stored where it was given.
pub(crate) fn obstacle(path: &Path) -> String {
    let shown = |path: &Path| escape(path.as_os_str().as_bytes());
    let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
    above.reverse();
    for at in above {
        match at.symlink_metadata() {
            Err(e) => return format!("{}: {e}", shown(at)),
            Ok(found) if found.is_symlink() => {
                let target = std::fs::canonicalize(path).map(|real| format!(": give {}", shown(&real))).unwrap_or_default();
                return format!("it is below the link {}, which is stored as a link{target}", shown(at));
            }
            Ok(found) if !found.is_dir() => return format!("{} is no directory", shown(at)),
            Ok(_) => {}
        }
    }
    match path.symlink_metadata() {
        Err(e) => e.to_string(),
        Ok(_) => "what it is in was not stored".to_owned(),
    }
}

/// The names of an absolute path.
pub fn names(path: &[u8]) -> Result<Vec<&[u8]>> {
    if path.first() != Some(&b'/') {
        return Err(Error::invalid(format!("{} is not an absolute path", escape(path))));
    }
    let names: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|name| !name.is_empty() && *name != b".").collect();
    for name in &names {
        check_name(name).map_err(|_| Error::invalid(format!("{} cannot be stored under this name", escape(path))))?;
    }
    Ok(names)
}

/// `path` made absolute at `base`, with `.` and `..` taken away by their names alone (no link is looked at).
pub(crate) fn absolute(base: &Path, path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for part in base.join(path).components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => drop(out.pop()),
            _ => {}
        }
    }
    out
}

/// A given path, made absolute at `base` and stored under its own name.
pub fn source(base: &Path, path: &Path) -> Source {
    let path = absolute(base, path);
    Source { stored: path.as_os_str().as_bytes().to_vec(), path }
}

/// The path that stands at `stored`, for the live metadata of places that were not given.
pub(crate) fn live_path(stored: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(stored.to_vec()))
}

/// Splits a given path into the directory to open and the name in it; `None` for `/`.
pub(crate) fn split(path: &Path) -> Option<(&Path, &OsStr)> {
    Some((path.parent()?, path.file_name()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_joined_by_their_names() {
        let at = |path: &str| absolute(Path::new("/home/me"), Path::new(path)).to_string_lossy().into_owned();
        assert_eq!(at("x/./y"), "/home/me/x/y");
        assert_eq!(at("../you//z/"), "/home/you/z");
        assert_eq!(at("/../../etc"), "/etc");
        assert_eq!(at("/"), "/");
    }

    #[test]
    fn one_place_has_one_source() {
        let source =
            |path: &str, stored: &str| -> Arc<dyn Input> { Arc::new(Source { path: path.into(), stored: stored.into() }) };
        assert!(places(&[source("/a", "/x"), source("/a", "/x")]).is_ok());
        assert!(places(&[source("/a", "/x"), source("/b", "/x")]).is_err());
        assert!(places(&[source("/a", "/a"), source("/a/", "/a")]).is_err());
        assert!(places(&[source("/a", "x")]).is_err());
        assert!(places(&[source("/a", "/x/..")]).is_err());
    }
}
