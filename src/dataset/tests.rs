use std::fs;

use super::*;
use crate::voxel::PolicyKind;
use crate::{Controls, FrameSize};

fn small() -> EpisodeConfig {
    EpisodeConfig { size: FrameSize::new(24, 16), ticks: 10, ..EpisodeConfig::default() }
}

fn read(folder: &std::path::Path) -> Vec<Episode> {
    let mut episodes = Vec::new();
    for shard in ShardReader::shards(folder).unwrap() {
        ShardReader::open(&shard)
            .unwrap()
            .for_each(|episode| {
                episodes.push(episode);
                Ok(())
            })
            .unwrap();
    }
    episodes
}

#[test]
fn what_is_written_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    write_dataset(3..6, &small(), folder.path(), |_| ()).unwrap();
    let expected: Vec<_> = (3..6).map(|seed| record(seed, &small())).collect();
    assert_eq!(read(folder.path()), expected);
    assert_eq!(expected[0].actions[0], Controls::default());
    assert_eq!((expected[0].frames.len(), expected[0].actions.len()), (10, 10));
    assert!(expected[0].meta.captions.iter().all(|set| set.texts.len() == 12));
}

#[test]
fn shards_do_not_depend_on_threads() {
    let bytes = |threads: usize| {
        let folder = tempfile::tempdir().unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| write_dataset(0..5, &small(), folder.path(), |_| ())).unwrap();
        fs::read(folder.path().join("shard-000000.tar")).unwrap()
    };
    assert_eq!(bytes(1), bytes(3));
}

#[test]
fn labels_change_in_the_middle_of_some_episodes() {
    let config = EpisodeConfig { size: FrameSize::new(2, 2), ticks: 40, policy: PolicyKind::Still, richness: 0.5 };
    let changes = (0..30).filter(|&seed| record(seed, &config).meta.scenes.len() > 1).count();
    assert!((5..18).contains(&changes), "{changes} of 30");
}

#[test]
fn a_damaged_shard_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    write_dataset(0..1, &small(), folder.path(), |_| ()).unwrap();
    let path = folder.path().join("shard-000000.tar");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert!(ShardReader::open(&path).unwrap().for_each(|_| Ok(())).is_err());
}

#[test]
fn an_episode_that_cannot_be_trained_on_is_refused_and_the_others_stay() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::new(folder.path()).unwrap();
    let good = record(1, &small());
    writer.write(&good).unwrap();
    let actions: Vec<_> = good.actions.iter().map(Controls::to_vector).collect();
    let mut refused = |actions: &[Vec<f32>], part: &str| {
        let error = writer.append(&good.meta, &good.frames, actions, &[]).unwrap_err();
        assert!(matches!(&error, crate::Error::Input(reason) if reason.contains(part)), "{error}");
    };
    let rows: Vec<_> = actions.iter().map(|action| action.to_vec()).collect();
    for bad in [f32::NAN, f32::INFINITY, -1e30] {
        let mut rows = rows.clone();
        rows[7][2] = bad;
        refused(&rows, "tick 7: an action of");
    }
    refused(&rows[1..], "9 actions");
    let mut short = rows.clone();
    short[3].pop();
    refused(&short, "tick 3: an action of 7 numbers, but 8 are named");
    let mut other = good.clone();
    other.frames[2] = crate::Frame::black(FrameSize::new(8, 8));
    assert!(writer.write(&other).unwrap_err().to_string().contains("8x8"));
    writer.write(&record(2, &small())).unwrap();
    writer.finish().unwrap();
    assert_eq!(read(folder.path()), [good, record(2, &small())]);
}
