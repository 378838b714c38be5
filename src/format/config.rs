//! The bodies of the configuration and of key slots: the only objects that must be read before a key is at hand.

use crate::error::{Error, ErrorKind, Result};
use crate::format::cursor::{Cursor, Put};
use crate::model::{RepositoryId, SlotId, Timestamp};

/// The longest configuration or key slot that is read, in bytes.
pub const MAX_OBJECT: u64 = 65536;

/// The longest body of either.
const MAX_BODY: usize = MAX_OBJECT as usize - crate::format::envelope::HEADER - crate::format::envelope::CHECKSUM;

/// Bytes of a sealed secret of a cutter: 32 and the tag.
pub const SEALED_CUTTER: usize = 48;

/// How files are cut; even powers of two with min < avg < max.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkerParameters {
    /// No chunk but a file's last is shorter.
    pub min: u32,
    /// What the cutter aims at.
    pub avg: u32,
    /// No chunk is longer.
    pub max: u32,
}

impl ChunkerParameters {
    /// What `init` writes. Measured: see docs/performance.md.
    pub const DEFAULT: ChunkerParameters = ChunkerParameters { min: 16 << 10, avg: 64 << 10, max: 256 << 10 };

    /// fastcdc checks its sizes only in debug builds, and odd ones shift its cuts: checked here, always.
    pub(crate) fn validate(&self) -> Result<()> {
        let ok = [self.min, self.avg, self.max].iter().all(|n| n.is_power_of_two())
            && (256..=1 << 20).contains(&self.min)
            && self.min < self.avg
            && self.avg < self.max
            && self.avg <= 4 << 20
            && self.max <= 16 << 20;
        if ok {
            return Ok(());
        }
        let text =
            format!("chunk sizes {} / {} / {} are not powers of two with min < avg < max in range", self.min, self.avg, self.max);
        Err(Error::corrupt(format!("the configuration: {text}")))
    }
}

/// A repository's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The repository's name for ever.
    pub repository: RepositoryId,
    /// When it was made.
    pub created: Timestamp,
    /// How files are cut. The gear table comes from the key, if `cutter` does not say otherwise.
    pub chunker: ChunkerParameters,
    /// The cutter's secret of another repository, sealed, where files are cut as they are there.
    pub cutter: Option<[u8; SEALED_CUTTER]>,
    /// Features that a program must know to use the repository; none so far.
    pub mandatory: u64,
}

/// Encodes a configuration's body; `mac` is what the master key says of it (see `chunk::keys`). An error for what no
/// reader would take.
pub fn encode_config(config: &Config, mac: &[u8; 32]) -> Result<Vec<u8>> {
    let out = encode_config_unchecked(config, mac);
    match decode_config(&out, config.repository)?.0 == *config {
        true => Ok(out),
        false => Err(Error::invalid("a configuration cannot be stored: it would be read as something else")),
    }
}

/// The same bytes, whether or not a reader would take them: for tests of readers.
pub fn encode_config_unchecked(config: &Config, mac: &[u8; 32]) -> Vec<u8> {
    let mut out = config_fields(config);
    out.extend_from_slice(mac);
    out
}

/// The bit of the mandatory features by which a key says that it is no longer the repository's.
pub const CLOSED: u64 = 1;

impl Config {
    /// Whether the key that it is authentic under is no longer the repository's, or will not be in a moment.
    pub fn is_closed(&self) -> bool {
        self.mandatory & CLOSED != 0
    }
}

/// The part of the body that the key authenticates.
pub fn config_fields(config: &Config) -> Vec<u8> {
    let mut out = open_config_fields(config);
    out.push(0);
    out
}

/// The same without the end, for more fields.
pub(crate) fn open_config_fields(config: &Config) -> Vec<u8> {
    let mut out = Vec::new();
    out.field(1, |v| v.varint(config.mandatory));
    out.field(3, |v| [config.chunker.min, config.chunker.avg, config.chunker.max].iter().for_each(|n| v.varint(u64::from(*n))));
    out.field(4, |v| v.timestamp(config.created));
    if let Some(sealed) = &config.cutter {
        out.field(5, |v| v.extend_from_slice(sealed));
    }
    out
}

/// Decodes a body; returns the configuration, the bytes under the MAC, and the MAC.
pub fn decode_config(bytes: &[u8], repository: RepositoryId) -> Result<(Config, &[u8], [u8; 32])> {
    let Some((fields, mac)) = bytes.split_last_chunk::<32>() else {
        return Err(Error::corrupt("the configuration is too short"));
    };
    Ok((decode_config_fields(fields, repository)?, fields, *mac))
}

