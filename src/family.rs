//! The code of every published layout that can be run.

pub mod dream;
pub mod facts;
mod layer;
pub mod oasis;
pub mod taehv;
pub mod umt5;
pub mod verify;
pub mod wan;
pub mod waypoint;
