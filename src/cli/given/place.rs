//! Where things are: the user's directories after the XDG rules, and the repository that is meant.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use yester::jobs::location::{self, Location};
use yester::{Error, Result};

/// The user's directories of yester; `None` where neither HOME nor the XDG variable says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserDirectories {
    data: Option<PathBuf>,
    config: Option<PathBuf>,
    state: Option<PathBuf>,
    cache: Option<PathBuf>,
}

/// A repository, as it was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedRepository {
    /// Where it is.
    pub location: Location,
    /// Nobody named it: it is the user's default one, which `ingest` may make.
    pub implied: bool,
}

impl NamedRepository {
    /// Its directory, if it is on this machine.
    pub fn local(&self) -> Option<&Path> {
        self.location.local()
    }

    /// For people.
    pub fn shown(&self) -> String {
        self.location.shown()
    }

    /// For programs: the bytes of a path, or the text of an address.
    pub fn bytes(&self) -> Vec<u8> {
        self.location.bytes()
    }
}

impl UserDirectories {
    /// The places that the variables of `get` lead to. As the XDG rules ask, what is not absolute is ignored.
    pub fn new(get: impl Fn(&str) -> Option<OsString>) -> Self {
        let absolute = |name: &str| get(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let home = absolute("HOME");
        let place = |variable: &str, below: &str| {
            let base = absolute(variable).or_else(|| home.as_ref().map(|h| h.join(below)))?;
            Some(base.join("yester"))
        };
        UserDirectories {
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
    pub fn find(&self, name: Option<&OsStr>) -> Result<NamedRepository> {
        match name {
            None => Ok(NamedRepository { location: Location::Local(self.repository()?), implied: true }),
            Some(name) => Ok(NamedRepository { location: location::parse(name)?, implied: false }),
        }
    }

    /// Whether `place` is the default repository, named or not.
    pub fn is_default(&self, place: &NamedRepository) -> bool {
        place.implied || self.repository().is_ok_and(|path| place.local() == Some(&path))
    }
}

#[cfg(test)]
mod tests {
    use yester::ErrorKind;

    use super::*;

    fn places(variables: &[(&str, &str)]) -> UserDirectories {
        UserDirectories::new(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into()))
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
}
