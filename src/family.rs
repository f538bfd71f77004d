//! The code of every published layout that can be run.

pub mod dream;
pub mod taehv;
pub mod verify;
