//! What the window holds, and the texts that tell what happens.

use bevy::prelude::*;
use bevy::window::{CursorGrabMode, CursorOptions, PrimaryWindow};

use super::adjust::FORMAT;
use super::bar;
use super::hud::Figures;
use super::presets;
use super::travel::BranchList;
use super::truth::{self, Shown, TruthView};
use crate::controls::TICKS_PER_SECOND;
use crate::plugin::{
    DreamError, DreamMoved, DreamPhase, DreamPromptApplied, DreamRecorded, DreamSaved, DreamScreen, DreamStatus,
};

/// How long a message stays, in seconds.
const MESSAGE_SECONDS: f32 = 6.0;

/// All keys, the presets with what they are.
fn help() -> String {
    let presets: String = (1..).zip(presets()).map(|(key, prompt)| format!("{key:<17}{prompt}\n")).collect();
    format!(
        "\
click            look around with the mouse
Esc              free the mouse
W A S D          walk       Shift  run       Space  jump
arrows           look around
mouse buttons    break (left) and place (right) a block
Z X C V          what else a recorded game has
gamepad          sticks, A jump, LB run, RT break, LT place
Enter            write a prompt, apply it to this world
Shift+Enter      start a new world with it, or from a seed
{presets}\
R                a new world of the same prompt
drop a file      start from a picture, go on with a save
Ctrl+V           start from a picture in the clipboard
Tab              the ground truth beside it
P   .            pause, one chunk
Backspace        hold to go back in time
B   Shift+B      the newest, the oldest branch
[   ]   -   =    steps, context noise
F                sharp or smooth pixels
F5  save         F9  load    F8  record to .{FORMAT}
F1  help         F3  figures"
    )
}

/// The dreamed picture.
#[derive(Component)]
pub(super) struct View;

/// The line that tells what happened.
#[derive(Component)]
pub(super) struct MessageLine;

/// The line in the middle while there is no picture.
#[derive(Component)]
pub(super) struct PhaseLine;

/// What the mouse buttons aim at.
#[derive(Component)]
pub(super) struct Crosshair;

/// The table of keys.
#[derive(Component)]
pub(super) struct Help;

/// A line of text that scales with the window.
fn text(words: &str, size: f32) -> impl Bundle {
    (Text::new(words), TextFont { font_size: FontSize::VMin(size), ..default() }, Pickable::IGNORE)
}

/// The name of a picture while there are two.
#[derive(Component)]
pub(super) struct Label;

fn label(words: &str) -> impl Bundle {
    let node = Node { padding: vmin(0.6).all(), align_self: AlignSelf::Start, ..default() };
    (Label, text(words, 2.4), node, sheet())
}

/// A dark sheet under text, so that it can be read over any picture.
pub(super) fn sheet() -> BackgroundColor {
    BackgroundColor(Color::srgba(0.0, 0.0, 0.0, 0.6))
}

pub(super) fn spawn(mut commands: Commands, mut images: ResMut<Assets<Image>>) {
    commands.spawn(Camera2d);
    let full = Node {
        width: percent(100),
        height: percent(100),
        position_type: PositionType::Absolute,
        align_items: AlignItems::Center,
        justify_content: JustifyContent::Center,
        ..default()
    };
    let below_all = GlobalZIndex(-1);
    let truth = ImageNode::new(truth::image(&mut images));
    commands
        .spawn((
            full.clone(),
            below_all,
            children![
                (View, ImageNode::default(), Node::default(), children![label("dream")]),
                (TruthView, truth, Node::default(), children![label("ground truth")]),
            ],
        ))
        .observe(catch_mouse);
    let ignore = Pickable::IGNORE;
    commands.spawn((
        full.clone(),
        ignore,
        children![
            (
                Crosshair,
                text("+", 3.0),
                Node { position_type: PositionType::Absolute, ..default() },
                Visibility::Hidden
            ),
            (PhaseLine, text("", 3.0)),
        ],
    ));
    // All that is written in it is read, whatever else is shown.
    let page = Node { padding: UiRect::axes(vmin(3), vmin(1.4)), ..default() };
    let paper = BackgroundColor(Color::srgba(0.0, 0.0, 0.0, 0.9));
    let help = (Help, text(&help(), 2.1), page, paper, Visibility::Hidden);
    commands.spawn((full, ignore, GlobalZIndex(1), children![help]));
    let bottom = Node {
        position_type: PositionType::Absolute,
        bottom: vmin(2),
        width: percent(100),
        flex_direction: FlexDirection::Column,
        align_items: AlignItems::Center,
        row_gap: vmin(1),
        ..default()
    };
    commands.spawn((
        bottom,
        ignore,
        children![
            (
                MessageLine,
                text("Enter: write a prompt    1 to 9: presets    F1: all keys", 2.4),
                // Whole pixels, or rounding may leave a word too little room.
                Node { padding: px(6).all(), ..default() },
                sheet()
            ),
            bar::bundle(),
        ],
    ));
    let corner = Node {
        position_type: PositionType::Absolute,
        top: vmin(1),
        left: vmin(1),
        padding: vmin(1).all(),
        ..default()
    };
    let other_corner = Node {
        left: Val::Auto,
        right: vmin(1),
        flex_direction: FlexDirection::Column,
        align_items: AlignItems::End,
        row_gap: vmin(0.4),
        ..corner.clone()
    };
    commands.spawn((Figures, text("", 2.2), corner, sheet(), Visibility::Hidden));
    commands.spawn((BranchList, other_corner));
}

