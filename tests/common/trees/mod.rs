//! Trees that are made and edited at random, and compared in every attribute, wherever they come from.

pub mod attributes;
pub mod capture;
pub mod exits;
pub mod fixture;
pub mod generate;
