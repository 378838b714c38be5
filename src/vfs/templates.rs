//! Further directories of links that a user wants in a mount's root, and how times are written there.

use jiff::fmt::strtime::BrokenDownTime;
use jiff::tz::TimeZone;

use crate::model::{Snapshot, Timestamp};
use crate::vfs::names;

/// Names in the root that are there whatever the templates say.
pub(crate) const RESERVED: [&[u8]; 8] = [b"latest", b"ids", b"snapshots", b"hosts", b"tags", b"series", b"groups", b".versions"];
/// Components of a template: the targets of its links must stay short.
const DEEPEST: usize = 64;
/// Go's way to write a time, which restic takes, and what it is here: at each place the first that is there. All times
/// are UTC, so `Z07:00` is `Z`.
const LAYOUT: [(&str, &str); 27] = [
    // Before `_2`: here the line is a line.
    ("_2006", "_%Y"),
    ("January", "%B"),
    ("Jan", "%b"),
    ("Monday", "%A"),
    ("Mon", "%a"),
    ("MST", "%Z"),
    ("Z07:00", "Z"),
    ("Z0700", "Z"),
    ("-07:00", "%:z"),
    ("-0700", "%z"),
    ("2006", "%Y"),
    ("002", "%j"),
    ("01", "%m"),
    ("02", "%d"),
    ("03", "%I"),
    ("04", "%M"),
    ("05", "%S"),
    ("06", "%y"),
    ("15", "%H"),
    ("_2", "%e"),
    ("PM", "%p"),
    ("pm", "%P"),
    ("1", "%-m"),
    ("2", "%-d"),
    ("3", "%-I"),
    ("4", "%-M"),
    ("5", "%-S"),
];

/// One part of a component.
#[derive(Debug, Clone, PartialEq, Eq)]
enum TemplatePart {
    Text(Vec<u8>),
    ShortId,
    Id,
    User,
    Host,
    Tag,
    Time,
}

/// Where links to the snapshots are, besides those that are always there: `web/%h/%T`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathTemplate(Vec<Vec<TemplatePart>>);

impl PathTemplate {
    /// Understands `%i` and `%I` (id, short and whole), `%u` (user), `%h` (host), `%t` (each tag) and `%T` (time).
    /// Errors: what is wrong with it, for people.
    pub fn parse(text: &str) -> Result<PathTemplate, String> {
        let components: Vec<&str> = text.split('/').filter(|component| !component.is_empty()).collect();
        let wrong = |what: &str| Err(format!("{text:?} is no template of a path: {what}"));
        match components.first() {
            None => return wrong("it is empty; write for example by-host/%h/%T"),
            Some(first) if RESERVED.contains(&first.as_bytes()) => return wrong(&format!("{first} is there already")),
            Some(_) => {}
        }
        if components.len() > DEEPEST {
            return wrong(&format!("it has more than {DEEPEST} directories"));
        }
        if components.iter().any(|component| matches!(*component, "." | "..")) || text.contains('\0') {
            return wrong("a directory cannot be called so");
        }
        let parsed: Option<Vec<_>> = components.into_iter().map(component).collect();
        match parsed {
            Some(parsed) => Ok(PathTemplate(parsed)),
            None => wrong("it knows %i %I %u %h %t %T, and %% for a percent sign"),
        }
    }

    /// Whether `latest` makes sense beside the last component.
    pub(crate) fn is_by_time(&self) -> bool {
        self.0.last().is_some_and(|last| last.contains(&TemplatePart::Time))
    }

    /// The paths of a snapshot, each as the names of its components: one for each tag if the tag is asked for.
    pub(crate) fn paths(&self, snapshot: &Snapshot, time: &[u8]) -> Vec<Vec<Vec<u8>>> {
        let by_tag = self.0.iter().flatten().any(|part| *part == TemplatePart::Tag);
        let tags: Vec<&[u8]> = if by_tag { snapshot.tags.iter().map(Vec::as_slice).collect() } else { vec![b""] };
        let path = |tag: &[u8]| self.0.iter().map(|component| expanded(component, snapshot, (tag, time))).collect();
        tags.into_iter().map(path).collect()
    }
}

fn component(text: &str) -> Option<Vec<TemplatePart>> {
    let (mut out, mut plain) = (Vec::new(), Vec::new());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let part = match byte {
            b'%' => match bytes.next()? {
                b'%' => None,
                b'i' => Some(TemplatePart::ShortId),
                b'I' => Some(TemplatePart::Id),
                b'u' => Some(TemplatePart::User),
                b'h' => Some(TemplatePart::Host),
                b't' => Some(TemplatePart::Tag),
                b'T' => Some(TemplatePart::Time),
                _ => return None,
            },
            _ => None,
        };
        match part {
            None => plain.push(byte),
            Some(part) => {
                out.extend((!plain.is_empty()).then(|| TemplatePart::Text(std::mem::take(&mut plain))));
                out.push(part);
            }
        }
    }
    out.extend((!plain.is_empty()).then_some(TemplatePart::Text(plain)));
    Some(out)
}

