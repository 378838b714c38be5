//! Where things are: the user's directories after the XDG rules, and what a repository's name means.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

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

/// A repository in a local directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Where it is, absolute.
    pub path: PathBuf,
    /// Nobody named it: it is the user's default one, which `ingest` may make.
    pub implied: bool,
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
            None => Ok(Place { path: self.repository()?, implied: true }),
            Some(name) => Ok(Place { path: local(name)?, implied: false }),
        }
    }

    /// Whether `place` is the default repository, named or not.
    pub fn is_default(&self, place: &Place) -> bool {
        place.implied || self.repository().is_ok_and(|path| path == place.path)
    }
}

/// The local path that a repository's name means. The name may hold a secret by mistake: it is not in any error.
fn local(name: &OsStr) -> Result<PathBuf> {
    let bytes = name.as_bytes();
    if bytes.is_empty() {
        return Err(Error::invalid("--repo has an empty value: give the path of a repository"));
    }
    let Some(scheme) = scheme(bytes) else { return paths::absolute(Path::new(name)) };
    if holds_secret(bytes, scheme) {
        let text = "the repository's name holds a password or token, where others can see it in the list of processes: \
                    leave it out and give it by YESTER_TOKEN, YESTER_TOKEN_FILE or YESTER_TOKEN_COMMAND";
        return Err(Error::invalid(text));
    }
    let text = match scheme {
        b"https" => "https://: a server's repositories are",
        b"ssh" => "ssh://: repositories over ssh are",
        b"s3" => "s3: repositories in object stores are",
        _ => {
            return Err(Error::invalid(
                "this kind of repository name is unknown: give a path (./NAME for one with a colon), https://, ssh:// or s3:",
            ));
        }
    };
    Err(Error::new(ErrorKind::Unsupported, format!("{text} not supported by this version: give the path of a local directory")))
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
        let kind = |name: &str| local(OsStr::new(name)).map_err(|e| e.kind());
        assert_eq!(kind("/a/../b").unwrap(), Path::new("/b"));
        assert!(kind("a:b").unwrap().ends_with("a:b"));
        assert!(kind("./s3:x").unwrap().ends_with("s3:x"));
        for unsupported in ["https://h:7070/web", "ssh://u@h/p", "s3:https://h/bucket/p"] {
            assert_eq!(kind(unsupported), Err(ErrorKind::Unsupported), "{unsupported}");
        }
        for bad in ["", "ftp://h/p", "http://h"] {
            assert_eq!(kind(bad), Err(ErrorKind::Invalid), "{bad}");
        }
        let secrets = [
            "https://u:geheim@h/p",
            "https://geheim@h/p",
            "ssh://u:geheim@h/p",
            "s3:https://k:geheim@h/b",
            "https://h/p?t=geheim",
        ];
        for secret in secrets {
            let error = local(OsStr::new(secret)).unwrap_err();
            assert!(error.kind() == ErrorKind::Invalid && !error.to_string().contains("geheim"), "{error}");
        }
    }
}
