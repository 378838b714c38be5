//! Rules that the sources and the README keep.

mod architecture;
mod glossary;
mod readme;