/// Decodes what [`config_fields`] made.
pub(crate) fn decode_config_fields(fields: &[u8], repository: RepositoryId) -> Result<Config> {
    decode_config_and(fields, repository, |_, _| Ok(false))
}

/// The same with more fields behind those of a configuration, which `other` takes: true if it did.
pub(crate) fn decode_config_and(
    fields: &[u8],
    repository: RepositoryId,
    mut other: impl FnMut(u64, &mut Cursor<'_>) -> Result<bool>,
) -> Result<Config> {
    let mut cursor = Cursor::new(fields, "the configuration");
    let mut mandatory = None;
    let (mut chunker, mut cutter) = (None, None);
    let mut created = Timestamp::default();
    cursor.fields(|tag, mut v| {
        match tag {
            1 => mandatory = Some(v.varint()?),
            3 => chunker = Some(ChunkerParameters { min: v.number32()?, avg: v.number32()?, max: v.number32()? }),
            4 => created = v.timestamp()?,
            5 => cutter = Some(v.array()?),
            tag => {
                if !other(tag, &mut v)? {
                    return Ok(false);
                }
            }
        }
        v.end().map(|()| true)
    })?;
    cursor.end()?;
    let (Some(mandatory), Some(chunker)) = (mandatory, chunker) else {
        return Err(cursor.error("it lacks the chunk sizes or the features"));
    };
    if mandatory & !CLOSED != 0 {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("the repository uses features ({mandatory:#x}) that need a newer yester"),
        ));
    }
    chunker.validate()?;
    Ok(Config { repository, created, chunker, cutter, mandatory })
}

/// How a slot's key is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Derivation {
    /// Argon2id of a passphrase (RFC 9106): memory in KiB, passes, lanes.
    Passphrase {
        /// Memory in KiB.
        memory: u32,
        /// Passes over it.
        passes: u32,
        /// Lanes.
        lanes: u32,
    },
    /// A key file of 32 random bytes: nothing to slow down.
    KeyFile,
}

impl Derivation {
    /// RFC 9106's second recommended choice: 64 MiB, three passes, four lanes.
    pub const DEFAULT: Derivation = Derivation::Passphrase { memory: 64 << 10, passes: 3, lanes: 4 };
}

/// The key in a slot, under AES-256-GCM: its bytes and the tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrappedKey {
    /// The master key.
    Master([u8; 48]),
    /// A key that only writes: public key (32), its secret (32), repository (16), chunk sizes (4 each).
    Writer([u8; WrappedKey::WRITER]),
}

impl WrappedKey {
    /// Bytes of a wrapped key that only writes.
    pub const WRITER: usize = 32 + 32 + 16 + 12 + 16;

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            WrappedKey::Master(bytes) => bytes,
            WrappedKey::Writer(bytes) => bytes,
        }
    }

    /// What is authenticated with it, in the slot of this name.
    pub(crate) fn bound(&self, slot: SlotId) -> Vec<u8> {
        match self {
            WrappedKey::Master(_) => slot.0.to_vec(),
            WrappedKey::Writer(_) => Self::writer_bound(slot),
        }
    }

    /// The same of a key that only writes.
    pub(crate) fn writer_bound(slot: SlotId) -> Vec<u8> {
        [&slot.0[..], &[1]].concat()
    }

    /// Whether it only writes.
    pub fn only_writes(&self) -> bool {
        matches!(self, WrappedKey::Writer(_))
    }
}

/// A key slot: the master key, or a key that only writes, wrapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySlot {
    /// How the wrapping key is made.
    pub derivation: Derivation,
    /// Salt of the derivation.
    pub salt: [u8; 32],
    /// What the wrapping key must commit to (AES-GCM does not; see partitioning oracle attacks, Len et al. 2021).
    pub commitment: [u8; 16],
    /// The key in it.
    pub wrapped: WrappedKey,
    /// When the slot was made.
    pub created: Timestamp,
    /// For people: which user at which host made it.
    pub label: Vec<u8>,
    /// The master keys before, under AES-256-GCM: 32 bytes each, the first one first, and the tag. Empty: there are none.
    pub former: Vec<u8>,
}

/// Encodes a key slot's body; `mac` is what the master key says of it (see `chunk::keys`). An error for what no reader
/// would take.
pub fn encode_slot(slot: &KeySlot, mac: &[u8; 32]) -> Result<Vec<u8>> {
    let out = encode_slot_unchecked(slot, mac);
    if out.len() > MAX_BODY {
        return Err(Error::invalid(format!("a key slot of {} bytes is too long: its label must be shorter", out.len())));
    }
    match decode_slot(&out)? == *slot {
        true => Ok(out),
        false => Err(Error::invalid("a key slot cannot be stored: it would be read as something else")),
    }
}

