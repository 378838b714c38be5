//! Given paths: what is said of those that are links, and of those that could not be stored where they were given.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::ingest::plan::Planner;
use crate::ingest::sources::{self, Place};
use crate::model::escape;
use crate::observe::Event;
use crate::sys::{FileKind, Stat};

/// So many given links are named; a list of files may have thousands.
const NAMED: u64 = 3;

impl Planner<'_> {
    /// Says that a given path is a link, and that what it leads to is not stored by that.
    pub(super) fn tell_link(&mut self, source: &Path, stat: &Stat) {
        if stat.kind != FileKind::Symlink {
            return;
        }
        self.given_links += 1;
        if self.given_links > NAMED {
            return;
        }
        let shown = escape(source.as_os_str().as_bytes());
        let message = match std::fs::metadata(source) {
            Ok(found) if found.is_dir() => format!("it is a link, and only the link is stored: {shown}/ is what it leads to"),
            Ok(_) => "it is a link, and only the link is stored: give the path that it leads to for the file".to_owned(),
            Err(_) => "it is a link, and only the link is stored".to_owned(),
        };
        self.note(source.as_os_str().as_bytes(), &message);
    }

    /// Says which given paths the walk did not come to, and why: they count as missing.
    pub(super) fn tell_rest(&mut self, root: &Place) {
        if self.given_links > NAMED {
            let message = format!("{} of them are links, and only the links are stored", self.given_links);
            self.note(b"given paths", &message);
        }
        let mut rest = Vec::new();
        root.each(b"", |stored, source| {
            if !self.seen.contains(stored) {
                rest.push(source);
            }
        });
        for source in rest {
            self.walked.missing_sources += 1;
            let message = format!("it cannot be ingested: {}", sources::obstacle(source));
            self.warn(source.as_os_str().as_bytes(), &message);
        }
    }

    fn note(&self, subject: &[u8], message: &str) {
        self.observer.event(&Event::Note { subject, message });
    }
}
