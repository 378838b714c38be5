//! Authentication and authorization. The namespace of a request comes from its token, and from nothing else that a
//! client sends.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use parking_lot::Mutex;

use crate::remote::protocol::{Capability, Code, REPOSITORY_HEADER, Refusal};
use crate::remote::tokens::{Token, Tokens};
use crate::serve::objects::hosted::{Hosted, refuse};
use crate::storage::{Class, Name};

/// How long a token is believed without looking at its file again.
const BELIEVED: Duration = Duration::from_secs(1);
/// The most tokens that are remembered.
const REMEMBERED: usize = 4096;

/// The authenticated sender of a request.
#[derive(Debug, Clone)]
pub(crate) struct Principal {
    /// The token's name, or a fixed name for a client over ssh.
    pub(crate) id: String,
    /// The repository's directory; `None` for a token that may only read metrics.
    pub(crate) repository: Option<PathBuf>,
    /// What may be done.
    pub(crate) capabilities: Vec<Capability>,
    /// The most bytes that the repository may hold.
    pub(crate) quota: Option<u64>,
    /// Bytes a second.
    pub(crate) rate: Option<u64>,
}

/// How requests are admitted.
#[derive(Debug)]
pub(crate) enum Door {
    /// By token: repositories below a root directory.
    Tokens {
        /// The root.
        root: PathBuf,
        /// The tokens.
        tokens: Tokens,
        /// What was looked up a moment ago, by the hash of its text.
        seen: Mutex<HashMap<blake3::Hash, (Token, Instant)>>,
    },
    /// Every client of this process is trusted: ssh has authenticated it.
    Trusted {
        /// Only what is in one of these; nothing: everything.
        restrict_to: Vec<PathBuf>,
        /// What may be done.
        capabilities: Vec<Capability>,
        /// Whose sessions these are.
        id: String,
    },
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

impl Door {
    /// Who sends these headers. Blocks on the disk now and then.
    pub(crate) fn admit(&self, headers: &HeaderMap) -> Result<Principal, Refusal> {
        match self {
            Door::Tokens { root, tokens, seen } => {
                let token = known(tokens, seen, headers)?;
                by_token(root, token, header(headers, REPOSITORY_HEADER))
            }
            Door::Trusted { restrict_to, capabilities, id } => {
                let asked = header(headers, REPOSITORY_HEADER).and_then(decode_path);
                let asked = asked.ok_or_else(|| Refusal::new(Code::Invalid, "the request names no repository"))?;
                let repository = inside(&asked, restrict_to)?;
                let capabilities = capabilities.clone();
                Ok(Principal { id: id.clone(), repository: Some(repository), capabilities, quota: None, rate: None })
            }
        }
    }
}

fn known(tokens: &Tokens, seen: &Mutex<HashMap<blake3::Hash, (Token, Instant)>>, headers: &HeaderMap) -> Result<Token, Refusal> {
    let unauthorized = |text: &str| Refusal::new(Code::Unauthorized, text);
    let given = header(headers, AUTHORIZATION.as_str()).and_then(|value| value.strip_prefix("Bearer "));
    let text =
        given.ok_or_else(|| unauthorized("a token is needed: set YESTER_TOKEN, YESTER_TOKEN_FILE or YESTER_TOKEN_COMMAND"))?;
    let key = blake3::hash(text.as_bytes());
    let remembered = |seen: &HashMap<blake3::Hash, (Token, Instant)>| {
        seen.get(&key).filter(|(_, at)| at.elapsed() < BELIEVED).map(|(token, _)| token.clone())
    };
    let fresh = remembered(&seen.lock());
    let token = match fresh {
        Some(token) => token,
        None => {
            let found = tokens.find(text).map_err(|e| refuse(&e))?;
            let mut seen = seen.lock();
            let Some(token) = found else {
                seen.remove(&key);
                return Err(unauthorized("the token is not one of this server: it may have been revoked"));
            };
            if seen.len() >= REMEMBERED {
                seen.clear();
            }
            seen.insert(key, (token.clone(), Instant::now()));
            token
        }
    };
    if token.has_expired(now()) {
        return Err(unauthorized("the token has expired: ask for a new one"));
    }
    Ok(token)
}

fn by_token(root: &Path, token: Token, asked: Option<&str>) -> Result<Principal, Refusal> {
    let name = token.repository.as_ref().map(|name| name.as_str());
    if let (Some(name), Some(asked)) = (name, asked)
        && name != asked
    {
        let asked = crate::model::escape(asked.as_bytes());
        return Err(Refusal::new(Code::Forbidden, format!("the token is for another repository than {asked}")));
    }
    let Token { id, capabilities, quota, rate, .. } = token.clone();
    Ok(Principal { id, repository: name.map(|name| root.join(name)), capabilities, quota, rate })
}

/// The path that a client over ssh names: bytes in hexadecimal.
fn decode_path(text: &str) -> Option<PathBuf> {
    let digit = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
    let bytes: Option<Vec<u8>> = text
        .as_bytes()
        .chunks(2)
        .map(|pair| match pair {
            [a, b] => Some(digit(*a)? << 4 | digit(*b)?),
            _ => None,
        })
        .collect();
    let bytes = bytes.filter(|bytes| !bytes.is_empty() && !bytes.contains(&0))?;
    Some(PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(bytes)))
}