/// The same bytes, whether or not a reader would take them: for tests of readers.
pub fn encode_slot_unchecked(slot: &KeySlot, mac: &[u8; 32]) -> Vec<u8> {
    let mut out = slot_fields(slot);
    out.extend_from_slice(mac);
    out
}

/// The part of a key slot's body that is under the MAC.
pub(crate) fn slot_fields(slot: &KeySlot) -> Vec<u8> {
    let mut out = Vec::new();
    out.field(1, |v| match slot.derivation {
        Derivation::KeyFile => v.push(2),
        Derivation::Passphrase { memory, passes, lanes } => {
            v.push(1);
            [memory, passes, lanes].iter().for_each(|n| v.varint(u64::from(*n)));
        }
    });
    out.field(3, |v| v.extend_from_slice(&slot.salt));
    out.field(5, |v| v.extend_from_slice(&slot.commitment));
    if let WrappedKey::Master(wrapped) = &slot.wrapped {
        out.field(7, |v| v.extend_from_slice(wrapped));
    }
    out.field(8, |v| v.timestamp(slot.created));
    out.field(10, |v| v.extend_from_slice(&slot.label));
    if let WrappedKey::Writer(wrapped) = &slot.wrapped {
        out.field(11, |v| v.extend_from_slice(wrapped));
    }
    if !slot.former.is_empty() {
        out.field(13, |v| v.extend_from_slice(&slot.former));
    }
    out.push(0);
    out
}

/// Decodes a key slot's body. Parameters beyond 4 GiB, 64 passes or 16 lanes are refused before any memory is asked for.
pub fn decode_slot(bytes: &[u8]) -> Result<KeySlot> {
    let (fields, _) = split_slot(bytes)?;
    let mut cursor = Cursor::new(fields, "a key slot");
    let (mut derivation, mut salt, mut commitment, mut wrapped) = (None, None, None, None);
    let (mut created, mut label, mut former) = (Timestamp::default(), Vec::new(), Vec::new());
    cursor.fields(|tag, mut v| {
        match tag {
            1 => derivation = Some(decode_derivation(&mut v)?),
            3 => salt = Some(v.array()?),
            5 => commitment = Some(v.array()?),
            7 => wrapped = Some(WrappedKey::Master(v.array()?)),
            8 => created = v.timestamp()?,
            10 => label = v.bytes_to_end(),
            11 if wrapped.is_some() => return Err(v.error("it holds two keys")),
            11 => wrapped = Some(WrappedKey::Writer(v.array()?)),
            13 => {
                former = v.bytes_to_end();
                let whole = former.len().checked_sub(16).is_some_and(|len| len > 0 && len.is_multiple_of(32));
                if !whole || matches!(wrapped, Some(WrappedKey::Writer(_))) {
                    return Err(v.error("what it holds of former keys is none"));
                }
            }
            _ => return Ok(false),
        }
        v.end().map(|()| true)
    })?;
    cursor.end()?;
    match (derivation, salt, commitment, wrapped) {
        (Some(derivation), Some(salt), Some(commitment), Some(wrapped)) => {
            Ok(KeySlot { derivation, salt, commitment, wrapped, created, label, former })
        }
        _ => Err(cursor.error("it is incomplete")),
    }
}

/// The fields of a key slot's body, as bytes, and the MAC behind them.
pub fn split_slot(bytes: &[u8]) -> Result<(&[u8], &[u8; 32])> {
    bytes.split_last_chunk().ok_or_else(|| Error::corrupt("a key slot: it is too short for a MAC"))
}

fn decode_derivation(v: &mut Cursor<'_>) -> Result<Derivation> {
    match v.u8()? {
        1 => {
            let (memory, passes, lanes) = (v.number32()?, v.number32()?, v.number32()?);
            let ok = (1..=16).contains(&lanes) && (1..=64).contains(&passes) && (8 * lanes..=4 << 20).contains(&memory);
            if !ok {
                return Err(
                    v.error(&format!("Argon2 parameters m={memory} KiB, t={passes}, p={lanes} are above the limit or zero"))
                );
            }
            Ok(Derivation::Passphrase { memory, passes, lanes })
        }
        2 => Ok(Derivation::KeyFile),
        n => Err(Error::new(ErrorKind::Unsupported, format!("a key slot of kind {n} needs a newer yester"))),
    }
}
