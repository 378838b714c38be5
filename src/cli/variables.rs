//! Environment variables. One that is set to nothing is a mistake, of a script or a unit file: what it should have said is
//! not known, and what would be done without it is not what was meant.

use std::ffi::OsString;

use yester::{Error, Result};

/// The value of variable `name`, as `get` answers; an empty one is a usage error that names it.
pub fn value(name: &str, get: impl Fn(&str) -> Option<OsString>) -> Result<Option<OsString>> {
    match get(name) {
        Some(value) if value.is_empty() => Err(Error::invalid(format!("{name} is set, but empty: give it a value, or unset it"))),
        value => Ok(value),
    }
}

/// The same, of this process's environment.
pub fn own(name: &str) -> Result<Option<OsString>> {
    value(name, |name| std::env::var_os(name))
}
