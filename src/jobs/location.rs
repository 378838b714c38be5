//! What a repository's name means: a directory here, a place on another machine, or another tool's way to write it,
//! which is refused with the form that is right here.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::model::escape;
use crate::remote::address::Address;
use crate::remote::s3::address::{AZURE_FORM, FORM, GOOGLE_FORM, StoreAddress};
use crate::{Error, ErrorKind, Result};

use crate::jobs::paths;

/// Where a repository is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// In a local directory, absolute.
    Local(PathBuf),
    /// On another machine.
    Remote(Address),
    /// In an object store.
    Store(StoreAddress),
}

impl Location {
    /// Its directory, if it is on this machine.
    pub fn local(&self) -> Option<&Path> {
        match self {
            Location::Local(path) => Some(path),
            Location::Remote(_) | Location::Store(_) => None,
        }
    }

    /// For people.
    pub fn shown(&self) -> String {
        match self {
            Location::Local(path) => escape(path.as_os_str().as_bytes()),
            Location::Remote(address) => address.to_string(),
            Location::Store(address) => address.to_string(),
        }
    }

    /// For programs: the bytes of a path, or the text of an address.
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Location::Local(path) => path.as_os_str().as_bytes().to_vec(),
            Location::Remote(address) => address.to_string().into_bytes(),
            Location::Store(address) => address.to_string().into_bytes(),
        }
    }
}

/// What a repository's name means. The name may hold a secret by mistake: then no error shows it.
pub fn parse(name: &OsStr) -> Result<Location> {
    let bytes = name.as_bytes();
    if bytes.is_empty() {
        return Err(Error::invalid("--repo has an empty value: give the path of a repository"));
    }
    // A colon in the first name of a path: every tool of this kind takes that for another machine or for a protocol.
    let Some((word, rest)) = parted(bytes) else { return paths::absolute(Path::new(name)).map(Location::Local) };
    if holds_secret(word, rest) {
        if word == b"gs" {
            let text = "the repository's name holds a key or other options: leave them out, let \
                        GOOGLE_APPLICATION_CREDENTIALS name the file of the credentials, and write";
            return Err(Error::invalid(format!("{text} {GOOGLE_FORM}")));
        }
        if word == b"azure" {
            let text = "the repository's name holds a key or other options: leave them out, give credentials by \
                        AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN, and write";
            return Err(Error::invalid(format!("{text} {AZURE_FORM}")));
        }
        if word == b"s3" {
            let text = "the repository's name holds a key or other options: leave them out, give credentials by \
                        AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or a profile, and write";
            return Err(Error::invalid(format!("{text} {FORM}")));
        }
        let text = "the repository's name holds a password or token, where others can see it in the list of processes: \
                    leave it out and give it by YESTER_TOKEN, YESTER_TOKEN_FILE or YESTER_TOKEN_COMMAND";
        return Err(Error::invalid(text));
    }
    if word == b"gs" {
        return StoreAddress::google(rest).map(Location::Store);
    }
    if word == b"azure" {
        return StoreAddress::azure(rest).map(Location::Store);
    }
    if word == b"s3" {
        return StoreAddress::parse(rest).map(Location::Store);
    }
    match (word, rest.strip_prefix(b"//")) {
        (b"https", Some(rest)) => Address::https(rest).map(Location::Remote),
        (b"ssh", Some(rest)) => Address::ssh(rest).map(Location::Remote),
        _ => Err(refused(word, rest)),
    }
}

/// What stands before and behind a colon that is in the first name of a path; `None` for a path without one.
fn parted(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = name.iter().position(|b| *b == b':')?;
    let (word, rest) = name.split_at_checked(at)?;
    if word.contains(&b'/') { None } else { Some((word, rest.get(1..)?)) }
}

fn holds_secret(word: &[u8], rest: &[u8]) -> bool {
    // `user:secret@host` is parted at its colon, too.
    let url = rest.windows(3).position(|w| w == b"://").and_then(|at| rest.get(at + 3..));
    let rest = url.or_else(|| rest.strip_prefix(b"//")).unwrap_or(rest);
    let authority = rest.split(|b| *b == b'/').next().unwrap_or_default();
    let user = authority.iter().rposition(|b| *b == b'@').and_then(|at| authority.get(..at));
    match user {
        // A user's name is part of an address for ssh, and of no other.
        Some(user) => !matches!(word, b"ssh" | b"sftp" | b"scp" | b"rsync") || user.contains(&b':'),
        None => rest.contains(&b'?') || rest.contains(&b'#'),
    }
}

/// The error for a name that nothing here reads: what it is, and what to write.
fn refused(word: &[u8], rest: &[u8]) -> Error {
    let url = rest.strip_prefix(b"//");
    let ssh = "a repository that is reached by ssh is written";
    let text = match word {
        b"sftp" | b"scp" | b"rsync" | b"ssh" => format!("{ssh} {}", url.map_or_else(|| scp(rest), over_ssh)),
        b"rest" | b"http" => {
            "a repository on a server is written https://HOST:PORT/NAME: yester serve serves it, over HTTPS only; \
                              the server of another program cannot be used"
                .to_owned()
        }
        b"https" => "a repository on a server is written https://HOST:PORT/NAME".to_owned(),
        b"file" => "a directory is written as its path, without file:".to_owned(),
        b"b2" | b"swift" | b"rclone" | b"opendal" => {
            let text = "this store is reached by the S3 protocol: use its S3 endpoint, written";
            return Error::new(ErrorKind::Unsupported, format!("{}: {text} {FORM}", escape(word)));
        }
        _ if url.is_some() => {
            "this kind of repository name is unknown: give a path, https://HOST:PORT/NAME, ssh://USER@HOST/PATH, \
             s3:https://ENDPOINT/BUCKET/PREFIX, gs:BUCKET/PREFIX or azure:CONTAINER/PREFIX"
                .to_owned()
        }
        _ => {
            let whole = [word, b":", rest].concat();
            format!("{ssh} {}; a directory here whose name has a colon, ./{}", scp(&whole), escape(&whole))
        }
    };
    Error::invalid(text)
}

