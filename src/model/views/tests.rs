use super::*;
use crate::Controls;
use crate::model::patch::FOCAL;
use crate::model::reproject::ground;

const EYE: f32 = 1.62;
const SIDE: usize = 4;
const SIZE: usize = 32;

fn index(x: usize, y: usize) -> usize {
    ((y / SIDE) * (SIZE / SIDE) + x / SIDE) * RGB * SIDE * SIDE + (y % SIDE) * SIDE + x % SIDE
}

/// A frame whose red is drawn.
fn frame(draw: impl Fn(usize, usize) -> f32) -> Array {
    let fill = |out: &mut [f32]| {
        out.fill(0.0);
        (0..SIZE * SIZE).for_each(|i| out[index(i % SIZE, i / SIZE)] = draw(i % SIZE, i / SIZE));
    };
    Array::new(&[SIZE / SIDE, SIZE / SIDE, RGB * SIDE * SIDE], &Device::Cpu, fill).unwrap()
}

const CELLS: usize = SIZE / SIDE;

fn near(fill: impl FnOnce(&mut [f32])) -> Array {
    Array::new(&[CELLS, CELLS], &Device::Cpu, fill).unwrap()
}

/// Flat ground, seen straight ahead.
fn flat(eye: f32) -> Array {
    near(|out| ground(CELLS, CELLS, 0.0, eye, out))
}

/// The red of what is seen.
fn red(views: &Views, camera: Camera) -> impl Fn(usize, usize) -> f32 + use<> {
    let seen = views.see(&[camera], EYE, &Device::Cpu).unwrap().unwrap().cells;
    move |x, y| seen[index(x, y)]
}

fn look(look: [f32; 2]) -> Camera {
    Camera::default().after(&[Controls { look, ..Controls::default() }])
}

fn seen(draw: impl Fn(usize, usize) -> f32, camera: Camera) -> impl Fn(usize, usize) -> f32 {
    let mut views = Views::default();
    views.add(&frame(draw), &flat(EYE), Camera::default(), false, SIDE).unwrap();
    red(&views, camera)
}

fn brightest(line: impl Iterator<Item = f32>) -> usize {
    line.enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap().0
}

#[test]
fn turning_and_walking_move_what_is_seen() {
    let four_pixels = (4.0 / (FOCAL * SIZE as f32)).atan().to_degrees();
    // after turning right, what stood in the middle stands left of it; after looking up, below
    let turned = seen(|x, _| f32::from(u8::from(x == 16)), look([four_pixels, 0.0]));
    assert_eq!(brightest((0..SIZE).map(|x| turned(x, 16))), 12);
    let tilted = seen(|_, y| f32::from(u8::from(y == 16)), look([0.0, four_pixels]));
    assert_eq!(brightest((0..SIZE).map(|y| tilted(16, y))), 20);
    // walking brings the ground near and leaves the sky; ground at the left of the middle goes on to the left
    let walked = Camera::default().after(&[Controls { forward: 1.0, ..Controls::default() }; 2]);
    let lines = seen(|_, y| f32::from(u8::from(y == 8 || y == 24)), walked);
    assert_eq!(brightest((0..16).map(|y| lines(16, y))), 8);
    assert!(16 + brightest((16..SIZE).map(|y| lines(16, y))) > 24);
    let column = seen(|x, _| f32::from(u8::from(x == 8)), walked);
    assert!(brightest((0..SIZE).map(|x| column(x, 28))) < 8);
    // but not where the camera stands
    let mut views = Views::default();
    views.add(&frame(|_, y| y as f32 / SIZE as f32), &flat(0.0), Camera::default(), false, SIDE).unwrap();
    let [still, walked] =
        [Camera::default(), walked].map(|camera| views.see(&[camera], 0.0, &Device::Cpu).unwrap().unwrap().cells);
    assert_eq!(still[..], walked[..]);
}

#[test]
fn what_is_near_moves_more_and_hides_what_is_far() {
    // a post one block ahead, before a wall ten blocks away
    let post = |x: usize| (12..20).contains(&x);
    let nearness = near(|out| {
        let cells = out.iter_mut().enumerate();
        cells.for_each(|(i, near)| *near = if post(i % CELLS * SIDE) { 1.0 } else { 0.1 });
    });
    let mut views = Views::default();
    views.add(&frame(|x, _| if post(x) { 1.0 } else { -1.0 }), &nearness, Camera::default(), false, SIDE).unwrap();
    let step = Controls { strafe: 1.0, ..Controls::default() };
    let stepped = red(&views, Camera::default().after(&[step; 2]));
    let expected = 15.5 - 0.43 * FOCAL * SIZE as f32;
    assert!((0..SIZE).all(|x| (stepped(x, 16) > 0.5) == ((x as f32 - expected).abs() < 3.6) || (13..20).contains(&x)));
    // a jump lowers it, and what is far hardly moves
    let rows = |near: f32| {
        let mut views = Views::default();
        let all = self::near(|out| out.fill(near));
        views.add(&frame(|_, y| f32::from(u8::from(y == 16))), &all, Camera::default(), false, SIDE).unwrap();
        let jumped = red(&views, Camera::default().after(&[Controls { jump: true, ..Controls::default() }]));
        brightest((0..SIZE).map(|y| jumped(16, y)))
    };
    assert_eq!((rows(0.01), rows(0.5)), (16, 20));
}

#[test]
fn nothing_changes_while_the_camera_rests() {
    let picture = |x: usize, y: usize| ((x * 37 + y * 11) % 64) as f32 / 64.0;
    let still = seen(picture, Camera::default());
    assert!((0..SIZE * SIZE).all(|i| (still(i % SIZE, i / SIZE) - picture(i % SIZE, i / SIZE)).abs() < 1e-3));
}

