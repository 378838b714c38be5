//! Paths as users give them: absolute, without `.` and `..`, never resolved through links.

use std::path::{Component, Path, PathBuf};

use crate::error::IoContext;
use crate::{Error, Result};

/// `path` joined to the working directory, with `.` and `..` removed as text. Links stay what they are: `link/..` is
/// the directory that holds the link. An empty path is a usage error.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    if path.as_os_str().is_empty() {
        return Err(Error::invalid("an empty path was given: give the path of a file or directory"));
    }
    if path.is_absolute() {
        return Ok(lexical(path));
    }
    let whole = std::path::absolute(path).at(|| "cannot find the working directory: give absolute paths".to_owned())?;
    Ok(lexical(&whole))
}

fn lexical(path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::ParentDir => drop(out.pop()),
            Component::Normal(name) => out.push(name),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_go_as_text() {
        assert_eq!(lexical(Path::new("/a/./b/../c//d/")), Path::new("/a/c/d"));
        assert_eq!(lexical(Path::new("/../..")), Path::new("/"));
        assert!(absolute(Path::new("")).is_err());
        assert!(absolute(Path::new("x")).is_ok_and(|p| p.is_absolute() && p.ends_with("x")));
    }
}
