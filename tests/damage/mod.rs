//! Damage: how it is found, what each command does beside it, and how it heals.

mod checks;
mod doctor;
mod flips;
mod healing;
mod moving;
mod parity;
mod parity_kills;
mod table;
