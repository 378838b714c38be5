//! Names in the mount's root: times, hosts, tags, series as file names.

use std::collections::{HashMap, HashSet};

use crate::model::node::MAX_NAME;
use crate::model::{Snapshot, SnapshotId, Timestamp};

/// Time in UTC without colons, so that it is a file name everywhere: `2026-11-20T10-04-11Z`. Years that no calendar
/// holds are seconds: `@9999999999999`.
pub(crate) fn time(time: Timestamp) -> String {
    match jiff::Timestamp::from_second(time.secs) {
        Ok(at) => at.strftime("%Y-%m-%dT%H-%M-%SZ").to_string(),
        Err(_) => format!("@{}", time.secs),
    }
}

/// A name for each of `snapshots` (oldest first): its time, as `write` does it; the second and later ones in the same second get their
/// id's first four digits, or as many as it takes, appended.
pub(crate) fn times(snapshots: &[&Snapshot], write: impl Fn(Timestamp) -> Vec<u8>) -> HashMap<SnapshotId, Vec<u8>> {
    distinct(snapshots, |s| write(s.time), |s, plain| longer(&s.id, plain))
}

/// What a name becomes that another snapshot has: with more and more digits of the snapshot's id.
pub(crate) fn longer(id: &SnapshotId, plain: &[u8]) -> Vec<Vec<u8>> {
    let id = id.to_string();
    let cut = &plain[..plain.len().min(MAX_NAME - 1 - id.len())];
    (4..=id.len()).map(|digits| [cut, b"-", &id.as_bytes()[..digits]].concat()).collect()
}

/// A name for each of `snapshots` below `ids/`: the first eight digits of its id, or all when an older one has them.
pub(crate) fn ids(snapshots: &[&Snapshot]) -> HashMap<SnapshotId, Vec<u8>> {
    distinct(snapshots, |s| s.id.short().into_bytes(), |s, _| vec![s.id.to_string().into_bytes()])
}

/// A name for each group that these are parts of: the first eight digits of its id, or all when an older one has them.
pub(crate) fn groups(snapshots: &[&Snapshot]) -> HashMap<SnapshotId, Vec<u8>> {
    let (mut taken, mut out) = (HashSet::new(), HashMap::new());
    for part in snapshots.iter().filter_map(|snapshot| snapshot.composition.group.as_ref()) {
        out.entry(part.group).or_insert_with(|| {
            let name = Some(part.group.short()).filter(|name| !taken.contains(name)).unwrap_or_else(|| part.group.to_string());
            taken.insert(name.clone());
            name.into_bytes()
        });
    }
    out
}

fn distinct(
    snapshots: &[&Snapshot],
    plain: impl Fn(&Snapshot) -> Vec<u8>,
    longer: impl Fn(&Snapshot, &[u8]) -> Vec<Vec<u8>>,
) -> HashMap<SnapshotId, Vec<u8>> {
    let mut taken = HashSet::new();
    let mut out = HashMap::with_capacity(snapshots.len());
    for snapshot in snapshots {
        let first = plain(snapshot);
        let rest = if taken.contains(&first) { longer(snapshot, &first) } else { Vec::new() };
        let name = std::iter::once(first).chain(rest).find(|name| !taken.contains(name));
        if let Some(name) = name {
            out.insert(snapshot.id, name.clone());
            taken.insert(name);
        }
    }
    out
}

/// Any bytes as the name of one entry. What cannot stand in a name, and `%` itself, becomes `%` and two hexadecimal
/// digits; what is too long is cut and gets a hash. Different bytes have different names.
pub(crate) fn escaped(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let dots = bytes == b"." || bytes == b"..";
    for &b in bytes {
        match b {
            b'/' | b'%' | 0 => out.extend_from_slice(format!("%{b:02X}").as_bytes()),
            b'.' if dots => out.extend_from_slice(b"%2E"),
            _ => out.push(b),
        }
    }
    if out.is_empty() {
        out.push(b'%');
    }
    fitted(out, bytes)
}