/// `path` without links, if it is in one of `allowed` (or these are none). One that is not there yet counts by the part
/// of it that is.
fn inside(path: &Path, allowed: &[PathBuf]) -> Result<PathBuf, Refusal> {
    if path.components().any(|part| part == std::path::Component::ParentDir) {
        return Err(Refusal::new(Code::Invalid, "the repository's path has .. in it"));
    }
    let there = path.ancestors().find(|part| !part.as_os_str().is_empty() && part.exists()).unwrap_or(Path::new("."));
    let rest = path.strip_prefix(there).unwrap_or(path);
    let failed = |_| Refusal::new(Code::NoRepository, "there is no repository there");
    let mut real = there.canonicalize().map_err(failed)?;
    if !rest.as_os_str().is_empty() {
        real.push(rest);
    }
    let within = |allowed: &PathBuf| allowed.canonicalize().is_ok_and(|allowed| real.starts_with(allowed));
    if allowed.is_empty() || allowed.iter().any(within) {
        return Ok(real);
    }
    Err(Refusal::new(Code::Forbidden, "the path is outside of what this server was restricted to (--restrict-to)"))
}

impl Principal {
    /// That a capability is there.
    pub(crate) fn needs(&self, capability: Capability, what: &str) -> Result<(), Refusal> {
        if self.capabilities.contains(&capability) {
            return Ok(());
        }
        let text = format!("this client may not {what}: it lacks the capability {}", capability.name());
        Err(Refusal::new(Code::Forbidden, text))
    }

    fn can_prune(&self) -> bool {
        self.capabilities.contains(&Capability::Prune)
    }

