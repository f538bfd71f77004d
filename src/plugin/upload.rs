//! How long the renderer takes to bring frames to the graphics card.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bevy::diagnostic::Diagnostics;
use bevy::prelude::*;
use bevy::render::render_asset::{ExtractedAssets, prepare_assets};
use bevy::render::texture::GpuImage;
use bevy::render::{Render, RenderApp, RenderSystems};

use super::diagnostic::UPLOAD_MS;

/// Nanoseconds of the last upload that is not told yet, zero for none: the renderer has a thread of its own.
#[derive(Resource, Clone, Default)]
struct Uploaded(Arc<AtomicU64>);

/// When the upload under way began.
#[derive(Resource, Default)]
struct Began(Option<Instant>);

/// Measures the uploads of an app that has a renderer.
pub(super) fn measure(app: &mut App) {
    let uploaded = Uploaded::default();
    let Some(renderer) = app.get_sub_app_mut(RenderApp) else { return };
    renderer.insert_resource(uploaded.clone()).init_resource::<Began>().add_systems(
        Render,
        (begin.before(prepare_assets::<GpuImage>), end.after(prepare_assets::<GpuImage>))
            .in_set(RenderSystems::PrepareAssets),
    );
    app.insert_resource(uploaded).add_systems(Last, tell);
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
