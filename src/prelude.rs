//! What a game with dreamed worlds needs: `use bevy_dream::prelude::*;`.

pub use crate::Controls;
pub use crate::plugin::{
    Dream, DreamChunkShown, DreamControls, DreamError, DreamInput, DreamLoad, DreamMoved, DreamPhase, DreamPlugin,
    DreamPromptApplied, DreamRecord, DreamRecorded, DreamRecovered, DreamRestart, DreamRewind, DreamSave, DreamSaved,
    DreamScreen, DreamScript, DreamStarted, DreamStatus, DreamStep, DreamSwitch, DreamSystems, ModelLoader,
};
