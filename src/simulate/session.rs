//! One running world: from (seed, prompt, start image, controls) to frames, the same every time.

use std::sync::Arc;

use super::Noise;
use crate::controls::Body;
use crate::model::{Interrupt, ModelInfo, Rollout, RolloutState, Settings, StageTimes, WorldModel};
use crate::{Controls, Error, Frame, FrameSize, Result, video};

/// The longest prompt in characters.
pub const MAX_PROMPT_CHARS: usize = 2000;

/// The chunk whose noise a start image is remembered with; generated chunks count from 0.
const START_CHUNK: u64 = u64::MAX;

/// How a world begins.
#[derive(Clone, Debug, Default)]
pub struct SessionOptions {
    /// Seed of all randomness.
    pub seed: u64,
    /// The first prompt; of no account to a model that reads none.
    pub prompt: String,
    /// A picture to start from; it may have any size, its centre is used.
    pub start: Option<Frame>,
    /// Frame size; the model's default when `None`.
    pub size: Option<FrameSize>,
    /// Settings; those the model is shipped with when `None`.
    pub settings: Option<Settings>,
}

/// The frames of one step.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Index of the chunk since the world began, from 0.
    pub index: u64,
    /// Tick of the first frame.
    pub first_tick: u64,
    /// [`ModelInfo::frames_per_chunk`](crate::model::ModelInfo::frames_per_chunk) frames, one a tick.
    pub frames: Vec<Frame>,
    /// Where the time went; the commit time is that of the chunk before.
    pub times: StageTimes,
}

/// A world that grows: the model's memory and all that decides the next chunk beside it.
pub struct Session {
    model: Arc<dyn WorldModel>,
    rollout: Box<dyn Rollout>,
    seed: u64,
    prompt: String,
    settings: Settings,
    next_chunk: u64,
    body: Body,
    /// What the body does under the controls of a chunk.
    done: Vec<Controls>,
    uncommitted: bool,
}

/// A moment of a world: all that decides its future.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(super) state: RolloutState,
    pub(super) seed: u64,
    pub(super) prompt: String,
    pub(super) settings: Settings,
    pub(super) next_chunk: u64,
    pub(super) body: Body,
}

impl Session {
    /// Starts a world.
    ///
    /// # Errors
    /// [`Error::Input`] when the prompt, the settings, the start image or the size cannot be used.
    pub fn new(model: Arc<dyn WorldModel>, options: SessionOptions) -> Result<Self> {
        if model.info().reads_text {
            check_prompt(&options.prompt)?;
        }
        let settings = options.settings.unwrap_or(model.info().settings);
        check_settings(settings)?;
        let size = options.size.unwrap_or(model.info().default_size).check()?;
        let mut rollout = Arc::clone(&model).open(size)?;
        rollout.set_prompt(&options.prompt)?;
        rollout.set_settings(settings);
        if let Some(picture) = &options.start {
            let noise = Noise { seed: options.seed, chunk: START_CHUNK };
            rollout.observe(&[video::fit(check_picture(picture)?, size)], &[Controls::default()], &noise)?;
        }
        Ok(Self {
            model,
            rollout,
            seed: options.seed,
            prompt: options.prompt,
            settings,
            next_chunk: 0,
            body: Body::default(),
            done: Vec::new(),
            uncommitted: false,
        })
    }

    /// What may interrupt [`Session::step`] from now on, until a [`Session::reset`].
    pub fn watch(&mut self, interrupt: Interrupt) {
        self.rollout.watch(interrupt);
    }