fn expanded(component: &[TemplatePart], snapshot: &Snapshot, (tag, time): (&[u8], &[u8])) -> Vec<u8> {
    let mut out = Vec::new();
    for part in component {
        match part {
            TemplatePart::Text(text) => out.extend_from_slice(text),
            TemplatePart::ShortId => out.extend_from_slice(snapshot.id.short().as_bytes()),
            TemplatePart::Id => out.extend_from_slice(snapshot.id.to_string().as_bytes()),
            TemplatePart::User => out.extend_from_slice(&snapshot.user),
            TemplatePart::Host => out.extend_from_slice(&snapshot.host),
            TemplatePart::Tag => out.extend_from_slice(tag),
            TemplatePart::Time => out.extend_from_slice(time),
        }
    }
    names::escaped(&out)
}

/// How a snapshot's time is written, in UTC: as `strftime` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeTemplate(String);

impl TimeTemplate {
    /// Understands `%Y-%m-%d` (`strftime`) and, without any `%`, `2006-01-02` (Go's layouts, as restic has them).
    /// Errors: what is wrong with it, for people.
    pub fn parse(text: &str) -> Result<TimeTemplate, String> {
        let wrong = |what: &str| Err(format!("{text:?} is no template of a time: {what}"));
        if text.contains(['/', '\\', '\0']) {
            return wrong("it would be several directories");
        }
        let format = if text.contains('%') { text.to_owned() } else { from_layout(text) };
        if !format.contains('%') {
            return wrong("write as strftime does, %Y-%m-%d_%H.%M, or as restic, 2006-01-02_15.04");
        }
        match written(&format, Timestamp { secs: 0, nanos: 0 }) {
            Ok(name) if name.is_empty() || name.contains(['/', '\0']) => wrong("what comes of it is no name of a file"),
            Ok(_) => Ok(TimeTemplate(format)),
            Err(e) => wrong(&e.to_string()),
        }
    }

    /// A time as the name of a file. Years that no calendar holds are seconds.
    pub(crate) fn name(&self, time: Timestamp) -> Vec<u8> {
        names::escaped(written(&self.0, time).unwrap_or_else(|_| names::time(time)).as_bytes())
    }
}

fn written(format: &str, time: Timestamp) -> Result<String, jiff::Error> {
    let at = jiff::Timestamp::from_second(time.secs)?.to_zoned(TimeZone::UTC);
    BrokenDownTime::from(&at).to_string(format)
}

/// A layout of Go's as a format of `strftime`.
fn from_layout(layout: &str) -> String {
    let mut out = String::new();
    let mut rest = layout;
    while let Some(first) = rest.chars().next() {
        let (take, put) = match LAYOUT.iter().find(|(go, _)| rest.starts_with(go)) {
            Some((go, ours)) => (go.len(), (*ours).to_owned()),
            None => (first.len_utf8(), first.to_string()),
        };
        out.push_str(&put);
        rest = rest.get(take..).unwrap_or_default();
    }
    out
}

/// What a user wants in the root of a mount.
#[derive(Debug, Clone, Default)]
pub struct LinkTemplates {
    /// Further directories.
    pub paths: Vec<PathTemplate>,
    /// How times are written; `None`: `2026-11-20T10-04-11Z`.
    pub time: Option<TimeTemplate>,
}

impl LinkTemplates {
    /// A snapshot's time as a name.
    pub(crate) fn time(&self, time: Timestamp) -> Vec<u8> {
        self.time.as_ref().map_or_else(|| names::time(time).into_bytes(), |template| template.name(time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(template: &str) -> String {
        let at = Timestamp { secs: 1_763_633_051, nanos: 5 };
        TimeTemplate::parse(template).map(|t| String::from_utf8(t.name(at)).unwrap()).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn times_as_strftime_and_as_go() {
        for (ours, go, shown) in [
            ("%Y-%m-%dT%H:%M:%SZ", "2006-01-02T15:04:05Z07:00", "2025-11-20T10:04:11Z"),
            ("@GMT-%Y.%m.%d-%H.%M.%S", "@GMT-2006.01.02-15.04.05", "@GMT-2025.11.20-10.04.11"),
            ("%a %b %e %Y", "Mon Jan _2 2006", "Thu Nov 20 2025"),
            ("%A, %-d. %B %y %I:%M %p %:z", "Monday, 2. January 06 03:04 PM -07:00", "Thursday, 20. November 25 10:04 AM +00:00"),
            ("%j %-S", "002 5", "324 11"),
            ("snap_%Y-%m-%d", "snap_2006-01-02", "snap_2025-11-20"),
        ] {
            assert_eq!((time(ours).as_str(), time(go).as_str()), (shown, shown));
        }
        for bad in ["", "never", "%Y/%m", "2006/01", "%Y%", "%€", "%D", "a\0%Y"] {
            assert!(TimeTemplate::parse(bad).is_err(), "{bad:?}");
        }
        let far = TimeTemplate::parse("%Y").unwrap();
        assert_eq!(far.name(Timestamp { secs: i64::MAX, nanos: 0 }), format!("@{}", i64::MAX).into_bytes());
    }

    #[test]
    fn paths_are_judged() {
        for good in ["by-host/%h/%T", "/%u/%I/", "%t", "100%%/%i"] {
            assert!(PathTemplate::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "/", "hosts/%h", "latest", "a/../%i", "a/./%i", "%", "a/%x", "x\0"] {
            assert!(PathTemplate::parse(bad).is_err(), "{bad:?}");
        }
        assert!(PathTemplate::parse(&"a/".repeat(65)).is_err());
        assert!(PathTemplate::parse("a/x%T").is_ok_and(|t| t.is_by_time()));
        assert!(PathTemplate::parse("%T/a").is_ok_and(|t| !t.is_by_time()));
    }
}
