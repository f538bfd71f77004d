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