    /// Makes the next chunk under `controls`, one per frame; what the player's [`Body`] cannot do has no
    /// effect.
    ///
    /// The chunk is decoded before it is remembered: show it, then call [`Session::commit`], which the next
    /// step does otherwise.
    ///
    /// # Errors
    /// [`Error::Input`] when the number of controls is not the number of frames in a chunk; [`Error::Interrupted`], after
    /// which the same step makes the same chunk. After any error of the model, start again with [`Session::reset`].
    pub fn step(&mut self, controls: &[Controls]) -> Result<Chunk> {
        let frames_per_chunk = self.model.info().frames_per_chunk;
        if controls.len() != frames_per_chunk {
            return Err(Error::input(format!(
                "a chunk takes {frames_per_chunk} controls, one per frame, not {}",
                controls.len()
            )));
        }
        self.commit()?;
        let mut body = self.body;
        let held = self.model.info().holds_buttons;
        self.done.clear();
        self.done.extend(controls.iter().map(|&c| if held { body.hold(c) } else { body.tick(c) }));
        let frames = self.rollout.step(&self.done, &self.noise())?;
        self.body = body;
        self.uncommitted = true;
        let index = self.next_chunk;
        Ok(Chunk { index, first_tick: index * frames_per_chunk as u64, frames, times: self.rollout.times() })
    }

    /// Makes the last chunk part of the world's past; nothing to do when it already is.
    ///
    /// # Errors
    /// Those of the model.
    pub fn commit(&mut self) -> Result<()> {
        if self.uncommitted {
            self.rollout.commit(&self.noise())?;
            self.uncommitted = false;
            self.next_chunk += 1;
        }
        Ok(())
    }

    /// The prompt for the chunks to come; the past is kept. On an error the present prompt stays.
    ///
    /// # Errors
    /// [`Error::Input`] when the prompt is empty or longer than [`MAX_PROMPT_CHARS`], or the model reads none.
    pub fn set_prompt(&mut self, prompt: &str) -> Result<()> {
        let ModelInfo { name, reads_text, .. } = self.model.info();
        if !reads_text {
            return Err(Error::input(format!("{name} reads no text: it goes by the start image and the controls")));
        }
        check_prompt(prompt)?;
        // The pending chunk is remembered as it was made, whenever the caller changes his mind.
        self.commit()?;
        self.rollout.set_prompt(prompt)?;
        prompt.clone_into(&mut self.prompt);
        Ok(())
    }

    /// The settings for the chunks to come. On an error the present settings stay.
    ///
    /// # Errors
    /// [`Error::Input`] when a setting is out of its range.
    pub fn set_settings(&mut self, settings: Settings) -> Result<()> {
        check_settings(settings)?;
        self.commit()?;
        self.rollout.set_settings(settings);
        self.settings = settings;
        Ok(())
    }

    /// Leaves this world for a new one of the same model. On an error this world stays.
    ///
    /// # Errors
    /// Those of [`Session::new`].
    pub fn reset(&mut self, options: SessionOptions) -> Result<()> {
        *self = Self::new(Arc::clone(&self.model), options)?;
        Ok(())
    }

    /// This moment, to come back to with [`Session::restore`].
    ///
    /// # Errors
    /// Those of the model.
    pub fn snapshot(&mut self) -> Result<Snapshot> {
        self.commit()?;
        Ok(Snapshot {
            state: self.rollout.state()?,
            seed: self.seed,
            prompt: self.prompt.clone(),
            settings: self.settings,
            next_chunk: self.next_chunk,
            body: self.body,
        })
    }

    /// Goes back to a moment of this or another world of the same model and frame size.
    ///
    /// # Errors
    /// [`Error::Input`] when the snapshot is of another model or size.
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<()> {
        self.rollout.set_state(&snapshot.state)?;
        if self.prompt != snapshot.prompt {
            // Reading a prompt takes longer than all the rest.
            self.rollout.set_prompt(&snapshot.prompt)?;
        }
        self.rollout.set_settings(snapshot.settings);
        self.uncommitted = false;
        self.seed = snapshot.seed;
        self.prompt.clone_from(&snapshot.prompt);
        self.settings = snapshot.settings;
        self.next_chunk = snapshot.next_chunk;
        self.body = snapshot.body;
        Ok(())
    }

    /// The model.
    pub fn model(&self) -> &Arc<dyn WorldModel> {
        &self.model
    }

