//! Objects of a bucket as files: what a store says of an object, and its key as a path of a snapshot and back.
//!
//! A key is any bytes; a path is names. The parts of a key between its slashes are the names, but for what no name can be:
//!
//! | part of a key | name |
//! |---|---|
//! | empty (`//`, a slash at the beginning or the end) | `%empty` |
//! | `.`, `..` | `%2E`, `%2E%2E` |
//! | `%`, NUL in a part | `%25`, `%00` |
//! | longer than a name may be | several names, one below the other; all but the last end with `%+` |
//! | an object whose key is also the beginning of others (`a` beside `a/b`) | `a/%object` |

use crate::model::Timestamp;
use crate::model::node::MAX_NAME;
use crate::model::versions::{ObjectVersion, VERSIONS, names_of_version, number_ties};

/// The name of an object that is where a directory is.
const OBJECT: &[u8] = b"%object";
/// The name of an empty part.
const EMPTY: &[u8] = b"%empty";
/// The end of a name that goes on in the next one.
const GOES_ON: &[u8] = b"%+";

/// An object of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketEntry {
    /// Its key.
    pub key: Vec<u8>,
    /// Its length.
    pub size: u64,
    /// When it was written.
    pub modified: Timestamp,
    /// What stands for its content.
    pub etag: Vec<u8>,
    /// Which version it is, in a list of versions.
    pub version: Option<ObjectVersion>,
}

/// Attributes of an object, as they are stored: sorted by name.
pub(crate) type ObjectAttributes = Vec<(Vec<u8>, Vec<u8>)>;

/// What a store says of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectFacts {
    /// Its length.
    pub(crate) size: u64,
    /// When it was written.
    pub(crate) modified: Timestamp,
    /// What stands for its content.
    pub(crate) etag: Vec<u8>,
    /// What is kept of it as `user.s3.*`.
    pub(crate) attributes: ObjectAttributes,
    /// Why not all attributes are there.
    pub(crate) failed: Option<String>,
}

/// Attributes of objects.
pub(crate) mod attribute {
    /// What all of them begin with.
    pub(crate) const PREFIX: &str = "user.s3.";
    /// What stands for the content.
    pub(crate) const ETAG: &[u8] = b"user.s3.etag";
    /// The storage class.
    pub(crate) const CLASS: &[u8] = b"user.s3.storage-class";
    /// Tags, as `KEY=VALUE&KEY=VALUE`, percent-encoded.
    pub(crate) const TAGS: &[u8] = b"user.s3.tags";
    /// What metadata of the user begins with; its name follows.
    pub(crate) const METADATA: &str = "user.s3.meta.";
    /// Headers that are kept: each under its own name behind the prefix.
    pub(crate) const HEADERS: [&str; 7] = [
        "cache-control",
        "content-disposition",
        "content-encoding",
        "content-language",
        "content-type",
        "expires",
        "x-amz-website-redirect-location",
    ];
}

/// The names under which the object of a key is stored. `prefix`: there are other objects whose keys begin with this one
/// and a slash.
pub fn names_of_key(key: &[u8], prefix: bool) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    key.split(|b| *b == b'/').for_each(|part| put_part(part, &mut out));
    if prefix {
        out.push(OBJECT.to_vec());
    }
    out
}

fn put_part(part: &[u8], out: &mut Vec<Vec<u8>>) {
    if part.is_empty() {
        return out.push(EMPTY.to_vec());
    }
    let escaped = |byte: u8| match byte {
        b'%' => b"%25".to_vec(),
        0 => b"%00".to_vec(),
        byte => vec![byte],
    };
    let mut rest = part;
    let whole: usize = part.iter().map(|byte| escaped(*byte).len()).sum();
    let mut left = whole;
    while left > MAX_NAME {
        let (mut name, mut taken) = (Vec::with_capacity(MAX_NAME), 0);
        for byte in rest {
            let bytes = escaped(*byte);
            if name.len() + bytes.len() + GOES_ON.len() > MAX_NAME {
                break;
            }
            name.extend_from_slice(&bytes);
            taken += 1;
        }
        // A character stays whole, where there are characters.
        let inside = |at: usize| rest.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
        let back = (0..4).find(|back| !inside(taken - back)).filter(|back| inside(taken) && *back > 0).unwrap_or(0);
        name.truncate(name.len() - back);
        taken -= back;
        left -= name.len();
        name.extend_from_slice(GOES_ON);
        out.push(name);
        rest = rest.get(taken..).unwrap_or_default();
    }
    let dots = rest == b"." || rest == b"..";
    let last = rest.iter().flat_map(|byte| if dots { b"%2E".to_vec() } else { escaped(*byte) });
    out.push(last.collect());
}

/// The key of the object that is stored under these names; `None`: no object is stored so.
pub fn key_of_names(names: &[&[u8]]) -> Option<Vec<u8>> {
    let (parts, prefix) = match names {
        [parts @ .., last] if *last == OBJECT => (parts, true),
        parts => (parts, false),
    };
    let mut key = Vec::new();
    let mut goes_on = true;
    for (number, name) in parts.iter().enumerate() {
        if number > 0 && !goes_on {
            key.push(b'/');
        }
        let piece = name.strip_suffix(GOES_ON);
        if *name != EMPTY {
            unescape(piece.unwrap_or(name), &mut key)?;
        }
        goes_on = piece.is_some();
    }
    // Other names could mean the same; only those that a key has are its own.
    let own = names_of_key(&key, prefix);
    own.iter().map(Vec::as_slice).eq(names.iter().copied()).then_some(key)
}

