//! Players without a human: they hold keys for long, turn like a mouse does, and turn away from walls.
//!
//! A policy is two tracks that run beside each other: the feet hold keys for a while, the head makes gestures.
//! Each kind of policy is a way to refill the tracks when they run out.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;

use super::World;
use super::random::{Random, ease};
use crate::{Controls, Error, Result};

/// How a policy plays.
#[derive(Clone, Debug, PartialEq)]
pub enum PolicyKind {
    /// Strolls: walks, turns, strafes, jumps, stops now and then.
    Wander,
    /// Goes far: sprints, keeps its direction.
    Explore,
    /// Stands, looks around and returns to the same view.
    Look,
    /// Places and breaks blocks, and looks back at them.
    Build,
    /// Does nothing.
    Still,
    /// Plays a list, then stands still.
    Scripted(Vec<Controls>),
    /// A random mixture of the others, mostly wandering: what training data is made of.
    Mixed,
}

impl PolicyKind {
    const NAMED: [(&'static str, Self); 6] = [
        ("wander", Self::Wander),
        ("explore", Self::Explore),
        ("look", Self::Look),
        ("build", Self::Build),
        ("still", Self::Still),
        ("mixed", Self::Mixed),
    ];
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::NAMED.iter().find(|(_, kind)| kind == self).map_or("scripted", |(name, _)| name))
    }
}

impl FromStr for PolicyKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::NAMED.into_iter().find(|(name, _)| *name == text).map(|(_, kind)| kind).ok_or_else(|| {
            let names: Vec<_> = Self::NAMED.into_iter().map(|(name, _)| name).collect();
            Error::input(format!("'{text}' is not a policy: use one of {}", names.join(", ")))
        })
    }
}

/// Keys held for a while.
#[derive(Clone, Debug, Default)]
struct Feet {
    forward: f32,
    strafe: f32,
    sprint: bool,
    hop: bool,
    ticks: u32,
}

/// A turn of the head that starts and ends slowly, or a pause; an edit happens on its first tick.
#[derive(Clone, Copy, Debug, Default)]
struct Gesture {
    yaw: f32,
    pitch: f32,
    ticks: u32,
    done: u32,
    edit: Option<Edit>,
    avoids: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Edit {
    Break,
    Place,
}

impl Gesture {
    fn pause(ticks: u32) -> Self {
        Self { ticks, ..Self::default() }
    }

    fn is_pause(&self) -> bool {
        self.yaw == 0.0 && self.pitch == 0.0 && self.edit.is_none()
    }

    /// A turn by these degrees at about `rate` degrees a tick.
    fn turn(yaw: f32, pitch: f32, rate: f32) -> Self {
        let ticks = ((yaw.abs().max(pitch.abs()) / rate).ceil() as u32).max(4);
        Self { yaw, pitch, ticks, ..Self::default() }
    }

    fn edit(edit: Edit, ticks: u32) -> Self {
        Self { ticks, edit: Some(edit), ..Self::default() }
    }

    /// The degrees of the next tick.
    fn advance(&mut self) -> [f32; 2] {
        let at = |tick: u32| ease(tick as f32 / self.ticks as f32);
        let share = at(self.done + 1) - at(self.done);
        self.done += 1;
        [self.yaw * share, self.pitch * share]
    }
}

/// A source of controls that looks at the world.
#[derive(Clone, Debug)]
pub struct Policy {
    kind: PolicyKind,
    playing: PolicyKind,
    playing_ticks: u32,
    builds: bool,
    random: Random,
    feet: Feet,
    head: VecDeque<Gesture>,
    script: usize,
}

impl Policy {
    /// A policy whose choices follow from the seed and what it sees.
    pub fn new(kind: PolicyKind, seed: u64) -> Self {
        let mut random = Random::new(seed, 1);
        let builds = random.chance(0.28);
        let playing = if kind == PolicyKind::Mixed { PolicyKind::Wander } else { kind.clone() };
        let playing_ticks = 0;
        Self { kind, playing, playing_ticks, builds, random, feet: Feet::default(), head: VecDeque::new(), script: 0 }
    }