/// The address for ssh of what scp would write as `host:path`.
fn scp(name: &[u8]) -> String {
    let Some(at) = name.iter().position(|b| *b == b':') else { return over_ssh(name) };
    let (host, path) = name.split_at(at);
    let path = path.get(1..).unwrap_or_default();
    let between: &[u8] = if path.starts_with(b"/") { b"" } else { b"/./" };
    over_ssh(&[host, between, path].concat())
}

/// An address for ssh, where it is one; else its form.
fn over_ssh(rest: &[u8]) -> String {
    // `host//path`, as in sftp://host//path, is the absolute path.
    let at = rest.windows(2).position(|w| w == b"//");
    let rest =
        at.map_or_else(|| rest.to_vec(), |at| [rest.get(..at), rest.get(at + 1..)].map(Option::unwrap_or_default).concat());
    Address::ssh(&rest).map_or_else(|_| "ssh://USER@HOST/PATH".to_owned(), |address| address.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(name: &str) -> Error {
        parse(OsStr::new(name)).map(|found| panic!("{name} is {found:?}")).unwrap_err()
    }

    #[test]
    fn names_that_are_no_paths_are_told_apart() {
        let local = |name: &str| match parse(OsStr::new(name)) {
            Ok(Location::Local(path)) => path,
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(local("/a/../b"), Path::new("/b"));
        for name in ["./a:b", "./s3:x", "x/root@host:/path", "/a:b"] {
            assert!(local(name).ends_with(name.strip_prefix("./").unwrap_or(name)), "{name}");
        }
        let Ok(Location::Store(store)) = parse(OsStr::new("s3:https://h/bucket/p")) else { panic!() };
        assert_eq!(store.to_string(), "s3:https://h/bucket/p");
        let Ok(Location::Store(store)) = parse(OsStr::new("gs:bucket/p")) else { panic!() };
        assert_eq!(store.to_string(), "gs:bucket/p");
        let Ok(Location::Store(store)) = parse(OsStr::new("azure:web/p")) else { panic!() };
        assert_eq!(store.to_string(), "azure:web/p");
        for remote in ["https://h:7070/web", "ssh://u@h/p", "ssh://h/./p"] {
            let Ok(Location::Remote(address)) = parse(OsStr::new(remote)) else { panic!("{remote}") };
            assert_eq!(address.to_string(), remote);
        }
        for bad in ["", "ftp://h/p", "http://h", "http://h/p", "https://h", "ssh://-oX=y/p"] {
            assert_eq!(error(bad).kind(), ErrorKind::Invalid, "{bad}");
        }
    }

    #[test]
    fn what_other_tools_read_is_refused_with_the_right_form() {
        let right = [
            ("root@host:/path", "ssh://root@host/path"),
            ("host:backups/web", "ssh://host/./backups/web"),
            ("a:b", "ssh://a/./b"),
            ("a:b", "./a:b"),
            ("sftp:root@host:/path", "ssh://root@host/path"),
            ("sftp:host:path", "ssh://host/./path"),
            ("sftp://root@host//path", "ssh://root@host/path"),
            ("sftp://host:22/path", "ssh://host:22/path"),
            ("ssh:host:/p", "ssh://host/p"),
            ("sftp:", "ssh://USER@HOST/PATH"),
            ("[::1]:/p", "ssh://USER@HOST/PATH"),
            ("C:\\backups", "./C:"),
            ("rest:https://host/", "https://HOST:PORT/NAME"),
            ("http://host/p", "https://HOST:PORT/NAME"),
            ("https:host/p", "https://HOST:PORT/NAME"),
            ("file:///srv/repo", "its path"),
        ];
        for (name, form) in right {
            let error = error(name);
            assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains(form), "{name}: {error}");
        }
        for (store, kind) in [("s3:bucket", ErrorKind::Invalid), ("s3://bucket/p", ErrorKind::Invalid)] {
            let error = error(store);
            assert!(error.kind() == kind && error.to_string().contains("s3:https://ENDPOINT/BUCKET/PREFIX"), "{store}: {error}");
        }
        for store in ["b2:bucket:p", "swift:c:/", "rclone:r:p"] {
            let error = error(store);
            assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains("s3:https://"), "{store}: {error}");
        }
    }

    #[test]
    fn no_error_shows_a_secret() {
        let secrets = [
            "https://u:geheim@h/p",
            "https://geheim@h/p",
            "ssh://u:geheim@h/p",
            "sftp:u:geheim@h:/p",
            "sftp://u:geheim@h/p",
            "u:geheim@h:/p",
            "rest:https://u:geheim@h/p",
            "s3:https://k:geheim@h/b",
            "gs:https://k:geheim@h/b",
            "gs:bucket/p?key=geheim",
            "azure:web/p?sig=geheim",
            "https://h/p?t=geheim",
        ];
        for secret in secrets {
            let error = error(secret);
            assert!(error.kind() == ErrorKind::Invalid && !error.to_string().contains("geheim"), "{secret}: {error}");
        }
    }
}
