//! Prune: what it deletes, what it must not, and what is left when it is stopped anywhere. The rules are those of
//! docs/durability.md, which names these tests.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

pub(crate) mod support;

mod basics;
mod campaign;
mod crash;
mod damage;
mod delta;
mod in_step;
mod overtaken;
mod past_the_dead;
mod rules;
mod stolen;
mod thousand;
mod together;
