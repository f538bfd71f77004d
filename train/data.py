"""Recorded episodes for training: tar shards in WebDataset layout, as `dream data` and the recorder write them."""

import json
import random
import tarfile
from pathlib import Path

import numpy as np
import torch

from text_corpus import phrasings

NAMES = ["forward", "strafe", "sprint", "jump", "yaw", "pitch", "break", "place"]  # of `Controls::to_vector`
MAX_ACTION = 1e4  # as in `src/dataset/shard.rs`
MIRROR = np.array([1, -1, 1, 1, -1, 1, 1, 1], np.float32)  # strafe and yaw change sign in a mirror


def map_npy(path, offset):
    """Memory-maps an .npy member of a tar archive."""
    with open(path, "rb") as f:
        f.seek(offset)
        if np.lib.format.read_magic(f) != (1, 0):
            raise ValueError(f"{path}: only version 1.0 of the npy format is read")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(f)
        if fortran:
            raise ValueError(f"{path}: arrays must be in C order")
        return np.memmap(path, dtype, "c", f.tell(), shape)


class Episodes:
    """All episodes of the shards in the folders, frames memory-mapped, or on a `device` with room for them; `actions` are what the game
    has beyond NAMES. With `rephrased`, captions are half of the time said in words that the recording does not know."""

    def __init__(self, *folders, actions=(), rephrased=False, device=None):
        self.items, self.names, self.edits = [], [*NAMES, *actions], None
        for path in [p for folder in folders for p in sorted(Path(folder).glob("*.tar"))]:
            episodes = {}
            with tarfile.open(path) as tar:
                for member in tar:
                    key, kind = member.name.split(".", 1)
                    if kind.endswith("npy"):
                        value = map_npy(path, member.offset_data)
                    else:
                        value = json.load(tar.extractfile(member))
                    episodes.setdefault(key, {})[kind] = value
            self.items += episodes.values()
        if not self.items:
            raise SystemExit(f"error: no shards in {', '.join(map(str, folders))}: make some with `cargo run --bin dream -- data`")
        for e in self.items:
            if not (np.abs(e["actions.npy"]) <= MAX_ACTION).all():  # nor is NaN
                seed, folders = e["json"]["seed"], ", ".join(map(str, folders))
                raise SystemExit(f"error: {folders}: an action of episode {seed} is not finite or beyond {MAX_ACTION:.0f}: record it again")
        if rephrased:
            for meta in (e["json"] for e in self.items if "scenes" in e["json"]):
                for change, caption in zip(meta["scenes"], meta["captions"]):
                    said = phrasings(tuple(change[label] for label in ("biome", "time", "weather")))
                    caption["texts"] += random.Random(meta["seed"]).sample(said, len(caption["texts"]))
        for e in self.items:
            e["frames.npy"] = torch.from_numpy(e["frames.npy"])
        if device is not None and device.type == "cuda":
            if 2 * sum(e["frames.npy"].numel() for e in self.items) < torch.cuda.mem_get_info(device)[0]:
                for e in self.items:
                    e["frames.npy"] = e["frames.npy"].to(device)
        unknown = {n for e in self.items for n in e["json"].get("actions", NAMES)} - set(self.names)
        if unknown:
            raise SystemExit(f"error: {', '.join(map(str, folders))}: name the actions {sorted(unknown)} in the config's `actions`")

    def texts(self):
        """Every distinct caption."""
        return sorted({t for e in self.items for c in e["json"].get("captions", []) for t in c["texts"]} | {""})

    def clips(self, rng, batch, chunks, per_chunk=2, mirror=True, cut=0.0, edits=0.0):
        """A random batch: frames uint8 [B, T, F, 3, H, W], controls float32 [B, T, F, names], captions [B][T] (str) and
        pitch [B, T]: the camera's at the end of each chunk, in radians since the start of the episode.

        The first frame's controls lead to a frame outside of the clip, so they are not used but kept. A share `cut` of
        the clips goes on, from some chunk, as another clip: so a model learns to leave its past when the
        caption asks for another place. A share `edits` shows a block that is broken or placed, which seldom happens.
        """
        n = chunks * per_chunk
        starts = np.array([max(0, len(e["frames.npy"]) - n + 1) for e in self.items])
        if not starts.any():
            raise SystemExit(f"error: no episode has {n} frames: record longer ones")
        chosen = [(i, rng.integers(starts[i])) for i in rng.choice(len(self.items), batch, p=starts / starts.sum())]
        if edits and chunks > 1:
            chosen = [self._edit(rng, n, per_chunk) or at if rng.random() < edits else at for at in chosen]
        clips = [self.clip(i, at, chunks, per_chunk, rng, mirror and rng.random() < 0.5) for i, at in chosen]
        frames, controls, captions, pitches = zip(*clips)
        frames, controls, pitches = torch.stack(frames), *(torch.from_numpy(np.stack(v)) for v in (controls, pitches))
        captions = list(captions)
        if cut and chunks > 1:
            others = self.clips(rng, batch, chunks, per_chunk, mirror)
            for i in np.flatnonzero(rng.random(batch) < cut):
                at = rng.integers(1, chunks)
                for clip, other in zip((frames, controls, captions, pitches), others):
                    clip[i][at:] = other[i][at:]
        return frames, controls, captions, pitches

    def _edit(self, rng, n, per_chunk):
        """Episode and start of a clip of n frames in which a block is broken or placed, after its first chunk; None if
        there is none."""
        if self.edits is None:
            where = (np.flatnonzero(self.controls(e)[:, 6:8].any(1)) for e in self.items)
            self.edits = [(i, tick, len(e["frames.npy"])) for i, (e, ticks) in enumerate(zip(self.items, where)) for tick in ticks]
        fitting = [(i, tick, ticks) for i, tick, ticks in self.edits if ticks >= n and tick >= per_chunk]
        if not fitting:
            return None
        i, tick, ticks = fitting[rng.integers(len(fitting))]
        first, last = max(0, tick - n + 1), min(tick - per_chunk, ticks - n)
        return i, rng.integers(first, max(first, last) + 1)

    def clip(self, i, at, chunks, per_chunk, rng, mirror):
        """The clip of episode `i` from frame `at` on, mirrored or not: as `clips`, of one."""
        e, n = self.items[i], chunks * per_chunk
        f, a = e["frames.npy"][at : at + n], self.controls(e)[at : at + n]
        if mirror and len(self.names) == len(NAMES):  # nobody knows what a mirror makes of a game's own actions
            f, a = f.flip(2), a * MIRROR
        frames = f.permute(0, 3, 1, 2).unflatten(0, (chunks, per_chunk))
        pitch = np.float32(np.pi / 180) * self.controls(e)[: at + n, 5].cumsum()[at + per_chunk - 1 :: per_chunk]
        return frames, a.reshape(chunks, per_chunk, -1), self._captions(e["json"], at, n, per_chunk, rng), pitch

    def near_clips(self, rng, batch, chunks, per_chunk=2, mirror=True):
        """A random batch of those episodes that know it: frames, the nearness [B, T, H, W] of each chunk's last, controls and pitch,
        else as `clips`."""
        n = chunks * per_chunk
        known = [i for i, e in enumerate(self.items) if len(e.get("nearness.npy", ())) >= n]
        if not known:
            raise SystemExit("error: no episode tells how near things are: make some with `cargo run --bin dream -- data`")
        clips = []
        for i in rng.choice(known, batch):
            at, turned = rng.integers(len(self.items[i]["frames.npy"]) - n + 1), mirror and rng.random() < 0.5
            frames, controls, _, pitch = self.clip(i, at, chunks, per_chunk, rng, turned)
            near = self.items[i]["nearness.npy"][at + per_chunk - 1 : at + n : per_chunk].astype(np.float32)
            near, controls, pitch = (torch.from_numpy(v) for v in (near, controls, pitch))
            clips.append((frames, near.flip(-1) if turned else near, controls, pitch))
        return tuple(torch.stack(v) for v in zip(*clips))

    def controls(self, episode):
        """What led to each frame of an episode [ticks, names]; what its game does not have is 0."""
        recorded, names = episode["actions.npy"], episode["json"].get("actions", NAMES)
        if names == self.names:
            return recorded
        controls = np.zeros((len(recorded), len(self.names)), np.float32)
        controls[:, [self.names.index(n) for n in names]] = recorded
        return controls

    @staticmethod
    def _captions(meta, at, n, per_chunk, rng):
        segments = meta.get("captions") or [{"tick": 0, "texts": [""]}]
        chosen = [(s["tick"], s["texts"][rng.integers(len(s["texts"]))]) for s in segments]
        # a chunk belongs to the scene of its last frame
        return [next(t for tick, t in reversed(chosen) if tick <= at + i + per_chunk - 1) for i in range(0, n, per_chunk)]


def arguments(parser):
    """The options of every stage that trains on episodes."""
    parser.add_argument("--data", nargs="+", required=True, help="folders of shards")
    parser.add_argument("--shapes", nargs="*", default=[], help="folders of shards with other frame sizes, a tenth of the batches")
    parser.add_argument("--held-out", required=True, help="folder of shards that are never trained on")
    parser.add_argument("--init", help="model folder whose weights a new run begins with")


def training_sets(args, c, device):
    """The episodes of `--data`, then those of each folder of `--shapes`, for a model of this config."""
    return [Episodes(*folders, actions=c.actions, rephrased=True, device=device) for folders in (args.data, *([f] for f in args.shapes))]


def pick(sets, rng):
    """The first set most of the time."""
    return sets[0] if len(sets) == 1 or rng.random() < 0.9 else sets[rng.integers(1, len(sets))]


def to_float(frames):
    """uint8 0..255 -> float -1..1."""
    return frames.float() / 127.5 - 1
