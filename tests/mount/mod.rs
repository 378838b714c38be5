//! The mount, the view behind it, and images of snapshots.

mod basics;
mod image;
mod native;
mod point;
mod versions;
mod view;
