//! Environment variables. One that is set to nothing is a mistake, of a script or a unit file: what it should have said is
//! not known, and what would be done without it is not what was meant. The library never reads the environment itself: who
//! calls gives it a function that does.

use std::ffi::OsString;

use crate::{Error, Result};

/// The value of variable `name`, as `get` answers; an empty one is a usage error that names it.
pub fn value(name: &str, get: impl Fn(&str) -> Option<OsString>) -> Result<Option<OsString>> {
    match get(name) {
        Some(value) if value.is_empty() => Err(Error::invalid(format!("{name} is set, but empty: give it a value, or unset it"))),
        value => Ok(value),
    }
}
