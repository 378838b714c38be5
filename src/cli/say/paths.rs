//! Paths: their bytes, and how they are shown.

use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

pub use yester::jobs::paths::absolute;

/// The bytes of a path.
pub fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// A path of these bytes.
pub fn from_bytes(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

/// A path for a message.
pub fn shown(path: &Path) -> String {
    yester::model::escape(bytes(path))
}

/// So many paths of a list are shown.
const SHOWN: usize = 3;

/// Paths for a message or a heading: the first few, and how many there are. A list may have thousands.
pub fn several(paths: &[Vec<u8>]) -> String {
    let mut shown: Vec<String> = paths.iter().take(SHOWN + 1).map(|path| yester::model::escape(path)).collect();
    if paths.len() <= SHOWN + 1 {
        return shown.join(", ");
    }
    shown.truncate(SHOWN);
    format!("{} and {} more", shown.join(", "), crate::cli::say::units::count((paths.len() - SHOWN) as u64))
}

/// The names of an absolute path.
pub fn names(path: &Path) -> Vec<&[u8]> {
    bytes(path).split(|b| *b == b'/').filter(|name| !name.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_cut() {
        let list = |count: usize| several(&(0..count).map(|n| format!("/{n}").into_bytes()).collect::<Vec<_>>());
        assert_eq!(list(1), "/0");
        assert_eq!(list(4), "/0, /1, /2, /3");
        assert_eq!(list(5), "/0, /1, /2 and 2 more");
        assert_eq!(list(20_000), "/0, /1, /2 and 19,997 more");
    }
}