/// Clicking into the picture catches the mouse, and is not a blow at a block.
fn catch_mouse(
    _: On<Pointer<Press>>,
    mut cursor: Single<&mut CursorOptions, With<PrimaryWindow>>,
    mut buttons: ResMut<ButtonInput<MouseButton>>,
    mut focus: ResMut<bevy::input_focus::InputFocus>,
) {
    if cursor.grab_mode == CursorGrabMode::None {
        cursor.grab_mode = CursorGrabMode::Locked;
        cursor.visible = false;
        buttons.reset_all();
    }
    focus.clear();
}

/// There is something to aim with while the mouse is caught.
pub(super) fn aim(
    cursor: Single<&CursorOptions, With<PrimaryWindow>>,
    mut crosshair: Single<&mut Visibility, With<Crosshair>>,
) {
    let caught = cursor.grab_mode != CursorGrabMode::None;
    crosshair.set_if_neq(if caught { Visibility::Inherited } else { Visibility::Hidden });
}

/// Gives the pictures that are shown all the room that their shape allows.
pub(super) fn fit(
    window: Single<&Window, With<PrimaryWindow>>,
    status: Single<&DreamStatus>,
    shown: Res<Shown>,
    mut views: Query<(&mut Node, Has<TruthView>), Or<(With<View>, With<TruthView>)>>,
    mut labels: Query<&mut Visibility, With<Label>>,
) {
    let (mut room, picture) = (window.size(), status.size.as_vec2());
    if *shown == Shown::Both {
        room.x /= 2.0;
    }
    let size = if picture.min_element() > 0.0 { picture * (room / picture).min_element() } else { Vec2::ZERO };
    for (mut node, truth) in &mut views {
        let there = *shown == Shown::Both || truth == (*shown == Shown::Truth);
        let display = if there { Display::Flex } else { Display::None };
        let (width, height) = (px(size.x), px(size.y));
        if (node.width, node.height, node.display) != (width, height, display) {
            (node.width, node.height, node.display) = (width, height, display);
        }
    }
    for mut label in &mut labels {
        label.set_if_neq(if *shown == Shown::Both { Visibility::Inherited } else { Visibility::Hidden });
    }
}

pub(super) fn show_screen(
    screen: Single<&DreamScreen, Changed<DreamScreen>>,
    mut view: Single<&mut ImageNode, With<View>>,
) {
    view.image = screen.0.clone();
}

pub(super) fn tell_phase(
    status: Single<&DreamStatus, Changed<DreamStatus>>,
    mut line: Single<&mut Text, With<PhaseLine>>,
) {
    let percent = status.reading.map(|part| format!("{:.0} %", 100.0 * part));
    let words = match (&status.phase, percent) {
        (DreamPhase::Failed(reason), _) => format!("{reason}\npress R to start a new world"),
        (_, Some(percent)) if status.model.is_empty() => format!("loading the model: {percent}"),
        (_, Some(percent)) => format!("reading the prompt: {percent}"),
        (DreamPhase::Loading, None) => "loading the model ...".into(),
        (_, None) if status.size == UVec2::ZERO => "dreaming the first frame ...".into(),
        (_, None) => String::new(),
    };
    line.set_if_neq(Text(words));
}

pub(super) fn on_error(error: On<DreamError>, mut line: Single<&mut Text, With<MessageLine>>) {
    if !error.fatal {
        line.0.clone_from(&error.reason);
    }
}

pub(super) fn on_prompt(prompt: On<DreamPromptApplied>, mut line: Single<&mut Text, With<MessageLine>>) {
    line.0.clone_from(&prompt.prompt);
}

pub(super) fn on_moved(moved: On<DreamMoved>, mut line: Single<&mut Text, With<MessageLine>>) {
    line.0 = format!("{:.1} s", moved.tick as f32 / TICKS_PER_SECOND);
}

pub(super) fn on_saved(saved: On<DreamSaved>, mut line: Single<&mut Text, With<MessageLine>>) {
    line.0 = format!("saved to {}", saved.path.display());
}

pub(super) fn on_recorded(recorded: On<DreamRecorded>, mut line: Single<&mut Text, With<MessageLine>>) {
    line.0 = format!("recorded in {}", recorded.path.display());
}

/// Takes a message away after a while.
pub(super) fn fade(
    line: Single<(&mut Text, &mut Visibility), With<MessageLine>>,
    time: Res<Time>,
    mut left: Local<f32>,
) {
    let (mut text, mut visibility) = line.into_inner();
    if text.is_changed() && !text.0.is_empty() {
        *left = MESSAGE_SECONDS;
    }
    *left -= time.delta_secs();
    if *left < 0.0 && !text.0.is_empty() {
        text.0.clear();
    }
    visibility.set_if_neq(if text.0.is_empty() { Visibility::Hidden } else { Visibility::Inherited });
}