/// Cuts a name that is too long and appends the hash of what it stands for.
fn fitted(mut name: Vec<u8>, of: &[u8]) -> Vec<u8> {
    if name.len() > MAX_NAME {
        name.truncate(MAX_NAME - 34);
        name.extend_from_slice(b"%~");
        name.extend_from_slice(&blake3::hash(of).to_hex().as_bytes()[..32]);
    }
    name
}

/// Host and given paths.
pub(crate) type SeriesKey<'a> = (&'a [u8], &'a [Vec<u8>]);

/// A readable name for each series: `host-etc+var-lib-app`. Series that would have the same name get a hash of host
/// and paths appended, all of them.
pub(crate) fn series<'a>(all: impl Iterator<Item = SeriesKey<'a>>) -> HashMap<SeriesKey<'a>, Vec<u8>> {
    let mut groups: HashMap<Vec<u8>, HashSet<SeriesKey<'_>>> = HashMap::new();
    for key in all {
        groups.entry(readable(key.0, key.1)).or_default().insert(key);
    }
    let mut out = HashMap::new();
    for (name, keys) in groups {
        let alone = keys.len() == 1;
        for key in keys {
            let name = if alone { name.clone() } else { hashed(&name, key) };
            out.insert(key, name);
        }
    }
    out
}

fn readable(host: &[u8], paths: &[Vec<u8>]) -> Vec<u8> {
    let mut raw = host.to_vec();
    for (at, path) in paths.iter().enumerate() {
        raw.push(if at == 0 { b'-' } else { b'+' });
        match path.strip_prefix(b"/").unwrap_or(path) {
            b"" => raw.push(b'/'),
            inner => raw.extend(inner.iter().map(|&b| if b == b'/' { b'-' } else { b })),
        }
    }
    escaped(&raw)
}

fn hashed(name: &[u8], (host, paths): SeriesKey<'_>) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    for part in std::iter::once(host).chain(paths.iter().map(Vec::as_slice)) {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let digits = hasher.finalize().to_hex();
    let mut out = name[..name.len().min(MAX_NAME - 33)].to_vec();
    out.push(b'~');
    // Eight digits tell apart what people see; a cut name needs all the certainty there is.
    let digits = if name.len() > MAX_NAME - 33 { &digits[..32] } else { &digits[..8] };
    out.extend_from_slice(digits.as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_file_names() {
        assert_eq!(time(Timestamp { secs: 1_763_633_051, nanos: 5 }), "2025-11-20T10-04-11Z");
        assert_eq!(time(Timestamp { secs: -1, nanos: 0 }), "1969-12-31T23-59-59Z");
        assert_eq!(time(Timestamp { secs: i64::MAX, nanos: 0 }), format!("@{}", i64::MAX));
    }

    #[test]
    fn any_bytes_become_distinct_names() {
        let long = vec![b'x'; 300];
        let longer = vec![b'x'; 301];
        let all: [&[u8]; 11] = [b"web1", b"", b".", b"..", b"a/b", b"a%2Fb", b"%", b"a\0b", b"a%00b", &long, &longer];
        let names: HashSet<Vec<u8>> = all.iter().map(|b| escaped(b)).collect();
        assert_eq!(names.len(), all.len());
        for name in &names {
            assert!(crate::model::node::check_name(name).is_ok(), "{}", String::from_utf8_lossy(name));
        }
        assert_eq!(escaped(b"web1"), b"web1");
    }

    #[test]
    fn series_are_told_apart() {
        let (one, two, three) = ([b"/a/b".to_vec()], [b"/a-b".to_vec()], [b"/etc".to_vec(), b"/var/lib".to_vec()]);
        let root = [b"/".to_vec()];
        let keys: [SeriesKey<'_>; 4] = [(b"h", &one), (b"h", &two), (b"h", &three), (b"h", &root)];
        let names = series(keys.iter().copied());
        assert_eq!(names[&keys[2]], b"h-etc+var-lib");
        assert_eq!(names[&keys[3]], b"h-%2F");
        assert_ne!(names[&keys[0]], names[&keys[1]]);
        assert!(names[&keys[0]].starts_with(b"h-a-b~"));
    }
}
