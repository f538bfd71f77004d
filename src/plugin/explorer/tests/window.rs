//! The mouse, the window and what lies over it.

use super::*;

#[test]
fn the_mouse_looks_only_while_it_is_caught() {
    let mut app = app();
    let mut chunks = app.world().resource::<Messages<DreamChunkShown>>().get_cursor();
    let mut turned = |app: &mut App| {
        until(app, |app| only::<DreamStatus>(app).size != UVec2::ZERO);
        app.world_mut().write_message(MouseMotion { delta: Vec2::new(10.0, 0.0) });
        let (mut shown, mut yaw) = (0, 0.0);
        until(app, |app| {
            for chunk in chunks.read(app.world().resource::<Messages<DreamChunkShown>>()) {
                shown += 1;
                yaw += chunk.controls.iter().map(|c| c.look[0]).sum::<f32>();
            }
            shown > 4
        });
        yaw
    };
    assert_eq!(turned(&mut app), 0.0);
    let mut cursor = app.world_mut().query::<&mut CursorOptions>().single_mut(app.world_mut()).unwrap();
    cursor.grab_mode = CursorGrabMode::Locked;
    app.update();
    assert!(turned(&mut app) > 0.0);
    press(&mut app, &[KeyCode::Escape]);
    assert_eq!(only::<CursorOptions>(&mut app).grab_mode, CursorGrabMode::None);
}

#[test]
fn a_click_catches_the_mouse_and_another_window_in_front_lets_go_of_all() {
    let mut app = app();
    let window = entity_with::<Window>(&mut app);
    send(&mut app, &[KeyCode::KeyW], ButtonState::Pressed);
    let (button, state) = (MouseButton::Left, ButtonState::Pressed);
    app.world_mut().write_message(MouseButtonInput { button, state, window });
    app.update();
    let view = entity_with::<View>(&mut app);
    click(&mut app, view);
    app.update();
    app.update();
    let cursor = only::<CursorOptions>(&mut app);
    assert_eq!((cursor.grab_mode, cursor.visible), (CursorGrabMode::Locked, false));
    let held = only::<DreamControls>(&mut app).held;
    assert!(held.forward == 1.0 && !held.break_block, "the click is no blow: {held:?}");
    app.world_mut().write_message(MouseButtonInput { button, state, window });
    app.update();
    assert!(only::<DreamControls>(&mut app).held.break_block, "the next one is");
    app.world_mut().write_message(WindowFocused { window, focused: false });
    app.world_mut().write_message(KeyboardFocusLost);
    app.update();
    app.update();
    let cursor = only::<CursorOptions>(&mut app);
    assert_eq!((cursor.grab_mode, cursor.visible), (CursorGrabMode::None, true));
    assert_eq!(only::<DreamControls>(&mut app).held, Default::default());
}

#[test]
fn pictures_fill_a_window_of_any_size_and_keep_their_shape() {
    let mut app = app();
    until(&mut app, |app| only::<DreamStatus>(app).size != UVec2::ZERO);
    let sides = |app: &mut App, width: f32, height: f32| {
        let mut window = app.world_mut().query::<&mut Window>().single_mut(app.world_mut()).unwrap();
        window.resolution.set(width, height);
        app.update();
        let node = app.world_mut().query_filtered::<&Node, With<View>>().single(app.world()).unwrap();
        (node.width, node.height)
    };
    assert_eq!(sides(&mut app, 1280.0, 720.0), (px(720), px(720)));
    assert_eq!(sides(&mut app, 300.0, 720.0), (px(300), px(300)));
    press(&mut app, &[KeyCode::Tab]);
    until(&mut app, |app| only::<DreamStatus>(app).world == 2 && only::<DreamStatus>(app).size != UVec2::ZERO);
    assert_eq!(sides(&mut app, 3840.0, 2160.0), (px(1920), px(1920)), "two beside each other");
}

#[test]
fn f1_and_f3_show_keys_and_figures() {
    let mut app = app();
    until(&mut app, |app| only::<DreamStatus>(app).tick > 4);
    let shown = |app: &mut App, entity| *app.world().get::<Visibility>(entity).unwrap() != Visibility::Hidden;
    let words = |app: &App, entity| app.world().get::<Text>(entity).unwrap().0.clone();
    let (help, figures) = (entity_with::<Help>(&mut app), entity_with::<Figures>(&mut app));
    for (key, entity, says) in
        [(KeyCode::F1, help, presets().remove(8)), (KeyCode::F3, figures, "native frames".into())]
    {
        assert!(!shown(&mut app, entity));
        press(&mut app, &[key]);
        app.update();
        assert!(shown(&mut app, entity));
        assert!(words(&app, entity).contains(&says), "{}", words(&app, entity));
        press(&mut app, &[key]);
        assert!(!shown(&mut app, entity));
    }
}

#[test]
fn f_shows_sharp_pixels_and_smooth_ones() {
    let mut app = app();
    let sampler = |app: &mut App| {
        let view = app.world_mut().query_filtered::<&ImageNode, With<View>>().single(app.world()).unwrap();
        app.world().resource::<Assets<Image>>().get(&view.image).unwrap().sampler.clone()
    };
    for expected in [ImageSampler::nearest(), ImageSampler::linear()] {
        until(&mut app, |app| only::<DreamStatus>(app).tick > 4);
        press(&mut app, &[KeyCode::KeyF]);
        app.update();
        assert_eq!(format!("{:?}", sampler(&mut app)), format!("{expected:?}"));
    }
}