#[test]
fn what_comes_into_view_is_unknown_until_it_was_seen() {
    let mut views = Views::default();
    let wall = near(|out| out.fill(0.1));
    let add = |views: &mut Views, camera| views.add(&frame(|_, _| 0.5), &wall, camera, false, SIDE).unwrap();
    let unknown = |views: &Views, yaw: f32| {
        let sight = views.see(&[look([0.0; 2]), look([yaw, 0.0])], EYE, &Device::Cpu).unwrap().unwrap();
        assert_eq!(sight.unseen.dims(), [CELLS, CELLS, 2]);
        move |x: usize, y: usize| sight.unseen[2 * (y * CELLS + x)]
    };
    add(&mut views, look([0.0; 2]));
    let (still, turned) = (unknown(&views, 0.0), unknown(&views, 20.0));
    for y in 0..CELLS {
        assert!((0..CELLS).all(|x| still(x, y) == 0.0));
        assert_eq!((turned(0, y), turned(CELLS - 1, y)), (0.0, 1.0), "on the right something comes in");
    }
    add(&mut views, look([45.0, 0.0]));
    assert_eq!(unknown(&views, 20.0)(CELLS - 1, 0), 0.0, "a key frame shows it");
}

#[test]
fn what_is_far_away_is_in_doubt_at_the_horizon() {
    let mut views = Views::default();
    views.add(&frame(|_, _| 0.5), &flat(EYE), Camera::default(), false, SIDE).unwrap();
    let unseen = |views: &Views, which: usize| -> Vec<f32> {
        let sight = views.see(&[Camera::default()], EYE, &Device::Cpu).unwrap().unwrap();
        (0..CELLS).map(|line| sight.unseen[2 * (line * CELLS + CELLS / 2) + which]).collect()
    };
    assert_eq!(unseen(&views, 0), [0.0, 0.0, DOUBT, 0.0, 0.0, 0.0, 0.0, 0.0], "neither the sky above nor the ground");
    assert_eq!(unseen(&views, 1), [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0], "nothing is to be seen there");
    views.add(&frame(|x, _| (x % 2) as f32), &flat(EYE), Camera::default(), false, SIDE).unwrap();
    assert!(unseen(&views, 0)[2] == DOUBT && unseen(&views, 1)[2] < 1e-6, "something is");
}

#[test]
fn where_one_stands_still_it_stays_as_it_was() {
    let mut views = Views::default();
    let pass = |pass: u8| frame(move |_, _| f32::from(pass) / 64.0);
    let seen = |views: &Views| red(views, look([0.0; 2]))(16, 16) * 64.0;
    for i in 0..40 {
        views.add(&pass(i), &flat(EYE), look([0.0; 2]), false, SIDE).unwrap();
        assert!((seen(&views) - f32::from(i).min(GIVES_WAY as f32)).abs() < 0.1, "after {i} passes");
    }
    let mut state = RolloutState::new();
    views.save(&mut state).unwrap();
    let shape = [SIZE / SIDE, SIZE / SIDE, RGB * SIDE * SIDE];
    let mut restored = Views::restore(&state, &shape, SIDE).unwrap();
    restored.add(&pass(50), &flat(EYE), look([0.0; 2]), false, SIDE).unwrap();
    assert!((seen(&restored) - GIVES_WAY as f32).abs() < 0.1, "and after it was saved");
    // but for an edit
    restored.add(&pass(60), &flat(EYE), look([0.0; 2]), true, SIDE).unwrap();
    assert!((seen(&restored) - 60.0).abs() < 0.1);
}

#[test]
fn what_was_looked_away_from_is_seen_again_until_it_is_left_behind() {
    let mut views = Views::default();
    let steps = [0.0, 30.0, 60.0, 90.0];
    let stripe = |x: usize, _: usize| f32::from(u8::from(x == 16));
    for yaw in steps {
        let drawn = if yaw == 0.0 { frame(stripe) } else { frame(|_, _| -0.5) };
        views.add(&drawn, &flat(EYE), look([yaw, 0.0]), false, SIDE).unwrap();
    }
    // half a turn back the old middle is out of the last frame, and a whole circle is the same direction
    for back in [0.0, 360.0, -360.0] {
        let again = red(&views, look([back, 0.0]));
        assert!(again(16, 16) > 0.9 && again(4, 16) == 0.0, "{back}");
    }
    let mut state = RolloutState::new();
    views.save(&mut state).unwrap();
    let shape = [SIZE / SIDE, SIZE / SIDE, RGB * SIDE * SIDE];
    let restored = Views::restore(&state, &shape, SIDE).unwrap();
    assert!(red(&restored, look([0.0; 2]))(16, 16) > 0.9);
    let mut edited = views.clone();
    edited.add(&frame(|_, _| 0.5), &flat(EYE), look([-20.0, -9.0]), true, SIDE).unwrap();
    let middle = |yaw: f32| red(&edited, look([yaw, 0.0]))(16, 20);
    assert!((middle(0.0) - 0.5).abs() < 1e-3, "what is new there is in no frame of before: {}", middle(0.0));
    assert!((middle(60.0) + 0.5).abs() < 1e-3, "but what is aside is as it was: {}", middle(60.0));
    let gone = look([90.0, 0.0]).after(&[Controls { forward: 1.0, ..Controls::default() }; 29]);
    views.add(&frame(|_, _| -0.5), &flat(EYE), gone, false, SIDE).unwrap();
    assert!(red(&views, look([0.0; 2]))(16, 16) < 0.0);
}
