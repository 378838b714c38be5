//! Where things are: the user's directories after the XDG rules, and what a repository's name means.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use yester::net::address::Address;
use yester::{Error, ErrorKind, Result};

use super::paths;

/// The user's directories of yester; `None` where neither HOME nor the XDG variable says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    data: Option<PathBuf>,
    config: Option<PathBuf>,
    state: Option<PathBuf>,
    cache: Option<PathBuf>,
}

/// Where a repository is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// In a local directory, absolute.
    Local(PathBuf),
    /// On another machine.
    Remote(Address),
}

/// A repository, as it was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Where it is.
    pub location: Location,
    /// Nobody named it: it is the user's default one, which `ingest` may make.
    pub implied: bool,
}

impl Place {
    /// Its directory, if it is on this machine.
    pub fn local(&self) -> Option<&Path> {
        match &self.location {
            Location::Local(path) => Some(path),
            Location::Remote(_) => None,
        }
    }

    /// For people.
    pub fn shown(&self) -> String {
        match &self.location {
            Location::Local(path) => paths::shown(path),
            Location::Remote(address) => address.to_string(),
        }
    }

    /// For programs: the bytes of a path, or the text of an address.
    pub fn bytes(&self) -> Vec<u8> {
        match &self.location {
            Location::Local(path) => paths::bytes(path).to_vec(),
            Location::Remote(address) => address.to_string().into_bytes(),
        }
    }
}