    /// The controls for the next tick of the world.
    pub fn next(&mut self, world: &World) -> Controls {
        if let PolicyKind::Scripted(list) = &self.kind {
            self.script += 1;
            return list.get(self.script - 1).copied().unwrap_or_default();
        }
        self.change_mind();
        if self.feet.ticks == 0 {
            self.refill_feet();
        }
        if self.head.is_empty() {
            self.refill_head(world);
        }
        self.avoid(world);
        let mut controls = Controls {
            forward: self.feet.forward,
            strafe: self.feet.strafe,
            sprint: self.feet.sprint,
            ..Controls::default()
        };
        controls.jump = world.on_ground() && (world.step_ahead(&controls) || self.feet.hop && self.random.chance(0.08));
        self.feet.ticks -= 1;
        if let Some(gesture) = self.head.front_mut() {
            controls.break_block = gesture.done == 0 && gesture.edit == Some(Edit::Break);
            controls.place_block = gesture.done == 0 && gesture.edit == Some(Edit::Place);
            controls.look = gesture.advance();
            if gesture.done == gesture.ticks {
                self.head.pop_front();
            }
        }
        controls
    }

    /// A mixed policy plays another kind every few seconds.
    fn change_mind(&mut self) {
        if self.kind != PolicyKind::Mixed {
            return;
        }
        if self.playing_ticks > 0 || !self.head.is_empty() && self.playing == PolicyKind::Build {
            self.playing_ticks = self.playing_ticks.saturating_sub(1);
            return;
        }
        let build = if self.builds { 1.2 } else { 0.0 };
        let (kind, ticks) = match self.random.weighted(&[0.56, 0.24, 0.12, 0.04, build]) {
            0 => (PolicyKind::Wander, self.random.ticks(40, 90)),
            1 => (PolicyKind::Explore, self.random.ticks(40, 90)),
            2 => (PolicyKind::Look, self.random.ticks(30, 50)),
            3 => (PolicyKind::Still, self.random.ticks(10, 25)),
            _ => (PolicyKind::Build, self.random.ticks(40, 60)),
        };
        self.playing = kind;
        self.playing_ticks = ticks;
        self.feet.ticks = 0;
    }

    fn refill_feet(&mut self) {
        let r = &mut self.random;
        let stand = |ticks| Feet { ticks, ..Feet::default() };
        self.feet = match self.playing {
            PolicyKind::Wander => match r.weighted(&[0.46, 0.11, 0.10, 0.07, 0.26]) {
                0 => Feet {
                    forward: 1.0,
                    sprint: r.chance(0.15),
                    hop: r.chance(0.15),
                    ticks: r.ticks(18, 60),
                    ..stand(0)
                },
                1 => Feet { strafe: r.sign(), ticks: r.ticks(10, 24), ..stand(0) },
                2 => Feet { forward: 1.0, strafe: r.sign(), ticks: r.ticks(10, 30), ..stand(0) },
                3 => Feet { forward: -1.0, ticks: r.ticks(8, 20), ..stand(0) },
                _ => stand(r.ticks(10, 26)),
            },
            PolicyKind::Explore => {
                Feet { forward: 1.0, sprint: r.chance(0.5), hop: r.chance(0.2), ticks: r.ticks(20, 60), ..stand(0) }
            }
            // to ground that is as it was
            PolicyKind::Build if r.chance(0.3) => Feet { forward: 1.0, ticks: r.ticks(6, 14), ..stand(0) },
            PolicyKind::Build => stand(r.ticks(12, 30)),
            _ => stand(r.ticks(8, 16)),
        };
        // Who stops to look does not wait first.
        if self.feet.forward == 0.0 && self.feet.strafe == 0.0 && self.head.front().is_some_and(Gesture::is_pause) {
            self.head.pop_front();
        }
    }

