//! What a snapshot cannot hold: refused before anything is read.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::composition::MAX_SET;
use crate::format::snapshot::{MAX_BODY, MAX_LIST, MAX_TEXT};
use crate::ingest::input::Input;
use crate::ingest::options::IngestOptions;
use crate::model::node::MAX_NAME;
use crate::model::{Owners, Statistics, escape};
use crate::observe::{Event, Observer};
use crate::sys::users;

/// Refuses more given paths or tags than a snapshot can name, and texts that are too long for it.
pub(super) fn check(inputs: &[Arc<dyn Input>], options: &IngestOptions) -> Result<()> {
    let too_many = |count: usize, what: &str, instead: &str| {
        Err(Error::invalid(format!("{count} {what} were given; a snapshot holds at most {MAX_LIST}: {instead}")))
    };
    let stored: BTreeSet<&[u8]> = inputs.iter().map(|input| input.stored()).collect();
    if stored.len() > MAX_LIST {
        return too_many(stored.len(), "paths", "give the directories that they are in, or several ingests");
    }
    if options.set.as_ref().is_some_and(|set| set.text.len() > MAX_SET) {
        return Err(Error::invalid(format!("the text of the set is too long: at most {MAX_SET} bytes can be stored")));
    }
    if options.tags.len() > MAX_LIST {
        return too_many(options.tags.len(), "tags", "give fewer");
    }
    let texts = [("host", options.host.as_slice()), ("user", &options.user)];
    let texts = texts.into_iter().chain(options.tags.iter().map(|tag| ("tag", tag.as_slice())));
    let paths = inputs.iter().map(|input| ("path", input.stored()));
    let mut size = 0;
    for (what, text) in texts.chain(paths) {
        size += text.len() + 4;
        if text.len() > MAX_TEXT {
            let start = escape(text.get(..20).unwrap_or_default());
            let text = format!("the {what} {start}… of {} bytes is too long: at most {MAX_TEXT} can be stored", text.len());
            return Err(Error::invalid(text));
        }
    }
    // The rest is for names of owners, MAX_LIST users and as many groups of MAX_NAME bytes, and what else a snapshot says.
    match size <= MAX_BODY / 3 {
        true => Ok(()),
        false => {
            Err(Error::invalid(format!("the given paths and tags have {size} bytes, more than a snapshot holds: give fewer")))
        }
    }
}

/// The names of the users and groups that own something, at most `most` of each. That there was no room for more is told
/// and counted: then the ingest is not complete.
pub(crate) fn owners(
    ids: (&BTreeSet<u32>, &BTreeSet<u32>),
    most: usize,
    counts: &mut Statistics,
    observer: &dyn Observer,
) -> Owners {
    let (users, unnamed) = named(ids.0, most, users::user_names);
    let (groups, more) = named(ids.1, most, users::group_names);
    let unnamed = unnamed + more;
    if unnamed > 0 {
        let message = format!("more owners have names than a snapshot holds: {unnamed} of them are stored by number only");
        observer.event(&Event::Warning { subject: b"owners", message: &message });
        counts.errors += 1;
    }
    Owners { users, groups }
}

/// The names of these numbers, as far as a snapshot holds them, and how many it does not.
fn named(ids: &BTreeSet<u32>, most: usize, names: impl Fn(&[u32]) -> Vec<Option<Vec<u8>>>) -> (Vec<(u32, Vec<u8>)>, u64) {
    let (mut out, mut unnamed) = (Vec::new(), 0);
    let ids: Vec<u32> = ids.iter().copied().collect();
    for (id, name) in ids.iter().zip(names(&ids)) {
        match name {
            Some(name) if out.len() < most && name.len() <= MAX_NAME => out.push((*id, name)),
            Some(_) => unnamed += 1,
            None => {}
        }
    }
    (out, unnamed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_is_named() {
        let stored = |stored: String| -> Arc<dyn Input> {
            Arc::new(crate::ingest::Source { path: "/x".into(), stored: stored.into_bytes() })
        };
        let source = |n: usize| stored(format!("/{n}"));
        let fine = IngestOptions::default();
        let many: Vec<Arc<dyn Input>> = (0..=MAX_LIST).map(source).collect();
        assert!(check(&many[1..], &fine).is_ok());
        assert!(check(&many, &fine).expect_err("too many").to_string().starts_with("65537 paths"));
        let host = IngestOptions { host: vec![b'h'; 100_000], ..fine.clone() };
        assert!(check(&many[..1], &host).expect_err("too long").to_string().contains("host hhhh"));
        let tags = IngestOptions { tags: vec![vec![b't'; MAX_TEXT + 1]], ..fine.clone() };
        assert!(check(&many[..1], &tags).is_err());
        let long: Vec<Arc<dyn Input>> = (0..600).map(|n| stored(format!("/{n}{}", "x".repeat(65_000)))).collect();
        assert!(check(&long, &fine).is_err());
    }

    #[test]
    fn owners_beyond_what_a_snapshot_names_have_numbers_only() {
        let ids: BTreeSet<u32> = (0..MAX_LIST as u32 + 10).collect();
        let name = |id| (id != 3).then(|| if id == 5 { vec![b'x'; 300] } else { b"u".to_vec() });
        let (found, unnamed) = named(&ids, MAX_LIST, |ids| ids.iter().map(|id| name(*id)).collect());
        assert_eq!((found.len(), unnamed), (MAX_LIST, 9));
        assert!(found.iter().all(|(id, _)| *id != 3 && *id != 5));
    }

    #[derive(Default)]
    struct Told(parking_lot::Mutex<Vec<String>>);

    impl Observer for Told {
        fn event(&self, event: &Event<'_>) {
            if let Event::Warning { message, .. } = event {
                self.0.lock().push((*message).to_owned());
            }
        }
    }

    /// A warning and an error: the report is not complete, and the command ends with 3.
    #[test]
    fn owners_without_room_for_their_names_are_told_and_counted() {
        let (root, told, mut counts) = (BTreeSet::from([0]), Told::default(), Statistics::default());
        let found = owners((&root, &root), 1, &mut counts, &told);
        assert_eq!((found.users.len(), found.groups.len(), counts.errors), (1, 1, 0));
        assert!(told.0.lock().is_empty());
        let found = owners((&root, &root), 0, &mut counts, &told);
        assert_eq!((found.users.len(), found.groups.len(), counts.errors), (0, 0, 1));
        assert_eq!(*told.0.lock(), ["more owners have names than a snapshot holds: 2 of them are stored by number only"]);
    }
}
