//! Whether a store decides between two who create the same name: tried once, and written down in the store.
//!
//! Some stores ignore `If-None-Match`; some look first and write then. The first kind fails when one name is created twice
//! in turn, the second when many create it at once.

use futures_util::future::join_all;
use object_store::path::Path as Key;
use object_store::{GetOptions, PutMode, PutOptions};
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::model::id::{random_bytes, to_hex};
use crate::remote::s3::S3Storage;
use crate::remote::s3::create::Sending;
use crate::remote::s3::fault::Trouble;

/// Where the trials and the verdict are, below the prefix.
pub(crate) const PLACE: &str = "proof";
/// How many create one name at once.
const AT_ONCE: usize = 8;
/// How often.
const ROUNDS: usize = 4;
/// How often a trial is begun again of which nobody can tell what became of it.
const PATIENCE: usize = 10;

/// What was found, as it is kept: `proof/verdict.json`.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
struct ProofVerdict {
    /// Of this form.
    version: u32,
    /// One of many who create a name wins, always.
    holds: bool,
    /// When it was tried, in seconds since 1970.
    time: u64,
    /// What the store called itself then.
    server: Option<String>,
}

const VERSION: u32 = 1;

impl S3Storage {
    fn proof_key(&self, leaf: &str) -> Key {
        Key::from(self.address.key(&format!("{PLACE}/{leaf}")))
    }

    /// Whether the store decides. Tried once; what was found is kept, and counts as long as the store calls itself the same.
    pub(super) async fn proven(&self) -> Result<bool> {
        let mut known = self.holds.lock().await;
        if let Some(holds) = *known {
            return Ok(holds);
        }
        let holds = match self.verdict().await? {
            Some(verdict) if verdict.version == VERSION && verdict.server == *self.shared.server.lock() => verdict.holds,
            _ => self.try_it().await?,
        };
        if !holds {
            let text = "does not decide between two who create the same object: let one machine write to it at a time, and \
                        prune with --only-writer";
            self.reports.warn("", format!("{} {text}", self.address));
        }
        *known = Some(holds);
        Ok(holds)
    }

    async fn verdict(&self) -> Result<Option<ProofVerdict>> {
        let key = self.proof_key("verdict.json");
        match self.whole(&key).await {
            // What is not of this form counts for nothing, and is written anew.
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(Trouble::Missing) => Ok(None),
            Err(trouble) => Err(trouble.error()),
        }
    }

    async fn whole(&self, key: &Key) -> Result<Vec<u8>, Trouble> {
        self.patiently(async |_| {
            let found = self.store.get_opts(key, GetOptions::default()).await.map_err(|e| self.judge(&e))?;
            Ok(found.bytes().await.map_err(|e| self.judge(&e))?.to_vec())
        })
        .await
    }

    async fn try_it(&self) -> Result<bool> {
        let mut holds = self.settled(1).await?;
        for _ in 0..ROUNDS {
            holds = holds && self.settled(AT_ONCE).await?;
        }
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let verdict = ProofVerdict { version: VERSION, holds, time, server: self.shared.server.lock().clone() };
        let text = serde_json::to_vec(&verdict).map_err(|e| Error::new(ErrorKind::Io, e.to_string()))?;
        let key = self.proof_key("verdict.json");
        let kept = self.patiently(async |_| {
            let options = PutOptions { mode: PutMode::Overwrite, ..PutOptions::default() };
            self.store.put_opts(&key, text.clone().into(), options).await.map(drop).map_err(|e| self.judge(&e))
        });
        kept.await.map_err(Trouble::error)?;
        Ok(holds)
    }

    /// A trial with so many at once, begun again as long as its outcome is unknown.
    async fn settled(&self, at_once: usize) -> Result<bool> {
        let mut last = None;
        let mut patience = crate::remote::client::fault::ProgressTimeout::new(self.timeout);
        for n in 0..PATIENCE {
            match self.trial(at_once).await {
                Ok(held) => return Ok(held),
                Err(Trouble::Final(e)) => return Err(e),
                Err(trouble) => {
                    let text = trouble.error().to_string();
                    self.rest(&mut patience, Trouble::Later(Error::new(ErrorKind::Io, &text)), n as u32)
                        .await
                        .map_err(Trouble::error)?;
                    last = Some(text);
                }
            }
        }
        let why = last.unwrap_or_default();
        Err(Error::new(ErrorKind::Io, format!("nobody can tell whether the store decides between two writers: {why}")))
    }

    /// One name, created by several at once and then once more. True when exactly one of them has it.
    async fn trial(&self, at_once: usize) -> Result<bool, Trouble> {
        let key = self.proof_key(&to_hex(&random_bytes::<16>().map_err(Trouble::Final)?));
        let contents: Vec<String> = (0..=at_once).map(|n| format!("{key} {n}")).collect();
        let sendings: Vec<Sending> =
            contents.iter().map(|text| Sending::new(&[text.as_bytes()], None)).collect::<Result<_>>().map_err(Trouble::Final)?;
        let (late, together) = match sendings.split_last() {
            Some(parted) => parted,
            None => return Ok(true),
        };
        let mut answers = join_all(together.iter().map(|sending| self.attempt(&key, sending))).await;
        answers.push(self.attempt(&key, late).await);
        let found = self.whole(&key).await;
        self.remove(&key).await.map_err(Trouble::Final)?;
        let late_refused = matches!(answers.last(), Some(Err(Trouble::Taken(_))));
        let (mut winners, mut maybe, mut unknown) = (Vec::new(), Vec::new(), None);
        for (answer, content) in answers.into_iter().zip(&contents) {
            match answer {
                Ok(()) => winners.push(content.as_bytes()),
                Err(Trouble::Taken(_)) => {}
                Err(trouble @ Trouble::Final(_)) => return Err(trouble),
                Err(trouble) => {
                    maybe.push(content.as_bytes());
                    unknown = Some(trouble);
                }
            }
        }
        let found = found?;
        // What nobody was told of may have been done: the object says whose it is.
        let held = match winners[..] {
            [] => maybe.contains(&&found[..]),
            [winner] => winner == found,
            _ => return Ok(false),
        };
        match unknown {
            _ if held && late_refused && maybe.len() * 2 <= contents.len() => Ok(true),
            Some(trouble) => Err(trouble),
            None if winners.is_empty() => Err(Trouble::Later(Error::new(ErrorKind::Io, "nobody could create an object"))),
            None => Ok(false),
        }
    }
}
