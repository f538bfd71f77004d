//! What becomes of the window when its graphics device fails: Bevy would end the game at the first error of its renderer.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bevy::prelude::*;
use bevy::render::error_handler::{RenderError, RenderErrorPolicy};

use super::Ended;
use super::layout::MessageLine;
use crate::Error;

/// The renderer is set up anew so many times within this time: a fault that comes again at once would make the window flash.
const ATTEMPTS: usize = 3;
const WITHIN: Duration = Duration::from_secs(60);

/// When the renderer failed, and why it did last.
#[derive(Resource, Default)]
pub(super) struct Failures {
    times: VecDeque<Instant>,
    reason: String,
}

/// Sets the renderer up anew; if that does not help, the window closes with the reason.
pub(super) fn handle(error: &RenderError, main_world: &mut World, _: &mut World) -> RenderErrorPolicy {
    let mut failures = main_world.get_resource_or_init::<Failures>();
    let now = Instant::now();
    failures.times.retain(|time| now - *time < WITHIN);
    failures.times.push_back(now);
    // Of a description in many lines the first says what it is.
    let what = error.description.lines().next().filter(|line| !line.is_empty());
    failures.reason = what.map_or_else(|| format!("{:?}", error.ty), Into::into);
    if failures.times.len() <= ATTEMPTS {
        return RenderErrorPolicy::Recover(default());
    }
    let error = Error::Graphics(failures.reason.clone());
    main_world.resource::<Ended>().tell(error);
    main_world.write_message(AppExit::error());
    RenderErrorPolicy::StopRendering
}

/// Says so when there is a renderer again.
pub(super) fn tell(failures: Res<Failures>, mut line: Single<&mut Text, With<MessageLine>>) {
    if !failures.reason.is_empty() {
        line.0 = format!("the graphics device failed and was set up anew: {}", failures.reason);
    }
}

#[cfg(test)]
mod tests {
    use bevy::render::error_handler::ErrorType;

    use super::*;

    #[test]
    fn a_lost_device_is_set_up_anew_but_not_for_ever() {
        let mut world = World::new();
        world.init_resource::<Ended>();
        world.init_resource::<Messages<AppExit>>();
        let lost = RenderError { ty: ErrorType::DeviceLost, description: "gone\nwith a trace".into(), source: None };
        for _ in 0..ATTEMPTS {
            let policy = handle(&lost, &mut world, &mut World::new());
            assert!(matches!(policy, RenderErrorPolicy::Recover(_)));
        }
        assert!(world.resource::<Messages<AppExit>>().is_empty() && world.resource::<Ended>().take().is_none());
        let policy = handle(&lost, &mut world, &mut World::new());
        assert!(matches!(policy, RenderErrorPolicy::StopRendering));
        assert_eq!(world.resource::<Messages<AppExit>>().len(), 1);
        assert!(matches!(world.resource::<Ended>().take(), Some(Error::Graphics(reason)) if reason == "gone"));
    }
}
