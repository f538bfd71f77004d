//! Worlds that begin with something from outside: a dropped file, a picture in the clipboard.

use bevy::clipboard::ClipboardError;
use bevy::prelude::*;
use bevy::window::FileDragAndDrop;

use super::keys::new_seed;
use super::layout::MessageLine;
use super::truth::{Shown, Truth};
use crate::plugin::{Dream, DreamLoad};
use crate::video::load_image;
use crate::{Frame, FrameSize};

/// A dropped picture starts a new world, a dropped save is gone on with.
pub(super) fn drop_file(
    mut drops: MessageReader<FileDragAndDrop>,
    dream: Single<(Entity, &mut Dream)>,
    mut truth: ResMut<Truth>,
    mut shown: ResMut<Shown>,
    mut message: Single<&mut Text, With<MessageLine>>,
    mut commands: Commands,
) {
    let (entity, mut dream) = dream.into_inner();
    for dropped in drops.read() {
        let FileDragAndDrop::DroppedFile { path_buf, .. } = dropped else { continue };
        if path_buf.extension().is_some_and(|extension| extension == "dream") {
            truth.lose(&mut shown);
            commands.trigger(DreamLoad { entity, path: path_buf.clone() });
            continue;
        }
        match load_image(path_buf) {
            Ok(picture) => begin(&mut dream, picture),
            Err(error) => message.0 = error.to_string(),
        }
    }
}

/// Ctrl+V starts a new world from the picture in the clipboard.
pub(super) fn paste(
    keys: Res<ButtonInput<KeyCode>>,
    mut clipboard: ResMut<Clipboard>,
    mut dream: Single<&mut Dream>,
    mut message: Single<&mut Text, With<MessageLine>>,
) {
    let command = [KeyCode::ControlLeft, KeyCode::ControlRight, KeyCode::SuperLeft, KeyCode::SuperRight];
    if !keys.just_pressed(KeyCode::KeyV) || !keys.any_pressed(command) {
        return;
    }
    match clipboard.fetch_image().map(|image| frame(&image)) {
        Ok(Some(picture)) => begin(&mut dream, picture),
        Ok(None) | Err(ClipboardError::ContentNotAvailable) => message.0 = "the clipboard holds no picture".into(),
        Err(ClipboardError::ClipboardNotSupported) => message.0 = "there is no clipboard here: drop a file".into(),
        Err(error) => message.0 = format!("the picture cannot be pasted: {error}"),
    }
}

fn begin(dream: &mut Dream, picture: Frame) {
    dream.start = Some(picture.into());
    dream.seed = new_seed();
}

/// The picture without its alpha channel, if there are pixels in it.
fn frame(image: &Image) -> Option<Frame> {
    let rgb: Vec<u8> = image.data.as_ref()?.chunks_exact(4).flat_map(|rgba| [rgba[0], rgba[1], rgba[2]]).collect();
    let size = FrameSize::new(image.width() as usize, image.height() as usize);
    (!rgb.is_empty() && rgb.len() == size.pixels() * 3).then_some(Frame { size, rgb })
}

#[cfg(test)]
mod tests {
    use bevy::asset::RenderAssetUsages;
    use bevy::render::render_resource::{Extent3d, TextureDimension, TextureFormat};

    use super::*;

    #[test]
    fn a_pasted_picture_keeps_its_colours_and_shape() {
        let image = |width, height, rgba: &[u8]| {
            let size = Extent3d { width, height, depth_or_array_layers: 1 };
            let mut image = Image::new_uninit(
                size,
                TextureDimension::D2,
                TextureFormat::Rgba8UnormSrgb,
                RenderAssetUsages::default(),
            );
            image.data = Some(rgba.into());
            image
        };
        let picture = frame(&image(1, 2, &[1, 2, 3, 0, 4, 5, 6, 255])).unwrap();
        assert_eq!(picture, Frame { size: FrameSize::new(1, 2), rgb: vec![1, 2, 3, 4, 5, 6] });
        assert_eq!(frame(&image(0, 0, &[])), None);
    }
}