    /// The size of the frames.
    pub fn size(&self) -> FrameSize {
        self.rollout.size()
    }

    /// The seed the world began with.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The present prompt.
    pub fn prompt(&self) -> &str {
        &self.prompt
    }

    /// The present settings.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// The number of frames made so far.
    pub fn tick(&self) -> u64 {
        (self.next_chunk + u64::from(self.uncommitted)) * self.model.info().frames_per_chunk as u64
    }

    /// The camera's pitch in degrees after the frames made so far, dead-reckoned from the controls.
    pub fn pitch(&self) -> f32 {
        self.body.pitch
    }

    /// Where the time of the last chunk went, its commit included once that is done.
    pub fn times(&self) -> StageTimes {
        self.rollout.times()
    }

    fn noise(&self) -> Noise {
        Noise { seed: self.seed, chunk: self.next_chunk }
    }
}

/// Whether a prompt can be used.
///
/// # Errors
/// [`Error::Input`] when it is blank or longer than [`MAX_PROMPT_CHARS`].
pub fn check_prompt(prompt: &str) -> Result<()> {
    let chars = prompt.chars().count();
    if prompt.trim().is_empty() {
        Err(Error::input("the prompt is empty: say what the world looks like"))
    } else if chars > MAX_PROMPT_CHARS {
        Err(Error::input(format!("the prompt has {chars} characters: at most {MAX_PROMPT_CHARS} are read")))
    } else {
        Ok(())
    }
}

/// Whether settings are in range.
///
/// # Errors
/// [`Error::Input`] when one is not.
pub fn check_settings(settings: Settings) -> Result<()> {
    for (name, steps) in [("steps", settings.steps), ("first_steps", settings.first_steps)] {
        if !(1..=64).contains(&steps) {
            return Err(Error::input(format!("{name} is {steps}: it must be 1 to 64")));
        }
    }
    if !(1.0..=16.0).contains(&settings.guidance) {
        return Err(Error::input(format!("guidance is {}: it must be 1 to 16", settings.guidance)));
    }
    if !(0.0..=0.5).contains(&settings.context_noise) {
        return Err(Error::input(format!("context_noise is {}: it must be 0 to 0.5", settings.context_noise)));
    }
    Ok(())
}