impl Places {
    /// The places that the variables of `get` lead to. As the XDG rules ask, what is not absolute is ignored.
    pub fn new(get: impl Fn(&str) -> Option<OsString>) -> Self {
        let absolute = |name: &str| get(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let home = absolute("HOME");
        let place = |variable: &str, below: &str| {
            let base = absolute(variable).or_else(|| home.as_ref().map(|h| h.join(below)))?;
            Some(base.join("yester"))
        };
        Places {
            data: place("XDG_DATA_HOME", ".local/share"),
            config: place("XDG_CONFIG_HOME", ".config"),
            state: place("XDG_STATE_HOME", ".local/state"),
            cache: place("XDG_CACHE_HOME", ".cache"),
        }
    }

    /// The default repository.
    pub fn repository(&self) -> Result<PathBuf> {
        let missing = "neither HOME nor XDG_DATA_HOME is set, so there is no default repository: name one with --repo";
        self.data.as_ref().map(|d| d.join("repository")).ok_or_else(|| Error::invalid(missing))
    }

    /// The key file of the default repository.
    pub fn key_file(&self) -> Option<PathBuf> {
        self.config.as_ref().map(|d| d.join("key"))
    }

    /// Where logs go.
    pub fn state(&self) -> Option<&Path> {
        self.state.as_deref()
    }

    /// Where caches go.
    pub fn cache(&self) -> Option<&Path> {
        self.cache.as_deref()
    }

    /// The repository that `name` means; without one, the default.
    pub fn find(&self, name: Option<&OsStr>) -> Result<Place> {
        match name {
            None => Ok(Place { location: Location::Local(self.repository()?), implied: true }),
            Some(name) => Ok(Place { location: location(name)?, implied: false }),
        }
    }

    /// Whether `place` is the default repository, named or not.
    pub fn is_default(&self, place: &Place) -> bool {
        place.implied || self.repository().is_ok_and(|path| place.local() == Some(&path))
    }
}

/// What a repository's name means. The name may hold a secret by mistake: it is not in any error.
fn location(name: &OsStr) -> Result<Location> {
    let bytes = name.as_bytes();
    if bytes.is_empty() {
        return Err(Error::invalid("--repo has an empty value: give the path of a repository"));
    }
    let Some(scheme) = scheme(bytes) else { return paths::absolute(Path::new(name)).map(Location::Local) };
    if holds_secret(bytes, scheme) {
        let text = "the repository's name holds a password or token, where others can see it in the list of processes: \
                    leave it out and give it by YESTER_TOKEN, YESTER_TOKEN_FILE or YESTER_TOKEN_COMMAND";
        return Err(Error::invalid(text));
    }
    let rest = bytes.get(scheme.len() + 3..).unwrap_or_default();
    match scheme {
        b"https" => Address::https(rest).map(Location::Remote),
        b"ssh" => Address::ssh(rest).map(Location::Remote),
        b"s3" => {
            let text = "s3: repositories in object stores are not supported by this version: give a path, https:// or ssh://";
            Err(Error::new(ErrorKind::Unsupported, text))
        }
        _ => Err(Error::invalid(
            "this kind of repository name is unknown: give a path (./NAME for one with a colon), https://, ssh:// or s3:",
        )),
    }
}

/// What stands before `://`, or `s3`; `None` for a path.
fn scheme(name: &[u8]) -> Option<&[u8]> {
    let end = name.iter().position(|b| !b.is_ascii_alphanumeric() && !b"+-.".contains(b))?;
    let (scheme, rest) = name.split_at_checked(end)?;
    if scheme == b"s3" && rest.starts_with(b":") || !scheme.is_empty() && rest.starts_with(b"://") { Some(scheme) } else { None }
}

fn holds_secret(name: &[u8], scheme: &[u8]) -> bool {
    let after = name.windows(3).position(|w| w == b"://").map_or(scheme.len() + 1, |at| at + 3);
    let rest = name.get(after..).unwrap_or_default();
    let authority = rest.split(|b| *b == b'/').next().unwrap_or_default();
    let user = authority.iter().rposition(|b| *b == b'@').and_then(|at| authority.get(..at));
    match user {
        // A user's name is part of an ssh address, and of no other.
        Some(user) => scheme != b"ssh" || user.contains(&b':'),
        None => rest.contains(&b'?') || rest.contains(&b'#'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(variables: &[(&str, &str)]) -> Places {
        Places::new(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into()))
    }

    #[test]
    fn xdg_beats_home_and_must_be_absolute() {
        let home = places(&[("HOME", "/h")]);
        assert_eq!(home.repository().unwrap(), Path::new("/h/.local/share/yester/repository"));
        assert_eq!(home.key_file().unwrap(), Path::new("/h/.config/yester/key"));
        let both = places(&[("HOME", "/h"), ("XDG_DATA_HOME", "/d"), ("XDG_CONFIG_HOME", "relative")]);
        assert_eq!(both.repository().unwrap(), Path::new("/d/yester/repository"));
        assert_eq!(both.key_file().unwrap(), Path::new("/h/.config/yester/key"));
        for nowhere in [places(&[]), places(&[("HOME", "")]), places(&[("HOME", "here")])] {
            let error = nowhere.repository().unwrap_err();
            assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("--repo"), "{error}");
        }
    }

    #[test]
    fn names_that_are_no_paths_are_told_apart() {
        let find = |name: &str| location(OsStr::new(name)).map(|location| Place { location, implied: false });
        let kind = |name: &str| find(name).map_err(|e| e.kind());
        assert_eq!(kind("/a/../b").unwrap().local().unwrap(), Path::new("/b"));
        assert!(kind("a:b").unwrap().local().unwrap().ends_with("a:b"));
        assert!(kind("./s3:x").unwrap().local().unwrap().ends_with("s3:x"));
        for remote in ["https://h:7070/web", "ssh://u@h/p", "ssh://h/./p"] {
            assert_eq!(kind(remote).unwrap().shown(), remote);
        }
        assert_eq!(kind("s3:https://h/bucket/p").unwrap_err(), ErrorKind::Unsupported);
        for bad in ["", "ftp://h/p", "http://h", "http://h/p", "https://h", "ssh://-oX=y/p"] {
            assert_eq!(kind(bad).unwrap_err(), ErrorKind::Invalid, "{bad}");
        }
        let secrets = [
            "https://u:geheim@h/p",
            "https://geheim@h/p",
            "ssh://u:geheim@h/p",
            "s3:https://k:geheim@h/b",
            "https://h/p?t=geheim",
        ];
        for secret in secrets {
            let error = location(OsStr::new(secret)).unwrap_err();
            assert!(error.kind() == ErrorKind::Invalid && !error.to_string().contains("geheim"), "{error}");
        }
    }
}
