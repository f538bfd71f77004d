//! The figures, as JSON shows them. What could not be measured is `null`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::vcn::mean;

/// Everything measured. Decibels, shares from 0 to 1, seconds; `…_baseline` is what doing nothing scores, `…_teacher`
/// what the teacher's own frames score with the same estimator.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Name of the model.
    pub model: String,
    /// Its [`ModelInfo::sha256`](crate::model::ModelInfo::sha256).
    pub sha256: String,
    /// World seeds, from the first up to but without the second.
    pub seeds: [u64; 2],
    /// Denoising steps a chunk.
    pub steps: usize,
    /// Width and height of the frames.
    pub size: [usize; 2],
    /// Time the evaluation took.
    pub minutes: f64,
    /// The VCN alone, clips of half a second.
    pub vcn_psnr_db: VcnPsnr,
    /// Every pair of frames shown as its first one.
    pub vcn_psnr_db_baseline: VcnPsnr,
    /// Structural similarity of the VCN's frames.
    pub vcn_ssim: f64,
    /// Share of the energy of the difference between a chunk's two frames that the VCN reproduces; 0 for doing nothing.
    pub vcn_motion_explained: f64,
    /// The next chunk from a true past.
    pub next_psnr_db: f64,
    /// The last true frame instead.
    pub copy_last_psnr_db: f64,
    /// Free running from one second of true past, by seconds.
    pub rollout_psnr_db: BTreeMap<String, f64>,
    /// The last true frame instead.
    pub rollout_psnr_db_baseline: BTreeMap<String, f64>,
    /// Half seconds of one held control: backwards, nothing or forwards?
    pub control_accuracy: ControlAccuracy,
    /// The same trials in the teacher's world.
    pub control_accuracy_teacher: ControlAccuracy,
    /// Never moving.
    pub control_accuracy_baseline: ControlAccuracy,
    /// How far a turn goes that is held for a quarter of a second, 24 degrees either way.
    pub turn_amplitude: TurnAmplitude,
    /// Never turning.
    pub turn_amplitude_baseline: TurnAmplitude,
    /// Scenes of dreams from a prompt alone, after a second.
    pub prompt_accuracy: SceneAccuracy,
    /// Teacher frames of the same seeds under every sky.
    pub prompt_accuracy_teacher: SceneAccuracy,
    /// Always showing the labels most often asked for.
    pub prompt_accuracy_baseline: SceneAccuracy,
    /// Scenes four seconds after the prompt of a running world changed.
    pub reprompt_accuracy: SceneAccuracy,
    /// The scene before the change.
    pub reprompt_accuracy_baseline: SceneAccuracy,
    /// Time from the change until the scene was right and stayed so, where it was right at the end.
    pub reprompt_seconds: f64,
    /// A place where one stands still, by seconds.
    pub rest_psnr_db: BTreeMap<String, f64>,
    /// The last true frame instead.
    pub rest_psnr_db_baseline: BTreeMap<String, f64>,
    /// A place after looking away from it, by seconds away.
    pub revisit_psnr_db: BTreeMap<String, f64>,
    /// Another view of the same place.
    pub revisit_psnr_db_baseline: f64,
    /// Distance of a free-running dream from the true walk, by seconds.
    pub drift: BTreeMap<String, Drift>,
    /// Distance of the true walk's beginning from the true walk.
    pub drift_baseline: BTreeMap<String, Drift>,
    /// Whether a placed or broken block is so after looking away and back; chance is 0.5.
    pub edit_accuracy: EditAccuracy,
    /// The same, of the true frames through the VCN.
    pub edit_accuracy_teacher: EditAccuracy,
}

/// PSNR of the VCN in decibels.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct VcnPsnr {
    /// All clips.
    pub all: f64,
    /// Clips that turn by more than 1.5 degrees a tick.
    pub turning: f64,
}

/// Shares of right answers per control.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct ControlAccuracy {
    /// The mean of the others.
    pub all: f64,
    /// Looking left or right.
    pub turn: f64,
    /// Looking up or down.
    pub look: f64,
    /// Walking forward or back.
    pub walk: f64,
    /// Stepping left or right.
    pub strafe: f64,
    /// Jumping or not.
    pub jump: f64,
}

/// Shares of the angle that was asked for.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct TurnAmplitude {
    /// The mean over all turns; 1 for turning as told.
    pub all: f64,
    /// The mean distance from 1.
    pub off: f64,
}

impl TurnAmplitude {
    /// Of the shares that turns went.
    pub(super) fn of(turns: &[f64]) -> Self {
        let off: Vec<_> = turns.iter().map(|turn| (turn - 1.0).abs()).collect();
        Self { all: mean(turns), off: mean(&off) }
    }
}

/// Shares of right labels.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct SceneAccuracy {
    /// Over all labels.
    pub all: f64,
    /// The biome.
    pub biome: f64,
    /// The time of day.
    pub time: f64,
    /// The weather.
    pub weather: f64,
}

/// Distances between clips of a second.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Drift {
    /// Mean brightness step between neighbouring pixels over that of the true walk, averaged over walks.
    pub sharpness: f64,
    /// Of the blurriest walk.
    pub sharpness_worst: f64,
    /// Earth mover's distance of the colours, as a share of the full range.
    pub colour: f64,
    /// Distance of the scene probe's features, in standard deviations.
    pub features: f64,
}

/// Shares of edits that last.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct EditAccuracy {
    /// Placed and broken blocks.
    pub all: f64,
    /// Placed blocks.
    pub place: f64,
    /// Broken blocks.
    #[serde(rename = "break")]
    pub broken: f64,
    /// Both, after looking away for longer: 5 seconds after the edit, where the others are 1.5.
    pub later: f64,
    /// Number of edits that could be seen.
    pub trials: usize,
}