fn unescape(name: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut rest = name.iter();
    while let Some(byte) = rest.next() {
        if *byte != b'%' {
            out.push(*byte);
            continue;
        }
        let hex = [*rest.next()?, *rest.next()?];
        out.push(u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?);
    }
    Some(())
}

/// An object and the path that it is stored at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedObject {
    /// Names with a slash between two.
    pub(crate) path: Vec<u8>,
    /// Its length.
    pub(crate) size: u64,
    /// When it was written.
    pub(crate) modified: Timestamp,
    /// What stands for its content.
    pub(crate) etag: Vec<u8>,
    /// Which version it is, in a list of versions.
    pub(crate) version: Option<ObjectVersion>,
}

impl PlacedObject {
    /// Its names.
    pub fn names(&self) -> Vec<&[u8]> {
        self.path.split(|b| *b == b'/').collect()
    }

    /// Its key.
    pub fn key(&self) -> Option<Vec<u8>> {
        match self.names().as_slice() {
            [first, parts @ .., _] if *first == VERSIONS => key_of_names(parts),
            names => key_of_names(names),
        }
    }

    /// Where the same version stood when it was the newest one, or was not yet, or was no more.
    pub(crate) fn other_places(&self) -> Vec<Vec<Vec<u8>>> {
        let (Some(version), Some(key)) = (&self.version, self.key()) else { return Vec::new() };
        match version.is_current() {
            true => vec![names_of_version(&key, self.modified, version)],
            false => vec![names_of_key(&key, false), names_of_key(&key, true)],
        }
    }

    fn of(BucketEntry { size, modified, etag, version, .. }: BucketEntry, names: &[Vec<u8>]) -> Self {
        PlacedObject { path: names.join(&b'/'), size, modified, etag, version }
    }
}

/// Gives all objects of a bucket their places, in the order of a tree. Of a key that is listed twice the last one counts.
pub fn place(mut objects: Vec<BucketEntry>) -> Vec<PlacedObject> {
    // With the slash before all other bytes, what begins with a key and a slash follows it at once.
    let weight = |byte: &u8| if *byte == b'/' { 0 } else { u16::from(*byte) + 1 };
    number_ties(&mut objects);
    let is_current = |entry: &BucketEntry| entry.version.as_ref().is_none_or(ObjectVersion::is_current);
    let (mut objects, others): (Vec<_>, Vec<_>) = objects.into_iter().partition(is_current);
    objects.sort_by(|a, b| a.key.iter().map(weight).cmp(b.key.iter().map(weight)));
    let mut out: Vec<PlacedObject> = Vec::with_capacity(objects.len());
    let mut objects = objects.into_iter().peekable();
    while let Some(entry) = objects.next() {
        let next = objects.peek().map(|next| next.key.as_slice());
        if next == Some(&entry.key) {
            continue;
        }
        let prefix =
            next.and_then(|next| next.strip_prefix(entry.key.as_slice())).is_some_and(|rest| rest.first() == Some(&b'/'));
        let names = names_of_key(&entry.key, prefix);
        out.push(PlacedObject::of(entry, &names));
    }
    for entry in others {
        let names = entry.version.as_ref().map(|version| names_of_version(&entry.key, entry.modified, version));
        out.push(PlacedObject::of(entry, &names.unwrap_or_default()));
    }
    out.sort_by(|a, b| a.path.split(|b| *b == b'/').cmp(b.path.split(|b| *b == b'/')));
    out.dedup_by(|a, b| a.path == b.path);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(key: &[u8]) -> String {
        String::from_utf8(names_of_key(key, false).join(&b'/')).unwrap()
    }

    #[test]
    fn keys_that_are_no_paths_have_names() {
        for (key, names) in [
            ("a/b.txt", "a/b.txt"),
            ("a//b", "a/%empty/b"),
            ("/a", "%empty/a"),
            ("a/", "a/%empty"),
            ("/", "%empty/%empty"),
            ("./../...", "%2E/%2E%2E/..."),
            ("100%", "100%25"),
            ("%empty", "%25empty"),
        ] {
            assert_eq!(path(key.as_bytes()), names);
        }
        let long = [b"x".repeat(253), b"..".to_vec()].concat();
        assert_eq!(names_of_key(&long, false), std::slice::from_ref(&long));
        let longer = [b"x".repeat(253), b"..y".to_vec()].concat();
        assert_eq!(names_of_key(&longer, false), [[&b"x".repeat(253)[..], b"%+"].concat(), b"..y".to_vec()]);
        let umlauts = "ä".repeat(200);
        assert!(names_of_key(umlauts.as_bytes(), false).iter().all(|name| std::str::from_utf8(name).is_ok()));
    }

    #[test]
    fn names_that_no_key_has_are_none() {
        for names in
            [&["%"][..], &["%2f"], &["%41"], &["a%+", "b"], &["%object"], &["a", "%object", "b"], &["%empty%+"], &["x%+"]]
        {
            let names: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
            assert_eq!(key_of_names(&names), None, "{names:?}");
        }
        assert_eq!(key_of_names(&[]), None);
    }

    #[test]
    fn what_is_also_a_prefix_is_below_it() {
        let listed =
            |key: &str| BucketEntry { key: key.into(), size: 0, modified: Timestamp::default(), etag: Vec::new(), version: None };
        let placed = place(["a", "a-b", "a/b", "a/b/", "z"].map(listed).to_vec());
        let paths: Vec<_> = placed.iter().map(|object| String::from_utf8_lossy(&object.path).into_owned()).collect();
        assert_eq!(paths, ["a/%object", "a/b/%empty", "a/b/%object", "a-b", "z"]);
    }
}
