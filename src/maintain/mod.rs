//! Maintenance of a repository: checking whether it is sound, forgetting snapshots, removing what none needs, repair, and
//! statistics.
//!
//! | file | what it does |
//! |---|---|
//! | `check/` | reads the repository, as much of it as is asked for, and says what is damaged |
//! | `retention`, `forget` | which snapshots a policy keeps, and forgetting the others |
//! | `prune/` | removes what no snapshot needs: packs, segments, objects of sessions that ended |
//! | `reads` | says what a restore would read |
//! | `repair` | writes the index and other objects again |
//! | `rotate` | gives the repository another master key |
//! | `stats` | counts |
//! | `undo` | takes back that a snapshot was forgotten |
//! | `usage` | counts what the entries of a snapshot take |

pub mod check;
pub mod forget;
pub mod prune;
pub mod reads;
pub mod repair;
pub mod retention;
pub mod rotate;
pub mod stats;
pub mod undo;
pub mod usage;
