//! The environment of this process.

use std::ffi::OsString;

use yester::Result;
use yester::jobs::variables::value;

/// The value of variable `name`; an empty one is a usage error that names it.
pub fn own(name: &str) -> Result<Option<OsString>> {
    value(name, |name| std::env::var_os(name))
}
