//! Help, pages of the manual, completions, and the words of other tools.

pub mod completions;
pub mod help;
pub mod man;
pub mod words;
