//! Pure work on bytes: cutting, naming, compressing, sealing. No input or output.

pub mod by_place;
pub mod codec;
pub mod cutter;
pub mod keys;
pub mod seal;
