//! A world under recorded controls, frame by frame.

use bevy_dream::simulate::{ControlScript, Session};
use bevy_dream::voxel::{Policy, PolicyKind, World, WorldConfig};
use bevy_dream::{Frame, Result};

use crate::output::loading;

/// Makes the next `frames` frames of a world under `script` and hands each to `show`, with its tick.
pub fn play(
    session: &mut Session,
    script: &ControlScript,
    frames: u64,
    mut show: impl FnMut(u64, &Frame) -> Result<()>,
) -> Result<()> {
    let per_chunk = session.model().info().frames_per_chunk;
    let end = session.tick() + frames;
    while session.tick() < end {
        let (controls, prompt) = script.chunk(session.tick(), per_chunk);
        if let Some(prompt) = prompt {
            loading(|| session.set_prompt(prompt))?;
        }
        let chunk = session.step(&controls)?;
        let ticks = chunk.first_tick..end;
        ticks.zip(&chunk.frames).try_for_each(|(tick, frame)| show(tick, frame))?;
    }
    Ok(())
}

/// The controls of a policy that walks through the teacher's world of this seed, so that it has walls to avoid.
pub fn script_of(policy: &PolicyKind, seed: u64, ticks: u64) -> ControlScript {
    let mut world = World::new(seed, WorldConfig::default());
    let mut policy = Policy::new(policy.clone(), seed);
    let mut script = ControlScript::default();
    for tick in 0..ticks {
        let controls = policy.next(&world);
        script.record(tick, world.tick(controls));
    }
    script
}

#[cfg(test)]
mod tests {
    use bevy_dream::simulate::SessionOptions;
    use bevy_dream::simulate::fake::FakeModel;

    use super::*;

    fn session() -> Session {
        let options = SessionOptions { prompt: "a meadow".into(), ..Default::default() };
        Session::new(FakeModel::default().shared(), options).unwrap()
    }

    #[test]
    fn a_part_of_a_chunk_can_be_the_end() {
        let script = script_of(&PolicyKind::Wander, 1, 9);
        let mut shown = Vec::new();
        play(&mut session(), &script, 9, |tick, _| {
            shown.push(tick);
            Ok(())
        })
        .unwrap();
        assert_eq!(shown, (0..9).collect::<Vec<_>>());
    }

    #[test]
    fn a_changed_prompt_changes_the_frames_after_it() {
        let play = |text: &str| {
            let mut shown = Vec::new();
            let script = ControlScript::parse(text).unwrap();
            play(&mut session(), &script, 8, |_, f| {
                shown.push(f.clone());
                Ok(())
            })
            .unwrap();
            shown
        };
        let [plain, changed] =
            [r#"{"tick":0,"keys":["W"]}"#, "{\"tick\":0,\"keys\":[\"W\"]}\n{\"tick\":4,\"prompt\":\"a desert\"}"]
                .map(play);
        assert_eq!(plain[..4], changed[..4]);
        assert_ne!(plain[4..], changed[4..]);
    }

    #[test]
    fn policies_move_and_are_reproducible() {
        let [a, b] = [1, 1].map(|seed| script_of(&PolicyKind::Wander, seed, 100));
        assert_eq!(a, b);
        assert_ne!(a, script_of(&PolicyKind::Wander, 2, 100));
        assert!((0..100).any(|t| a.at(t).0.forward > 0.0));
    }
}
