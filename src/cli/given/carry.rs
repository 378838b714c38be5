//! Commands in messages, as they can be typed again: with the `--repo` that was given.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::sync::OnceLock;

/// Commands that work on a repository.
const COMMANDS: &[&str] = &[
    "init",
    "ingest",
    "snapshots",
    "copy",
    "import",
    "ls",
    "cat",
    "export",
    "mount",
    "restore",
    "check",
    "doctor",
    "parity",
    "stats",
    "repair",
    "forget",
    "prune",
    "key",
    "runs",
    "tag",
    "note",
    "pin",
];

/// Commands of two words.
const PARTED: &[(&str, &[&str])] = &[
    ("key", &["list", "add", "remove", "passwd", "export", "recover"]),
    ("repair", &["index", "keys", "objects"]),
    ("parity", &["add", "status", "remove"]),
];

static REPO: OnceLock<String> = OnceLock::new();

/// Remembers the `--repo` that was given.
pub fn given(repo: Option<&OsString>) {
    if let Some(repo) = repo {
        let _ = REPO.set(quoted(repo));
    }
}

/// A message whose commands name the repository that was given.
pub fn carry(message: &str) -> Cow<'_, str> {
    match REPO.get() {
        Some(repo) => Cow::Owned(named(message, repo)),
        None => Cow::Borrowed(message),
    }
}

fn named(message: &str, repo: &str) -> String {
    const NAME: &str = "yester ";
    let mut out = String::with_capacity(message.len() + repo.len() + 8);
    let mut rest = message;
    while let Some(at) = rest.find(NAME) {
        let (before, found) = rest.split_at(at);
        out.push_str(before);
        let after = &found[NAME.len()..];
        let word = |text: &str| text.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(text.len());
        let (first, mut end) = (&after[..word(after)], word(after));
        if let (Some((_, below)), Some(second)) = (PARTED.iter().find(|(c, _)| *c == first), after[end..].strip_prefix(' ')) {
            let second = &second[..word(second)];
            end += if below.contains(&second) { 1 + second.len() } else { 0 };
        }
        // `--help` needs no repository.
        let help = after[end..].trim_start().starts_with("--help");
        out.push_str(NAME);
        out.push_str(&after[..end]);
        let begins = before.is_empty() || before.ends_with(|c: char| c.is_whitespace() || "(:;,\"'`".contains(c));
        if begins && COMMANDS.contains(&first) && !help {
            out.push_str(&format!(" --repo {repo}"));
        }
        rest = &after[end..];
    }
    out.push_str(rest);
    out
}

/// A word as a shell reads it.
pub fn quoted(word: &OsStr) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=".contains(c);
    match word.to_str() {
        Some(text) if !text.is_empty() && text.chars().all(plain) => text.to_owned(),
        Some(text) if !text.chars().any(char::is_control) => format!("'{}'", text.replace('\'', "'\\''")),
        _ => {
            let bytes = std::os::unix::ffi::OsStrExt::as_bytes(word).iter();
            let shown: String = bytes
                .map(|b| match b {
                    b'\'' | b'\\' => format!("\\{}", char::from(*b)),
                    0x20..0x7f => char::from(*b).to_string(),
                    _ => format!("\\x{b:02x}"),
                })
                .collect();
            format!("$'{shown}'")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn commands_name_the_repository() {
        let cases = [
            ("it is gone (see: yester snapshots)", "it is gone (see: yester snapshots --repo R)"),
            ("yester prune, then yester check --read-data", "yester prune --repo R, then yester check --repo R --read-data"),
            ("yester repair index makes it anew", "yester repair index --repo R makes it anew"),
            ("yester key shows it", "yester key --repo R shows it"),
            ("see: yester restore --help", "see: yester restore --help"),
            ("a newer yester is needed", "a newer yester is needed"),
            ("yester umount /m", "yester umount /m"),
            ("/x/myyester prune", "/x/myyester prune"),
            ("yester serve token create", "yester serve token create"),
        ];
        for (message, expected) in cases {
            assert_eq!(named(message, "R"), expected);
        }
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        let quote = |text: &[u8]| quoted(OsStr::from_bytes(text));
        assert_eq!(quote(b"/srv/repo-1"), "/srv/repo-1");
        assert_eq!(quote(b"my repo"), "'my repo'");
        assert_eq!(quote(b"it's"), "'it'\\''s'");
        assert_eq!(quote(b"a\xff'b"), "$'a\\xff\\'b'");
        assert_eq!(quote(b""), "''");
    }
}
