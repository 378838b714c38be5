//! What could not be set, told once for each kind: a user who is not root cannot give files away, and a file system may
//! have no attributes at all.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::model::escape;

/// Kinds that are told one by one.
const KINDS: usize = 20;

/// One kind of what could not be set.
#[derive(Debug)]
struct UnsetKind {
    count: u64,
    /// The first such entry, and why.
    first: Vec<u8>,
    error: String,
}

/// What could not be set so far.
#[derive(Debug, Default)]
pub(crate) struct UnsetMetadata(Mutex<BTreeMap<String, UnsetKind>>);

/// One line about one kind.
#[derive(Debug)]
pub(crate) struct UnsetLine {
    /// The first such entry.
    pub(crate) subject: Vec<u8>,
    /// What could not be set, why, and of how many others.
    pub(crate) message: String,
}

impl UnsetMetadata {
    /// Notes that `what` of an entry could not be set. `subject` is asked for only for the first of a kind.
    pub(crate) fn note(&self, what: &str, error: &dyn std::fmt::Display, subject: impl FnOnce() -> Vec<u8>) {
        let mut kinds = self.0.lock();
        let what = if kinds.len() < KINDS || kinds.contains_key(what) { what } else { "other properties" };
        match kinds.get_mut(what) {
            Some(kind) => kind.count += 1,
            None => {
                let kind = UnsetKind { count: 1, first: subject(), error: error.to_string() };
                kinds.insert(what.to_owned(), kind);
            }
        }
    }

    /// A line for each kind, in order; there are none afterwards.
    pub(crate) fn take(&self) -> Vec<UnsetLine> {
        let kinds = std::mem::take(&mut *self.0.lock());
        let line = |(what, kind): (String, UnsetKind)| {
            let others = match kind.count {
                1 => String::new(),
                2 => " (nor of 1 other entry)".to_owned(),
                n => format!(" (nor of {} other entries)", n - 1),
            };
            UnsetLine {
                subject: kind.first,
                message: format!("cannot set its {}{others}: {}", escape(what.as_bytes()), kind.error),
            }
        };
        kinds.into_iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_told_once() {
        let told = UnsetMetadata::default();
        for n in 0..3 {
            told.note("owner", &"not permitted", || vec![b'a' + n]);
        }
        told.note("attribute user.x", &"not supported", || b"z".to_vec());
        let lines = told.take();
        assert_eq!(lines[1].message, "cannot set its owner (nor of 2 other entries): not permitted");
        assert_eq!((lines[1].subject.as_slice(), lines[0].message.contains("user.x")), (&b"a"[..], true));
        assert!(told.take().is_empty());
    }

    #[test]
    fn a_hostile_tree_cannot_fill_memory_with_kinds() {
        let told = UnsetMetadata::default();
        (0..1000).for_each(|n| told.note(&format!("attribute user.{n}"), &"no", Vec::new));
        assert_eq!(told.take().len(), KINDS + 1);
    }
}