    fn refill_head(&mut self, world: &World) {
        let pitch = world.pose().pitch;
        let standing = self.feet.forward == 0.0 && self.feet.strafe == 0.0;
        let r = &mut self.random;
        match self.playing {
            PolicyKind::Wander | PolicyKind::Explore => {
                let rate = r.range(1.6, 5.0);
                let calm = self.playing == PolicyKind::Explore;
                let yaw = r.sign() * if calm { r.range(8.0, 40.0) } else { r.range(12.0, 80.0) };
                let level = if r.chance(0.14) { r.range(-38.0, 28.0) } else { r.range(-12.0, 6.0) };
                let (yaw, tilt) = if r.chance(0.12) { (0.0, level - pitch) } else { (yaw, (level - pitch) * 0.9) };
                self.head.push_back(Gesture::turn(yaw, tilt, rate));
                self.head.push_back(Gesture::pause(if calm {
                    r.ticks(36, 76)
                } else if standing {
                    r.ticks(3, 8)
                } else {
                    r.ticks(30, 64)
                }));
            }
            PolicyKind::Look => {
                let yaw = r.sign() * r.range(30.0, 130.0);
                let tilt = if r.chance(0.4) { (r.range(-25.0, 20.0) - pitch).clamp(-30.0, 30.0) } else { 0.0 };
                let rate = r.range(2.0, 5.0);
                self.head.push_back(Gesture::turn(yaw, tilt, rate));
                self.head.push_back(Gesture::pause(r.ticks(3, 10)));
                self.head.push_back(Gesture::turn(-yaw, -tilt, rate));
                self.head.push_back(Gesture::pause(r.ticks(4, 12)));
            }
            PolicyKind::Build => {
                let down = r.range(-45.0, -20.0) - pitch;
                let away = r.sign() * r.range(40.0, 80.0);
                let edit = |r: &mut Random| if r.chance(0.5) { Edit::Place } else { Edit::Break };
                self.head.push_back(Gesture::turn(r.sign() * r.range(0.0, 90.0), down, 4.0));
                self.head.push_back(Gesture::edit(edit(r), r.ticks(6, 10)));
                if r.chance(0.4) {
                    self.head.push_back(Gesture::turn(away, 0.0, 4.0));
                    self.head.push_back(Gesture::pause(3));
                    self.head.push_back(Gesture::turn(-away, 0.0, 4.0));
                }
                if r.chance(0.4) {
                    self.head.push_back(Gesture::edit(edit(r), r.ticks(6, 10)));
                }
                self.head.push_back(Gesture::turn(0.0, -down * 0.8, 4.0));
            }
            _ => self.head.push_back(Gesture::pause(8)),
        }
    }

    /// Turns towards the more open side when something fills the view.
    fn avoid(&mut self, world: &World) {
        let walks = matches!(self.playing, PolicyKind::Wander | PolicyKind::Explore);
        let busy = self.head.front().is_some_and(|g| g.avoids);
        let wet = self.feet.forward > 0.0 && world.water_ahead(0.0, 4.0);
        if !walks || busy || !wet && [-12.0, 0.0, 12.0].iter().all(|&turn| world.clearance(turn, 4.0) >= 3.4) {
            return;
        }
        let open = |turn: f32| {
            if world.water_ahead(turn, 6.0) {
                0.0
            } else {
                world
                    .clearance(turn - 15.0, 16.0)
                    .min(world.clearance(turn, 16.0))
                    .min(world.clearance(turn + 15.0, 16.0))
            }
        };
        let ahead = [-45.0, 45.0, -75.0, 75.0, -110.0, 110.0, -150.0, 150.0, 180.0];
        let first = ahead.into_iter().find(|&turn| open(turn) > 8.0);
        let turn = first.unwrap_or_else(|| self.random.sign() * 120.0);
        let level = self.random.range(-8.0, 2.0) - world.pose().pitch;
        self.head.clear();
        self.head.push_back(Gesture { avoids: true, ..Gesture::turn(turn, level * 0.8, self.random.range(3.6, 5.2)) });
        self.head.push_back(Gesture::pause(self.random.ticks(8, 20)));
    }
}
