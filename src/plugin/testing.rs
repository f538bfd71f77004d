//! For the tests of a game with dreamed worlds: no window, no graphics card, no weights.
//!
//! ```
//! use bevy_dream::plugin::testing::{test_app, update_until};
//! use bevy_dream::prelude::*;
//! use bevy_dream::simulate::fake::FakeModel;
//!
//! let mut app = test_app(FakeModel::fast());
//! let dream = app.world_mut().spawn(Dream::new("any folder", "a meadow")).id();
//! update_until(&mut app, |world| (world.get::<DreamStatus>(dream)?.tick > 4).then_some(()));
//! ```

use std::thread;
use std::time::{Duration, Instant};

use bevy::prelude::*;

use super::{DreamPlugin, ModelLoader};
use crate::simulate::fake::FakeModel;

/// Generous: tests are about what happens, not how fast.
const PATIENCE: Duration = Duration::from_secs(20);

/// An app of `MinimalPlugins` and the [`DreamPlugin`], in which every folder holds `model`.
pub fn test_app(model: FakeModel) -> App {
    test_app_with(ModelLoader::new(move |_| Ok(model.clone().shared())))
}

/// A [`test_app`] with models of your own.
pub fn test_app_with(loader: ModelLoader) -> App {
    let mut app = App::new();
    app.add_plugins((MinimalPlugins, AssetPlugin::default(), ImagePlugin::default(), DreamPlugin { loader }));
    app
}

/// Updates the app until `found` finds something.
///
/// # Panics
/// When it finds nothing for 20 seconds.
pub fn update_until<T>(app: &mut App, mut found: impl FnMut(&mut World) -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        app.update();
        if let Some(value) = found(app.world_mut()) {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "nothing happened for {PATIENCE:?}");
        thread::sleep(Duration::from_millis(1));
    }
}
