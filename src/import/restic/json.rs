//! What restic writes as JSON.

use serde::Deserialize;

/// `config`.
#[derive(Debug, Deserialize)]
pub(super) struct ConfigJson {
    pub(super) version: u32,
    pub(super) id: String,
}

/// `keys/…`.
#[derive(Debug, Deserialize)]
pub(super) struct KeyJson {
    pub(super) kdf: String,
    #[serde(rename = "N")]
    pub(super) n: u64,
    pub(super) r: u32,
    pub(super) p: u32,
    pub(super) salt: String,
    pub(super) data: String,
}

/// The master key.
#[derive(Debug, Deserialize)]
pub(super) struct MasterJson {
    pub(super) mac: MacJson,
    pub(super) encrypt: String,
}

/// The part of it for MACs.
#[derive(Debug, Deserialize)]
pub(super) struct MacJson {
    pub(super) k: String,
    pub(super) r: String,
}

/// `index/…`.
#[derive(Debug, Deserialize)]
pub(super) struct IndexJson {
    #[serde(default)]
    pub(super) packs: Vec<PackJson>,
}

/// A pack of an index.
#[derive(Debug, Deserialize)]
pub(super) struct PackJson {
    pub(super) id: String,
    #[serde(default)]
    pub(super) blobs: Vec<BlobJson>,
}

/// A blob of it.
#[derive(Debug, Deserialize)]
pub(super) struct BlobJson {
    pub(super) id: String,
    pub(super) offset: u64,
    pub(super) length: u64,
    #[serde(default)]
    pub(super) uncompressed_length: u64,
}

/// `snapshots/…`.
#[derive(Debug, Deserialize)]
pub(super) struct SnapshotJson {
    pub(super) time: String,
    pub(super) tree: Option<String>,
    #[serde(default)]
    pub(super) paths: Option<Vec<String>>,
    #[serde(default)]
    pub(super) hostname: String,
    #[serde(default)]
    pub(super) username: String,
    #[serde(default)]
    pub(super) excludes: Option<Vec<String>>,
    #[serde(default)]
    pub(super) tags: Option<Vec<String>>,
    #[serde(default)]
    pub(super) program_version: String,
}

/// A tree.
#[derive(Debug, Deserialize)]
pub(super) struct TreeJson {
    #[serde(default)]
    pub(super) nodes: Option<Vec<NodeJson>>,
}

/// An entry of a tree.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NodeJson {
    pub(super) name: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) mode: u32,
    pub(super) mtime: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) user: String,
    pub(super) group: String,
    pub(super) inode: u64,
    pub(super) device_id: u64,
    pub(super) size: u64,
    pub(super) links: u64,
    pub(super) linktarget: String,
    /// Base64; where the target is not UTF-8.
    pub(super) linktarget_raw: Option<String>,
    pub(super) extended_attributes: Option<Vec<AttributeJson>>,
    pub(super) device: u64,
    pub(super) content: Option<Vec<String>>,
    pub(super) subtree: Option<String>,
}

/// An extended attribute.
#[derive(Debug, Deserialize)]
pub(super) struct AttributeJson {
    pub(super) name: String,
    /// Base64.
    #[serde(default)]
    pub(super) value: Option<String>,
}
