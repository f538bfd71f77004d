//! Frames on their way to the graphics card: how long the renderer takes, and what becomes of them when it is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bevy::diagnostic::Diagnostics;
use bevy::prelude::*;
use bevy::render::render_asset::{ExtractedAssets, prepare_assets};
use bevy::render::renderer::RenderDevice;
use bevy::render::texture::GpuImage;
use bevy::render::{Render, RenderApp, RenderSystems};

use super::diagnostic::UPLOAD_MS;
use super::{Dream, DreamRewind, DreamStatus, DreamSystems};

/// Nanoseconds of the last upload that is not told yet, zero for none: the renderer has a thread of its own.
#[derive(Resource, Clone, Default)]
struct Uploaded(Arc<AtomicU64>);

/// When the upload under way began.
#[derive(Resource, Default)]
struct Began(Option<Instant>);

/// Watches the uploads of an app that has a renderer.
pub(super) fn watch(app: &mut App) {
    let uploaded = Uploaded::default();
    let Some(renderer) = app.get_sub_app_mut(RenderApp) else { return };
    renderer.insert_resource(uploaded.clone()).init_resource::<Began>().add_systems(
        Render,
        (begin.before(prepare_assets::<GpuImage>), end.after(prepare_assets::<GpuImage>))
            .in_set(RenderSystems::PrepareAssets),
    );
    app.insert_resource(uploaded).add_systems(Last, tell).add_systems(
        PreUpdate,
        show_again.before(DreamSystems::Show).run_if(resource_exists_and_changed::<RenderDevice>),
    );
}

/// Frames are on the graphics card only. When a game has its renderer recover from a lost one, a world that goes on shows its
/// next frame, and one that stands still its last again.
fn show_again(dreams: Query<(Entity, &Dream, &DreamStatus)>, mut commands: Commands) {
    for (entity, dream, status) in &dreams {
        if dream.paused && status.size != UVec2::ZERO {
            commands.trigger(DreamRewind { entity, time: default() });
        }
    }
}

fn begin(images: Res<ExtractedAssets<GpuImage>>, mut began: ResMut<Began>) {
    began.0 = (!images.extracted.is_empty()).then(Instant::now);
}

fn end(began: Res<Began>, uploaded: Res<Uploaded>) {
    if let Some(began) = began.0 {
        uploaded.0.store(began.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }
}

fn tell(uploaded: Res<Uploaded>, mut diagnostics: Diagnostics) {
    let nanos = uploaded.0.swap(0, Ordering::Relaxed);
    if nanos > 0 {
        diagnostics.add_measurement(&UPLOAD_MS, || nanos as f64 * 1e-6);
    }
}

#[cfg(test)]
mod tests {
    use bevy::ecs::system::RunSystemOnce;

    use super::*;
    use crate::plugin::testing::{test_app, update_until};
    use crate::plugin::{DreamPhase, DreamScreen};
    use crate::simulate::fake::FakeModel;

    #[test]
    fn a_paused_world_shows_its_frame_on_a_new_device() {
        let mut app = test_app(FakeModel::fast());
        let entity = app.world_mut().spawn(Dream::new("model", "a meadow")).id();
        update_until(&mut app, |world| (world.get::<DreamStatus>(entity)?.tick >= 4).then_some(()));
        app.world_mut().get_mut::<Dream>(entity).unwrap().paused = true;
        update_until(&mut app, |world| (world.get::<DreamStatus>(entity)?.phase == DreamPhase::Paused).then_some(()));
        std::thread::sleep(std::time::Duration::from_millis(50));
        app.update();
        let tick = app.world().get::<DreamStatus>(entity).unwrap().tick;
        // The pixels are gone with the device they were moved to.
        let screen = app.world().get::<DreamScreen>(entity).unwrap().0.clone();
        let pixels = app.world_mut().resource_mut::<Assets<Image>>().get_mut(&screen).unwrap().data.take();
        app.world_mut().run_system_once(show_again).unwrap();
        let again =
            update_until(&mut app, |world| world.resource::<Assets<Image>>().get(&screen).unwrap().data.clone());
        assert_eq!(Some(again), pixels);
        assert_eq!(app.world().get::<DreamStatus>(entity).unwrap().tick, tick);
    }
}
