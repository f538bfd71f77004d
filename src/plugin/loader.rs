//! Models shared between the worlds of an app.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bevy::prelude::*;

use crate::Result;
use crate::checkpoint::{self, DeviceChoice};
use crate::model::WorldModel;

type Load = dyn Fn(&Path) -> Result<Arc<dyn WorldModel>> + Send + Sync;

/// Loads models by folder. Worlds of one folder share its weights while any of them lives.
#[derive(Resource, Clone, Reflect)]
#[reflect(opaque)]
#[reflect(Resource, Default, Clone)]
pub struct ModelLoader {
    load: Arc<Load>,
    loaded: Arc<Mutex<HashMap<PathBuf, Weak<dyn WorldModel>>>>,
}

impl ModelLoader {
    /// Loads by `load`, which is called on a model thread.
    pub fn new(load: impl Fn(&Path) -> Result<Arc<dyn WorldModel>> + Send + Sync + 'static) -> Self {
        Self { load: Arc::new(load), loaded: Arc::default() }
    }

    /// Loads the families that this crate knows, onto `device`, and logs what a user should know of the rights.
    pub fn on(device: DeviceChoice) -> Self {
        Self::new(move |folder| {
            let model = checkpoint::load(folder, device)?;
            if let Some(notice) = &model.info().notice {
                info!("{notice}");
            }
            Ok(model)
        })
    }

    /// The model in `folder`.
    ///
    /// # Errors
    /// Those of the function it loads by.
    pub fn load(&self, folder: &Path) -> Result<Arc<dyn WorldModel>> {
        // A load that panicked has inserted nothing. Who wants the same model waits here for the first to load it.
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(model) = loaded.get(folder).and_then(Weak::upgrade) {
            return Ok(model);
        }
        let model = (self.load)(folder)?;
        loaded.insert(folder.into(), Arc::downgrade(&model));
        Ok(model)
    }
}

impl Default for ModelLoader {
    /// Loads the families that this crate knows, onto the best device there is.
    fn default() -> Self {
        Self::on(DeviceChoice::Auto)
    }
}
