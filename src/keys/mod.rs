//! Unlocking a repository: its configuration and its key slots, of which it keeps several copies, and the recovery text.
//!
//! | file | what it is |
//! |---|---|
//! | `binding` | the types and the id that a small object is sealed with |
//! | `configuration` | the repository's configuration, in copies |
//! | `slots` | key slots: each wraps the master key with one credential |
//! | `copies` | reading, judging and mending an object that is stored several times |
//! | `removal` | removing a slot so that it stays removed, whenever the program ends |
//! | `keyring` | an unlocked repository's keys: what `yester key` works on |
//! | `opened` | what a credential opens: all keys, or one that only writes |
//! | `rotation` | giving the repository another master key |
//! | `recovery` | opening a repository by its recovery text |

pub(crate) mod binding;
pub(crate) mod configuration;
pub mod copies;
pub mod keyring;
pub(crate) mod opened;
pub mod recovery;
pub(crate) mod removal;
pub mod rotation;
pub mod slots;
