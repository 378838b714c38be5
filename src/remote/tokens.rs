//! Tokens: who may do what with which repository of a server. A file each, which holds a hash and never the token.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::model::id::{fill_random, from_hex, hex_pair, to_hex};
use crate::remote::protocol::{Capability, RepositoryName};

/// What every token begins with, so that one in a wrong place is known for what it is.
const PREFIX: &str = "yester-token-";
const ID: usize = 8;
const SECRET: usize = 32;

/// What is known of a token.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Token {
    /// What it is called: 16 hexadecimal digits, its beginning.
    pub id: String,
    /// BLAKE3 of its 32 secret bytes. These are random, so that no slow hash is needed.
    hash: String,
    /// The one repository that it is for; `None` for a token that only reads counters.
    pub repository: Option<RepositoryName>,
    /// What it may do.
    pub capabilities: Vec<Capability>,
    /// The most bytes that the repository may hold when something is stored with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<u64>,
    /// Bytes a second, both ways together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    /// When it ends, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<i64>,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// Whose it is, for people.
    #[serde(default)]
    pub note: String,
}

/// What a new token is to be.
#[derive(Debug, Clone, Default)]
pub struct Grant {
    /// The repository.
    pub repository: Option<RepositoryName>,
    /// What it may do.
    pub capabilities: Vec<Capability>,
    /// The most bytes that the repository may hold.
    pub quota: Option<u64>,
    /// Bytes a second.
    pub rate: Option<u64>,
    /// When it ends, in seconds since 1970.
    pub expires: Option<i64>,
    /// Whose it is.
    pub note: String,
    /// The time now, in seconds since 1970.
    pub now: i64,
}

impl Token {
    /// Whether it may do this.
    pub fn can(&self, capability: Capability) -> bool {
        self.capabilities.contains(&capability)
    }

    /// Whether it has ended.
    pub fn has_expired(&self, now: i64) -> bool {
        self.expires.is_some_and(|end| end <= now)
    }
}

/// The tokens of a server.
#[derive(Debug)]
pub struct Tokens {
    directory: PathBuf,
}

impl Tokens {
    /// The tokens that are kept in `directory`, which is made when there is a token.
    pub(crate) fn new(directory: PathBuf) -> Self {
        Tokens { directory }
    }

    fn path(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.json"))
    }

