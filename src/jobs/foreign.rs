//! Repositories of other tools, known by what is in their directories.

use std::fs;
use std::path::Path;

/// The tool whose repository is at `path`.
pub fn tool(path: &Path) -> Option<&'static str> {
    let has = |name: &str| path.join(name).exists();
    let all = |names: &[&str]| names.iter().all(|name| has(name));
    if has("config") && all(&["data", "index", "keys", "locks", "snapshots"]) {
        return Some("restic");
    }
    let config = || fs::read(path.join("config")).unwrap_or_default();
    if has("data") && config().starts_with(b"[repository]") {
        return Some("borg");
    }
    // Version 2 of borg keeps objects in a store of files.
    if all(&["archives", "packs", "config"]) || all(&["archives", "data", "config"]) && path.join("config").is_dir() {
        return Some("borg");
    }
    if has("kopia.repository.f") || has("kopia.repository") {
        return Some("kopia");
    }
    if all(&["rdiff-backup-data"]) {
        return Some("rdiff-backup");
    }
    None
}

/// What to say of it.
pub fn said(path: &str, tool: &str) -> String {
    format!(
        "{path} is a repository of {tool}, which yester does not read: keep it for restoring with {tool}, and give \
         another place for a repository of yester"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_of_other_tools_are_known() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str, dirs: &[&str], config: &str| {
            let path = dir.path().join(name);
            dirs.iter().for_each(|below| fs::create_dir_all(path.join(below)).unwrap());
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("config"), config).unwrap();
            path
        };
        let restic = make("restic", &["data", "index", "keys", "locks", "snapshots"], "\0\0");
        let borg = make("borg", &["data"], "[repository]\nversion = 1\n");
        assert_eq!((tool(&restic), tool(&borg)), (Some("restic"), Some("borg")));
        assert_eq!(tool(&make("other", &["data"], "x")), None);
        assert_eq!(tool(dir.path()), None);
    }
}
