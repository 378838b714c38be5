//! Damage: how it is found, what each command does beside it, and how it heals.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

mod checks;
mod doctor;
mod flips;
mod healing;
mod moving;
mod parity;
mod parity_kills;
mod table;

/// All files below a directory, in order; none if it is not there.
fn files(path: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in fs::read_dir(path).into_iter().flatten().map(|e| e.unwrap().path()) {
        if entry.is_dir() { out.extend(files(&entry)) } else { out.push(entry) }
    }
    out.sort();
    out
}

/// Changes a file that nobody may write.
fn change(path: &Path, with: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    with(&mut bytes);
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(path, bytes).unwrap();
}