    /// Makes a token: what is kept of it, and the token itself, which is nowhere else.
    pub fn create(&self, grant: Grant) -> Result<(Token, Zeroizing<String>)> {
        let failed = || format!("cannot keep a token in {}", shown(&self.directory));
        let mut random = Zeroizing::new([0; ID + SECRET]);
        fill_random(&mut *random)?;
        let (id, secret) = random.split_at(ID);
        let Grant { repository, capabilities, quota, rate, expires, note, now } = grant;
        let hash = to_hex(blake3::hash(secret).as_bytes());
        let token = Token { id: to_hex(id), hash, repository, capabilities, quota, rate, expires, created: now, note };
        let json = serde_json::to_vec_pretty(&token).map_err(|e| Error::io(failed(), e.into()))?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory).at(failed)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.path(&token.id)).at(failed)?;
        file.write_all(&json).and_then(|()| file.sync_all()).at(failed)?;
        fs::File::open(&self.directory).and_then(|d| d.sync_all()).at(failed)?;
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + 2 * (ID + SECRET) + 1));
        text.push_str(PREFIX);
        for (at, byte) in random.iter().enumerate() {
            if at == ID {
                text.push('-');
            }
            hex_pair(*byte).into_iter().for_each(|digit| text.push(char::from(digit)));
        }
        Ok((token, text))
    }

    /// All tokens, by the time they were made.
    pub fn list(&self) -> Result<Vec<Token>> {
        let failed = || format!("cannot list the tokens in {}", shown(&self.directory));
        let entries = match fs::read_dir(&self.directory) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.at(failed)?,
        };
        let mut out = Vec::new();
        for entry in entries {
            let name = entry.at(failed)?.file_name();
            let Some(id) = name.to_str().and_then(|name| name.strip_suffix(".json")) else { continue };
            out.extend(self.read(id)?);
        }
        out.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        Ok(out)
    }

    /// Ends the token whose name begins with `id`; a server that runs notices within a second.
    pub fn revoke(&self, id: &str) -> Result<Token> {
        let found: Vec<Token> = self.list()?.into_iter().filter(|token| token.id.starts_with(id)).collect();
        let shown_id = crate::model::escape(id.as_bytes());
        let [token] = found.as_slice() else {
            let text = if found.is_empty() { "there is no token" } else { "there are several tokens that begin with" };
            return Err(Error::new(ErrorKind::NotFound, format!("{text} {shown_id} (see: yester serve token list)")));
        };
        let failed = || format!("cannot revoke token {}", token.id);
        fs::remove_file(self.path(&token.id)).at(failed)?;
        fs::File::open(&self.directory).and_then(|d| d.sync_all()).at(failed)?;
        Ok(token.clone())
    }

    /// The token of this name, if there is one.
    fn read(&self, id: &str) -> Result<Option<Token>> {
        if from_hex::<ID>(id).is_none() {
            return Ok(None);
        }
        let failed = || format!("cannot read token {id}");
        let bytes = match fs::read(self.path(id)) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes.at(failed)?,
        };
        let token: Token = serde_json::from_slice(&bytes).map_err(|e| Error::corrupt(format!("{}: {e}", failed())))?;
        if token.id == id { Ok(Some(token)) } else { Err(Error::corrupt(format!("{}: it has another name", failed()))) }
    }

    /// What is known of the token of `text`; `None` when it is none of ours.
    pub(crate) fn find(&self, text: &str) -> Result<Option<Token>> {
        let Some((id, secret)) = parse(text) else { return Ok(None) };
        let Some(token) = self.read(id)? else { return Ok(None) };
        // Comparing hashes of this type takes the same time wherever they differ.
        let kept = blake3::Hash::from_hex(&token.hash).map_err(|_| Error::corrupt(format!("token {id} has no good hash")))?;
        Ok((kept == blake3::hash(&*secret)).then_some(token))
    }
}

/// The name and the secret bytes of a token.
fn parse(text: &str) -> Option<(&str, Zeroizing<[u8; SECRET]>)> {
    let (id, secret) = text.strip_prefix(PREFIX)?.split_once('-')?;
    from_hex::<ID>(id)?;
    Some((id, Zeroizing::new(from_hex(secret)?)))
}

/// Whether a text has the form of a token.
pub fn is_token(text: &str) -> bool {
    parse(text).is_some()
}

fn shown(path: &Path) -> String {
    crate::model::escape(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_until_it_is_revoked_and_is_kept_nowhere() {
        let scratch = tempfile::tempdir().unwrap();
        let tokens = Tokens::new(scratch.path().join("tokens"));
        let web = RepositoryName::parse("web").unwrap();
        let grant = Grant { repository: Some(web.clone()), capabilities: vec![Capability::Get], now: 5, ..Grant::default() };
        let (token, text) = tokens.create(grant.clone()).unwrap();
        let (other, _) = tokens.create(Grant { expires: Some(7), ..grant }).unwrap();
        let found = tokens.find(&text).unwrap().unwrap();
        assert!(found.id == token.id && found.repository == Some(web) && found.can(Capability::Get));
        assert!(!found.can(Capability::Prune) && !found.has_expired(i64::MAX));
        assert!(other.has_expired(7) && !other.has_expired(6));
        let mut wrong = text.to_string();
        let last = if wrong.pop() == Some('0') { '1' } else { '0' };
        wrong.push(last);
        let upper = text.to_uppercase();
        let swapped = text.replace(&token.id, &other.id);
        for bad in ["", "yester-token-", &wrong, &upper, &swapped, &text[1..], "yester-token-../../x-00"] {
            assert!(tokens.find(bad).unwrap().is_none(), "{bad:?}");
        }
        let secret = text.rsplit('-').next().unwrap();
        let kept = fs::read_to_string(tokens.path(&token.id)).unwrap();
        assert!(!kept.contains(secret));
        assert_eq!(tokens.list().unwrap().len(), 2);
        assert!(tokens.revoke("").is_err(), "several begin with nothing");
        assert_eq!(tokens.revoke(&token.id[..6]).unwrap().id, token.id);
        assert!(tokens.find(&text).unwrap().is_none());
    }
}