    /// Whether an object of this name may be created. Blocks on the disk.
    pub(crate) fn may_create(&self, hosted: &Arc<Hosted>, name: &Name) -> Result<(), Refusal> {
        let what = || format!("create {}/", name.class().prefix());
        match name {
            Name::Forgotten(_) | Name::Condemned(_) | Name::Removed(_) => self.needs(Capability::Prune, &what()),
            _ if self.can_prune() && !matches!(name, Name::Session(_) | Name::Beat(..)) => Ok(()),
            Name::Pack(_)
            | Name::Segment(_)
            | Name::Damaged(_)
            | Name::Run(_)
            | Name::Annotation(_)
            | Name::Group(..)
            | Name::Parity(..) => self.needs(Capability::Put, &what()),
            Name::Session(id) => {
                self.needs(Capability::Put, &what())?;
                let owner = hosted.owner(*id).map_err(|e| refuse(&e))?;
                if owner.is_none_or(|owner| owner != self.id) && hosted.has(name).map_err(|e| refuse(&e))? {
                    return Err(Refusal::new(Code::Conflict, "another token has begun this session"));
                }
                Ok(())
            }
            Name::Beat(id, _) => {
                self.needs(Capability::Put, &what())?;
                if hosted.owner(*id).map_err(|e| refuse(&e))?.is_some_and(|owner| owner == self.id) {
                    return Ok(());
                }
                Err(Refusal::new(Code::Forbidden, "this client may give signs of life only of sessions that it has begun"))
            }
            Name::Snapshot(id) => {
                self.needs(Capability::Put, &what())?;
                if hosted.owner(*id).map_err(|e| refuse(&e))?.is_some_and(|owner| owner == self.id) {
                    return Ok(());
                }
                let text = "this client may commit only under sessions that it has begun: others it would fence, which \
                            takes the capability prune";
                Err(Refusal::new(Code::Forbidden, text))
            }
            Name::Config(..) | Name::Key(..) => {
                self.needs(Capability::Put, &what())?;
                if hosted.is_new().map_err(|e| refuse(&e))? {
                    return Ok(());
                }
                self.needs(Capability::Prune, "change keys and configuration of a repository that is in use")
            }
        }
    }

    /// Whether an object of this name may be deleted. Blocks on the disk.
    pub(crate) fn may_delete(&self, hosted: &Arc<Hosted>, name: &Name) -> Result<(), Refusal> {
        if let Name::Beat(id, _) = name
            && self.capabilities.contains(&Capability::Put)
            && hosted.owner(*id).map_err(|e| refuse(&e))?.is_some_and(|owner| owner == self.id)
        {
            return Ok(());
        }
        let Name::Session(id) = name else {
            return self.needs(Capability::Prune, &format!("delete from {}/", name.class().prefix()));
        };
        let there = |name: &Name| hosted.has(name).map_err(|e| refuse(&e));
        let owner = hosted.owner(*id).map_err(|e| refuse(&e))?;
        let is_own = owner.is_some_and(|owner| owner == self.id);
        // One that is gone already is nobody's.
        if !self.can_prune() && !is_own && there(name)? {
            self.needs(Capability::Prune, "end sessions of others")?;
        }
        self.needs(Capability::Put, "end a session").or_else(|_| self.needs(Capability::Prune, "end a session"))?;
        // Who prunes removes what nobody with the key has made, which has no outcome. It may delete what a session counts
        // on as well, so nothing is given away.
        if !self.can_prune() && there(name)? && !there(&Name::Snapshot(*id))? {
            let text = "a session ends only when it has an outcome: a snapshot or a fence";
            return Err(Refusal::new(Code::Conflict, text));
        }
        Ok(())
    }

    /// Whether objects of a class may be read.
    pub(crate) fn may_read(&self, class: Class) -> Result<(), Refusal> {
        self.needs(Capability::Get, &format!("read {}/", class.prefix()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restriction_cannot_be_walked_around() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap();
        for name in ["in/side", "inner", "out"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        std::os::unix::fs::symlink(root.join("out"), root.join("in/link")).unwrap();
        let allowed = [root.join("in")];
        let ask = |path: &str| inside(&root.join(path), &allowed).map_err(|e| e.error);
        assert_eq!(ask("in/side"), Ok(root.join("in/side")));
        assert_eq!(ask("in/new/er"), Ok(root.join("in/new/er")));
        assert_eq!(ask("in"), Ok(root.join("in")));
        for bad in ["inner", "out", "in/link", "in/link/new", "new"] {
            assert_eq!(ask(bad), Err(Code::Forbidden), "{bad}");
        }
        assert_eq!(ask("in/../out"), Err(Code::Invalid));
        assert_eq!(decode_path("2f61").unwrap(), Path::new("/a"));
        for bad in ["", "2", "zz", "2f00", "+f"] {
            assert_eq!(decode_path(bad), None, "{bad}");
        }
    }
}
