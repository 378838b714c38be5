//! Patterns as users type them. `./` and `~/` are replaced by the working directory and the home directory, which the
//! library does not know.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use yester::{Error, Result};

/// The rules, for help and man pages; docs/patterns.md has them with examples.
pub const RULES: &str = "\
Patterns:
  *.o              such names, anywhere
  /var/cache       this path, with all that is in it
  build/*.o        paths that end like this (build/**/*.o: at any depth)
  ./x  ~/x  $HOME/x  from the working directory, from the home directory
  !keep.log        takes back: of several that match, the last one counts
  What is in a directory that is left out is not looked at: leave out 'dir/*', then take back '!dir/keep'.
  yester ingest -n -v PATH -e PATTERN shows what a pattern does, and stores nothing.";

/// Where relative beginnings of patterns lead.
pub struct PatternRoots {
    /// The working directory.
    pub here: Option<PathBuf>,
    /// The user's home directory.
    pub home: Option<PathBuf>,
}

impl PatternRoots {
    /// Those of this process.
    pub fn new() -> Self {
        let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
        PatternRoots { here: std::env::current_dir().ok(), home }
    }

    /// All of `patterns`, each as [`PatternRoots::resolve`] has it.
    pub fn all(&self, patterns: &[String]) -> Result<Vec<String>> {
        patterns.iter().map(|pattern| self.resolve(pattern)).collect()
    }

    /// `pattern` with `./` and `../` at its beginning taken from the working directory, and `~/` and `$HOME/` from the home
    /// directory. Another variable is refused: it would match nothing.
    pub fn resolve(&self, pattern: &str) -> Result<String> {
        let bad = |why: &str| Error::invalid(format!("the pattern {pattern:?} cannot be used: {why}"));
        let text = pattern.strip_prefix('\u{feff}').unwrap_or(pattern);
        let (mark, text) = text.strip_prefix('!').map_or(("", text), |rest| ("!", rest));
        let (first, rest) = text.split_once('/').map_or((text, None), |(first, rest)| (first, Some(rest)));
        let base = match first {
            "." | ".." => self.here.as_deref().ok_or_else(|| bad("the working directory cannot be found"))?,
            "~" | "$HOME" | "${HOME}" => self.home.as_deref().ok_or_else(|| bad("HOME is not set"))?,
            _ if rest.is_some() && is_variable(first) => {
                let name = first.trim_start_matches('$');
                return Err(bad(&format!("only $HOME is replaced in patterns (write \\${name} for a name with a dollar sign)")));
            }
            _ => return Ok(format!("{mark}{text}")),
        };
        let from_here = if first == ".." { ".." } else { "." };
        let mut base = base.to_owned();
        let mut below = Vec::new();
        for part in Path::new(from_here).join(rest.unwrap_or_default()).components() {
            match part {
                Component::ParentDir if below.pop().is_none() => drop(base.pop()),
                Component::Normal(name) => below.push(name.to_os_string()),
                _ => {}
            }
        }
        let base = base.to_str().ok_or_else(|| bad("the directory that it begins with has a name that is not UTF-8"))?;
        let below: Vec<&str> = below.iter().filter_map(|name: &std::ffi::OsString| OsStr::to_str(name)).collect();
        let base = globset::escape(base.trim_end_matches('/'));
        Ok(format!("{mark}{base}/{}", below.join("/")))
    }
}

/// `$NAME` or `${NAME}`, as environment variables are usually called.
fn is_variable(text: &str) -> bool {
    let Some(name) = text.strip_prefix('$') else { return false };
    let name = name.strip_prefix('{').and_then(|name| name.strip_suffix('}')).unwrap_or(name);
    name.starts_with(|c: char| c.is_ascii_uppercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_are_put_in() {
        let bases = PatternRoots { here: Some("/here/a[b]".into()), home: Some("/home/me".into()) };
        let of = |pattern: &str| bases.resolve(pattern).unwrap();
        assert_eq!(of("./cache"), "/here/a[[]b[]]/cache");
        assert_eq!(of("../t/x"), "/here/t/x");
        assert_eq!(of("../../../t/../x"), "/x");
        assert_eq!(of("."), "/here/a[[]b[]]/");
        assert_eq!(of("~/x/*.o"), "/home/me/x/*.o");
        assert_eq!(of("$HOME/x"), "/home/me/x");
        assert_eq!(of("!${HOME}/x"), "!/home/me/x");
        for same in ["*.o", "a/b", "/a", "~x/y", "$RECYCLE.BIN", "$RECYCLE.BIN/x", "!a", "\\$X/y", "$MFT", ""] {
            assert_eq!(of(same), same);
        }
        for bad in ["$X/y", "${TMPDIR}/y"] {
            assert!(bases.resolve(bad).unwrap_err().to_string().contains("$HOME"), "{bad}");
        }
        let nowhere = PatternRoots { here: None, home: None };
        assert!(nowhere.resolve("~/x").is_err() && nowhere.resolve("./x").is_err());
    }
}
