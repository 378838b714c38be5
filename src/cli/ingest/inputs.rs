//! What is ingested: the given paths, lists of paths, lists of patterns.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use yester::error::IoContext;
use yester::ingest::{Input, Source};
use yester::model::escape;
use yester::{Error, ErrorKind, Result};

use crate::cli::say::paths;

/// The sources of these paths, each where it is; the same path twice is one. A slash at the end of a link stands for what
/// the link leads to, and so does `/.`.
pub fn sources(given: impl IntoIterator<Item = PathBuf>) -> Result<Vec<Source>> {
    let mut out: Vec<Source> = Vec::new();
    let mut known: HashSet<Vec<u8>> = HashSet::new();
    for given in given {
        let path = paths::absolute(&given)?;
        let stored = paths::bytes(&path).to_vec();
        let slash = [&b"/"[..], b"/."].iter().any(|end| paths::bytes(&given).ends_with(end));
        let follows = slash && path.symlink_metadata().is_ok_and(|found| found.is_symlink());
        let path = if follows { paths::from_bytes([&stored[..], b"/"].concat()) } else { path };
        if known.insert(paths::bytes(&path).to_vec()) {
            out.push(Source { stored, path });
        }
    }
    Ok(out)
}

/// Stores the only source under another name.
pub fn rename(sources: &mut [Source], name: &Path) -> Result<()> {
    match sources {
        [one] => {
            one.stored = paths::bytes(&paths::absolute(name)?).to_vec();
            Ok(())
        }
        _ => Err(Error::invalid(format!("--as names one path, but {} were given: ingest them one by one", sources.len()))),
    }
}

/// Refuses when nothing at all is there to be read: no snapshot and no repository is made then.
pub fn require_one(inputs: &[Arc<dyn Input>]) -> Result<()> {
    let Some(first) = inputs.first() else {
        return Err(Error::invalid("there is nothing to ingest: give the path of a file or directory"));
    };
    let mut error = None;
    for input in inputs {
        match input.path().map(std::path::Path::symlink_metadata) {
            // A stream may be there; only its end tells.
            None | Some(Ok(_)) => return Ok(()),
            Some(Err(e)) => drop(error.get_or_insert(e)),
        }
    }
    let shown = escape(first.shown());
    let text = if inputs.len() == 1 {
        format!("cannot read {shown}")
    } else {
        format!("cannot read any of the given paths, {shown} first")
    };
    Err(error.map_or_else(|| Error::new(ErrorKind::NotFound, text.clone()), |e| Error::io(text.clone(), e)))
}

/// Bytes of the longest path that Linux takes.
const LONGEST: usize = 4095;

/// The paths in a list, each ended by `end` (a newline or NUL); `-` is standard input. Empty ones are left out.
pub fn listed_paths(list: &Path, end: u8) -> Result<Vec<PathBuf>> {
    let bytes = read(list)?;
    if let Some((at, path)) = bytes.split(|b| *b == end).enumerate().find(|(_, path)| path.len() > LONGEST) {
        let (number, length) = (at as u64 + 1, path.len());
        let other = if end == 0 { "a path a line: --files-from" } else { "paths ended by NUL: --files-from0" };
        let text = format!("{}: path {number} has {length} bytes, more than a path can have (for {other})", paths::shown(list));
        return Err(Error::invalid(text));
    }
    Ok(bytes.split(|b| *b == end).filter(|p| !p.is_empty()).map(|p| paths::from_bytes(p.to_vec())).collect())
}

/// The patterns in a file: one a line, without white space around it; empty lines and those with `#` first are left out.
pub fn patterns(list: &Path) -> Result<Vec<String>> {
    let text =
        String::from_utf8(read(list)?).map_err(|_| Error::invalid(format!("{}: patterns must be UTF-8", paths::shown(list))))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect())
}

fn read(list: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if list.as_os_str() == "-" {
        std::io::stdin().lock().read_to_end(&mut bytes).at(|| "cannot read the list from standard input".to_owned())?;
    } else {
        let what = || format!("cannot read {}", paths::shown(list));
        File::open(list).and_then(|mut file| file.read_to_end(&mut bytes)).at(what)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_are_one_and_as_needs_one() {
        let mut two = sources(["/a/".into(), "/b".into(), "/x/../a".into()]).unwrap();
        assert_eq!(two.iter().map(|s| s.stored.as_slice()).collect::<Vec<_>>(), [b"/a", b"/b"]);
        assert_eq!(rename(&mut two, Path::new("/c")).unwrap_err().kind(), ErrorKind::Invalid);
        rename(&mut two[..1], Path::new("/c/d/")).unwrap();
        assert_eq!((two[0].path.as_path(), two[0].stored.as_slice()), (Path::new("/a"), &b"/c/d"[..]));
    }

    #[test]
    fn something_must_be_there() {
        assert_eq!(require_one(&[]).unwrap_err().kind(), ErrorKind::Invalid);
        let inputs = |paths: [&str; 2]| -> Vec<Arc<dyn Input>> {
            sources(paths.map(PathBuf::from)).unwrap().into_iter().map(|source| Arc::new(source) as Arc<dyn Input>).collect()
        };
        let gone = inputs(["/nonexistent/1", "/nonexistent/2"]);
        assert_eq!(require_one(&gone).unwrap_err().kind(), ErrorKind::NotFound);
        assert!(require_one(&inputs(["/nonexistent/1", "/"])).is_ok());
    }
}
