//! Small files that are there whole or not at all, also after a crash: written beside their place, synced, and named in one
//! step; then the directory is synced.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use tempfile::NamedTempFile;

/// How names of files begin that are not whole yet. One that is found later is of a process that was killed.
pub(crate) const UNFINISHED: &str = ".new-";

/// Puts a file (0600) with this content at `path`, in the place of what is there. Durable when this returns.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let (directory, file) = beside(path, content)?;
    file.persist(path)?;
    directory.sync_all()
}

/// The same where nothing is yet; false, with nothing changed, if something is there.
pub(crate) fn create(path: &Path, content: &[u8]) -> io::Result<bool> {
    let (directory, file) = beside(path, content)?;
    match file.persist_noclobber(path) {
        Ok(_) => directory.sync_all().map(|()| true),
        Err(e) if e.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(e.error),
    }
}

/// The directory of `path`, and a durable file in it with a name of its own, which goes if it is not named.
fn beside(path: &Path, content: &[u8]) -> io::Result<(File, NamedTempFile)> {
    let directory = match path.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(directory)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    Ok((File::open(directory)?, file))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn files_are_replaced_or_made_once_and_nothing_is_left_over() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("file");
        assert!(create(&path, b"one").unwrap());
        assert!(!create(&path, b"two").unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        replace(&path, b"three").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"three");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(replace(&place.path().join("no/file"), b"four").is_err());
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1);
    }
}
