//! Versions of objects, and delete markers, as files: beside the objects of the bucket, in a directory whose name no key has.
//!
//! The version number `ID` of the object `a/b`, which was written at a time, is `%versions/a/b/%vTIME.ID`. Of several that
//! were written at the same time, all but the oldest have `~1`, `~2` … behind the time. A name `%v…` is no part of a key, so
//! versions of `a` stand beside the directory of those of `a/b`.

use std::collections::HashMap;

use crate::model::bucket::{BucketEntry, ObjectAttributes, key_of_names, names_of_key};
use crate::model::node::MAX_NAME;
use crate::model::{Timestamp, id};

/// The directory of all versions that are not at the path of their object.
pub const VERSIONS: &[u8] = b"%versions";
/// What the names of versions begin with.
const VERSION: &str = "%v";
/// What follows the time in the name of a version whose id is too long for one, before a hash of it.
const HASHED: &str = "%h";

/// Attributes by which a version is known.
pub(crate) mod version_attribute {
    /// Its id.
    pub(crate) const ID: &[u8] = b"user.s3.version-id";
    /// Whether it is the newest of its key: `true` or `false`.
    pub(crate) const LATEST: &[u8] = b"user.s3.is-latest";
    /// When it was written, as the list has it.
    pub(crate) const MODIFIED: &[u8] = b"user.s3.last-modified";
    /// `true`: it says that the object was deleted, and has no content.
    pub(crate) const MARKER: &[u8] = b"user.s3.delete-marker";
    /// All of them.
    pub(crate) const ALL: [&[u8]; 4] = [ID, LATEST, MODIFIED, MARKER];
}

/// Which version of an object something is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ObjectVersion {
    /// Its id.
    pub id: Vec<u8>,
    /// It is the newest of its key.
    pub latest: bool,
    /// It says that the object was deleted.
    pub marker: bool,
    /// How many of its key are older and were written at the same time.
    pub tie: u32,
}

impl ObjectVersion {
    /// Whether it is the object itself.
    pub(crate) fn is_current(&self) -> bool {
        self.latest && !self.marker
    }
}

/// The time, as names and attributes have it.
fn text(time: Timestamp) -> String {
    let nanos = i32::try_from(time.nanos).unwrap_or(0);
    match jiff::Timestamp::new(time.secs, nanos) {
        Ok(at) if nanos % 1_000_000 == 0 => at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string(),
        Ok(at) => at.strftime("%Y-%m-%dT%H:%M:%S.%9fZ").to_string(),
        // Of no time that a store can mean.
        Err(_) => "1970-01-01T00:00:00.000Z".to_owned(),
    }
}

/// The names under which a version of an object is stored that was written at this time.
pub fn names_of_version(key: &[u8], modified: Timestamp, version: &ObjectVersion) -> Vec<Vec<u8>> {
    let mut name = format!("{VERSION}{}", text(modified)).into_bytes();
    if version.tie > 0 {
        name.extend_from_slice(format!("~{}", version.tie).as_bytes());
    }
    name.push(b'.');
    let begin = name.len();
    for byte in &version.id {
        match byte {
            b'%' => name.extend_from_slice(b"%25"),
            b'/' => name.extend_from_slice(b"%2F"),
            0 => name.extend_from_slice(b"%00"),
            byte => name.push(*byte),
        }
    }
    if name.len() > MAX_NAME {
        name.truncate(begin);
        name.extend_from_slice(HASHED.as_bytes());
        name.extend_from_slice(id::to_hex(&blake3::hash(&version.id).as_bytes()[..16]).as_bytes());
    }
    let mut out = vec![VERSIONS.to_vec()];
    out.extend(names_of_key(key, false));
    out.push(name);
    out
}

/// What the name of a version is sorted by, oldest first; `None`: it is none.
pub(crate) fn order_of_version(name: &[u8]) -> Option<(Timestamp, u32)> {
    let text = String::from_utf8_lossy(name.strip_prefix(VERSION.as_bytes())?).into_owned();
    let (time, rest) = text.split_at_checked(text.find('Z')? + 1)?;
    let (tie, _) = rest.split_once('.')?;
    let tie = match tie.strip_prefix('~') {
        Some(number) => number.parse().ok()?,
        None => Some(0).filter(|_| tie.is_empty())?,
    };
    let at: jiff::Timestamp = time.parse().ok()?;
    Some((Timestamp { secs: at.as_second(), nanos: at.subsec_nanosecond().unsigned_abs() }, tie))
}

/// The key of the object of which versions are in this directory below that of all versions.
pub(crate) fn key_of_versions(names: &[&[u8]]) -> Option<Vec<u8>> {
    key_of_names(names)
}

/// Attributes of an object with those of its version among them.
pub(crate) fn with_version(attributes: &[(Vec<u8>, Vec<u8>)], modified: Timestamp, version: &ObjectVersion) -> ObjectAttributes {
    use version_attribute::{ALL, ID, LATEST, MARKER, MODIFIED};
    let mut out: ObjectAttributes = attributes.iter().filter(|(name, _)| !ALL.contains(&name.as_slice())).cloned().collect();
    let word = if version.latest { "true" } else { "false" };
    out.push((ID.to_vec(), version.id.clone()));
    out.push((LATEST.to_vec(), word.into()));
    out.push((MODIFIED.to_vec(), text(modified).into_bytes()));
    if version.marker {
        out.push((MARKER.to_vec(), b"true".to_vec()));
    }
    out.sort_unstable();
    out
}

/// Says of versions that were written at the same time which is the older one. A list has the newest of a key first.
pub(crate) fn number_ties(listed: &mut [BucketEntry]) {
    let mut met: HashMap<(Vec<u8>, Timestamp), u32> = HashMap::new();
    for entry in listed.iter_mut().rev() {
        let Some(version) = &mut entry.version else { continue };
        let older = met.entry((entry.key.clone(), entry.modified)).or_default();
        version.tie = *older;
        *older += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_names_by_time() {
        let at = Timestamp { secs: 1_795_932_000, nanos: 250_000_000 };
        let version = |id: &str, tie| ObjectVersion { id: id.into(), tie, ..ObjectVersion::default() };
        let name = |version: &ObjectVersion| {
            let names = names_of_version(b"a//b", at, version);
            String::from_utf8(names.join(&b'/')).unwrap()
        };
        assert_eq!(name(&version("x/%", 0)), "%versions/a/%empty/b/%v2026-11-29T06:00:00.250Z.x%2F%25");
        assert_eq!(name(&version("null", 2)), "%versions/a/%empty/b/%v2026-11-29T06:00:00.250Z~2.null");
        let long = names_of_version(b"a", at, &version(&"y".repeat(1024), 0));
        assert!(long.iter().all(|name| name.len() <= MAX_NAME), "{long:?}");
        assert_ne!(long, names_of_version(b"a", at, &version(&"z".repeat(1024), 0)));
        for version in [version("x/%", 0), version("null", 12)] {
            let names = names_of_version(b"a", at, &version);
            assert_eq!(order_of_version(names.last().unwrap()), Some((at, version.tie)));
            assert_eq!(key_of_names(&names.iter().map(Vec::as_slice).collect::<Vec<_>>()), None, "no key has these names");
        }
        for none in ["a", "%v", "%vx.y", "%v2026-11-29T06:00:00Z", "%v2026-11-29T06:00:00Z~x.y", "%v2026-11-29T06:00:00Z3.y"] {
            assert_eq!(order_of_version(none.as_bytes()), None, "{none}");
        }
    }
}