fn check_picture(picture: &Frame) -> Result<&Frame> {
    if picture.rgb.is_empty() || picture.rgb.len() != picture.size.pixels() * 3 {
        return Err(Error::input(format!("a start image of {} cannot have {} bytes", picture.size, picture.rgb.len())));
    }
    Ok(picture)
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeModel;
    use super::*;
    use crate::controls::MAX_PITCH;

    fn options(seed: u64, prompt: &str) -> SessionOptions {
        SessionOptions { seed, prompt: prompt.into(), ..Default::default() }
    }

    fn walk(session: &mut Session, chunks: usize) -> Vec<Frame> {
        let forward = Controls { forward: 1.0, look: [2.0, 1.0], ..Default::default() };
        (0..chunks).flat_map(|_| session.step(&[forward; 2]).unwrap().frames).collect()
    }

    fn run(options: SessionOptions) -> Vec<Frame> {
        walk(&mut Session::new(FakeModel::default().shared(), options).unwrap(), 4)
    }

    #[test]
    fn the_same_inputs_give_the_same_frames_and_each_input_counts() {
        let base = run(options(1, "a meadow"));
        assert!(base == run(options(1, "a meadow")));
        assert!(base != run(options(2, "a meadow")));
        assert!(base != run(options(1, "a desert")));
        let mut image = options(1, "a meadow");
        image.start = Some(Frame { size: FrameSize::new(9, 5), rgb: vec![250; 9 * 5 * 3] });
        assert!(base != run(image));
    }

    #[test]
    fn when_the_chunk_is_committed_changes_nothing() {
        let mut early = Session::new(FakeModel::default().shared(), options(1, "a")).unwrap();
        let mut late = Session::new(FakeModel::default().shared(), options(1, "a")).unwrap();
        for prompt in ["a", "b", "c"] {
            early.set_prompt(prompt).unwrap();
            late.set_prompt(prompt).unwrap();
            let [a, b] = [&mut early, &mut late].map(|s| s.step(&[Controls::default(); 2]).unwrap());
            assert_eq!((a.index, a.first_tick), (b.index, b.first_tick));
            assert!(a.frames == b.frames);
            early.commit().unwrap();
            assert_eq!((early.tick(), late.tick()), (b.first_tick + 2, b.first_tick + 2));
        }
    }

    #[test]
    fn a_refused_change_leaves_the_world_as_it_was() {
        let mut touched = Session::new(FakeModel::default().shared(), options(1, "a")).unwrap();
        let mut untouched = Session::new(FakeModel::default().shared(), options(1, "a")).unwrap();
        walk(&mut touched, 2);
        walk(&mut untouched, 2);
        let settings = touched.settings();
        assert!(touched.set_prompt("  \n").unwrap_err().to_string().contains("empty"));
        assert!(touched.set_prompt(&"x".repeat(10_000)).unwrap_err().to_string().contains("10000"));
        assert!(touched.set_settings(Settings { steps: 0, ..settings }).is_err());
        assert!(touched.set_settings(Settings { guidance: 0.0, ..settings }).is_err());
        assert!(touched.set_settings(Settings { context_noise: f32::NAN, ..settings }).is_err());
        assert!(touched.step(&[Controls::default(); 3]).is_err());
        let interrupt = Interrupt::default();
        touched.watch(interrupt.clone());
        interrupt.raise();
        assert!(matches!(
            touched.step(&[Controls { look: [9.0; 2], ..Controls::default() }; 2]),
            Err(Error::Interrupted)
        ));
        interrupt.lower();
        assert!(touched.reset(options(9, "")).is_err());
        assert!(walk(&mut touched, 2) == walk(&mut untouched, 2));
    }

    #[test]
    fn a_start_image_may_have_any_size_but_must_be_whole() {
        for (width, height) in [(1, 1), (500, 3), (32, 32)] {
            let start = Some(Frame::black(FrameSize::new(width, height)));
            assert_eq!(run(SessionOptions { start, ..options(1, "a") })[0].size, FrameSize::new(32, 32));
        }
        let start = Some(Frame { size: FrameSize::new(4, 4), rgb: vec![0; 5] });
        assert!(Session::new(FakeModel::default().shared(), SessionOptions { start, ..options(1, "a") }).is_err());
    }

    #[test]
    fn a_restored_world_goes_on_as_it_did() {
        let mut session = Session::new(FakeModel::default().shared(), options(1, "a")).unwrap();
        walk(&mut session, 2);
        let moment = session.snapshot().unwrap();
        let first = walk(&mut session, 3);
        session.set_prompt("b").unwrap();
        walk(&mut session, 1);
        session.restore(&moment).unwrap();
        assert_eq!((session.tick(), session.prompt()), (4, "a"));
        assert_eq!(walk(&mut session, 3), first);
    }

    #[test]
    fn reset_is_a_new_world() {
        let mut session = Session::new(FakeModel::default().shared(), options(1, "a")).unwrap();
        walk(&mut session, 3);
        session.reset(options(2, "b")).unwrap();
        assert_eq!((session.tick(), session.pitch(), session.prompt()), (0, 0.0, "b"));
        let mut fresh = Session::new(FakeModel::default().shared(), options(2, "b")).unwrap();
        assert!(walk(&mut session, 2) == walk(&mut fresh, 2));
    }

    #[test]
    fn the_camera_stops_at_the_zenith() {
        let mut session = Session::new(FakeModel::default().shared(), options(1, "a")).unwrap();
        let up = Controls { look: [0.0, 11.0], ..Default::default() };
        for _ in 0..5 {
            session.step(&[up; 2]).unwrap();
        }
        assert_eq!(session.pitch(), MAX_PITCH);
    }
}
