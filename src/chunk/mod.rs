//! Chunks of files: cuts content into them, names each by a hash, compresses and encrypts it. Only computing, without
//! input or output.

pub mod by_place;
pub mod codec;
pub mod cutter;
pub mod keys;
pub mod one_way;
pub mod seal;
