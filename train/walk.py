"""Free-running worlds in a batch: the sampler with a cache of the past, as the runtime has it."""

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from data import to_float
from engine import Replay
from geometry import CAMERA, Views, camera, edited, grid_positions, motion, pitched, reckon
from model import control_features, rms_norm, rope_tables
from sampler import EDIT_STEPS, louder, next_levels, rollout, sample_levels

FURTHEST = 160  # chunks that a world walks before it begins anew
TOGETHER = 16  # worlds begin at once


def noised(x, tau):
    """x [..., N, C] at signal level tau [...]."""
    tau = tau[..., None, None]
    return tau * x + (1 - tau) * torch.randn_like(x)


def weigh(foreseen, true, doubt):
    """How much the error of a chunk counts [...]: the more, the nearer what was foreseen [..., N, C] is to the truth; `doubt`
    is the squared error that halves it.

    So what is nearly known is learned to be exact, and a world that was cut, or strayed from its recording, teaches less.
    """
    return 1 / ((foreseen - true).square().mean((-1, -2)) + doubt)


class Past:
    """Keys and values of the newest chunks that a trunk looks back to, of B worlds, each of its own age in chunks."""

    def __init__(self, trunk, count, tokens, device):
        self.blocks, self.reach = trunk, max(trunk.offsets)
        self.slots = self.reach - torch.tensor(trunk.offsets, device=device)
        self.kept = {
            layer: torch.zeros(2, count, self.reach, block.heads, tokens, block.head_dim, device=device)
            for layer, block in enumerate(trunk) if block.flow is not None
        }  # fmt: skip
        self.cameras = torch.zeros(count, self.reach, CAMERA, device=device)

    def recalls(self, camera, age, pos, focal):
        """What each temporal layer remembers, seen from `camera` [B, CAMERA] by worlds of this age [B]."""
        moved = motion(camera[:, None, None], self.cameras[:, None, self.slots])
        missing = age[:, None] < self.reach - self.slots
        missing = missing.repeat_interleave(len(pos), -1)[:, None, None, None]
        recalls = {}
        for layer, kept in self.kept.items():
            bias = self.blocks[layer].flow(moved, pos, focal).flatten(-2).masked_fill(missing, float("-inf"))
            keys, values = kept[:, :, self.slots].transpose(2, 3).flatten(3, 4).unsqueeze(2)
            recalls[layer] = (keys, values, bias)
        return recalls

    def add(self, kept, camera):
        """Remembers a chunk: keys and values of each temporal layer [2, B, heads, N, head_dim]."""
        for layer, past in self.kept.items():
            past.copy_(torch.cat([past[:, :, 1:], kept[layer].unsqueeze(2).float()], 2))
        self.cameras.copy_(torch.cat([self.cameras[:, 1:], camera[:, None]], 1))

    def forward(self, x, cond, rope, recalls, kept=None, upto=None):
        """A chunk x [B, 1, N, D] through the blocks, or the first `upto`; `kept` takes its keys and values."""
        for layer, block in enumerate(list(self.blocks)[:upto]):
            memory = None
            if layer in recalls:
                def memory(k, v, layer=layer):
                    if kept is not None:
                        kept[layer] = torch.stack([k, v]).squeeze(2)
                    return recalls[layer]

            x = block(x, cond, rope, memory)
        return x


class Mind:
    """A DiT, and what it remembers of the past of B worlds."""

    def __init__(self, dit, count, h, w, device):
        self.dit, self.past = dit, Past(dit.blocks, count, h * w, device)
        self.pos, self.focal = grid_positions(h, w, device)
        self.rope = rope_tables(h, w, dit.c.dit.width // dit.c.dit.heads, device)

    def recalls(self, camera, age):
        """See `Past.recalls`."""
        return self.past.recalls(camera, age, self.pos, self.focal)

    def read(self, x, tau, before, foreseen, steering, recalls, kept=None):
        """What the blocks tell of a chunk x [B, N, C] at level tau [B] after the chunks `before` [B, 2, N, C], and its condition;
        steering as of `DiT.condition`. `kept` takes keys and values; then only the blocks that keep some are asked."""
        dit = self.dit
        x = dit.patch_in(torch.cat([x, before[:, 1], before[:, 0], foreseen], -1)).float().unsqueeze(1)
        tau = tau if torch.is_tensor(tau) else torch.full((len(x),), tau, device=x.device)
        cond = dit.condition(tau[:, None], *steering)
        upto = None if kept is None else dit.blocks.last_temporal + 1
        return self.past.forward(x, cond, self.rope, recalls, kept, upto), cond

    def remember(self, x, tau, before, foreseen, steering, camera, age):
        """Remembers a chunk, as `read`."""
        kept = {}
        self.read(x, tau, before, foreseen, steering, self.recalls(camera, age), kept)
        self.past.add(kept, camera)


class Walks:
    """B worlds that walk in step, each of its own age; `sampler.rollout` with the work of the past kept.

    Keys, values and remembered latents of the newest chunks and the frames in view stay; gradients reach the last denoising
    step of a chunk alone, as the past is taken as given (Self Forcing, Huang et al. 2025). Nothing is guided but the first chunk. `watching` are DiTs that remember the
    same worlds and dream nothing.
    """

    def __init__(self, dit, vcn, count, h, w, device, watching=()):
        self.dit, self.vcn, self.h, self.w, self.steps = dit, vcn, h, w, dit.c.steps
        c, n = dit.c, h * w
        self.latents = torch.zeros(count, 2, n, c.latent, device=device)  # as remembered, the newest last
        self.views = Views(count, h * c.patch, w * c.patch, c.eye, device)
        self.cameras = torch.zeros(count, CAMERA, device=device)  # at the end of the last chunk
        self.mind, *self.watching = (Mind(d, count, h, w, device) for d in (dit, *watching))
        self.drawn = Past(vcn.dec_blocks, count, n, device)
        self.age = torch.zeros(count, dtype=torch.long, device=device)
        self.unseen = None  # of the chunk that was foreseen last, as of `Views.see`
        self.rope_drawn = rope_tables(h, w, c.decoder.width // c.decoder.heads, device)

    def forget(self, rows):
        """Begins the worlds of these rows anew."""
        self.age[rows] = 0
        self.latents[rows] = 0
        self.cameras[rows] = 0
        self.views.forget(rows)

    @torch.no_grad()
    def foresee(self, controls, pitch):
        """The next chunk if nothing but the camera moves [B, N, C], as of `VCN.foreseen`."""
        frames, self.unseen = self.views.see(pitched(reckon(controls, self.cameras), pitch))
        foreseen = self.vcn.encode(frames[:, None], controls[:, None])[:, 0].float()
        return foreseen * (self.age > 0)[:, None, None]

    def predict(self, x, tau, controls, pitch, text, camera, foreseen, mind=None, recalls=None, alone=False):
        """Clean latents [K*B, N, C] of K noisy copies x [K*B, N, C] of a chunk of every world at levels tau [K*B]; steering as in
        `step`. Asks `mind`, or the DiT that dreams; `recalls` is what it remembers, if known already. With `alone` as if the chunk had
        no past."""
        mind, copies = mind or self.mind, len(x) // len(self.age)
        repeat = lambda a: a if copies == 1 else a.repeat(copies, *[1] * (a.dim() - 1))  # noqa: E731
        if alone:
            before, foreseen, age, recalls = torch.zeros_like(self.latents), torch.zeros_like(foreseen), torch.zeros_like(self.age), {}
        else:
            before, age, recalls = self.latents, self.age, recalls or mind.recalls(camera, self.age)
        recalls = {layer: [repeat(t) for t in recall] for layer, recall in recalls.items()}
        steering = [repeat(t)[:, None] for t in (controls, pitch, text)]
        told, cond = mind.read(x, tau, repeat(before), repeat(foreseen), steering, recalls)
        begins = repeat(age == 0)[:, None, None, None]
        return mind.dit.answer(told, cond, repeat(foreseen)[:, None], begins).float().squeeze(1)

    @torch.no_grad()
    def begin(self, controls, pitch, text, noise):
        """Dreams the first chunk of K worlds: controls [K, F, 8], pitch [K], text [K, text], noise [K, N, C] -> latents [K, N, C]."""
        steering, noise = [t[:, None] for t in (controls, pitch, text)], noise[:, None]
        return rollout(self.dit, self.vcn, noise[:, :0], *steering, noise, noise, self.h, self.w)[:, 0]

    def step(self, controls, pitch, text, camera, foreseen, noise, mind=None):
        """Dreams the next chunk of every world: controls [B, F, 8], pitch [B], text [B, text], camera [B, CAMERA], foreseen [B, N, C] of
        the last `foresee`, noise [B, N, C] -> latents [B, N, C], with a gradient of the last of `steps` steps. `mind` dreams edits
        after what these worlds remember, or the DiT that walks all else."""
        levels = sample_levels(EDIT_STEPS * self.steps) if mind else next_levels(self.steps)
        recalls = mind and self.mind.recalls(camera, self.age)
        x = louder(noise, self.unseen, self.dit.c.patch)
        for now, after in zip(levels, levels[1:]):
            with torch.set_grad_enabled(after == 1 and torch.is_grad_enabled()):
                clean = self.predict(x, now, controls, pitch, text, camera, foreseen, mind, recalls)
                x = clean if after == 1 else x + (after - now) / (1 - now) * (clean - x)
        return rms_norm(x)

    def error(self, true, controls, pitch, text, camera, foreseen, copies, mind=None, alone=False):
        """The error [copies*B] of true latents [B, N, C] predicted from noisy copies, half of a copy's worth of them pure noise, after what these
        worlds remember; steering as in `step`, `mind` and `alone` as in `predict`. With a gradient."""
        rand = partial(torch.rand, device=true.device)
        tau = torch.where(rand(copies * len(true)) < 0.5 / copies, 0, rand(copies * len(true)) ** 1.3)
        true = true.repeat(copies, 1, 1)
        clean = self.predict(noised(true, tau), tau, controls, pitch, text, camera, foreseen, mind, alone=alone)
        return (clean - true).square().mean((1, 2))

    @torch.no_grad()
    def commit(self, latents, controls, pitch, text, camera, foreseen, noise):
        """Remembers a chunk of every world, and draws it -> frames [B, F, 3, H, W]."""
        level = 1 - self.dit.c.context_noise
        x = level * latents + (1 - level) * noise
        for mind in (self.mind, *self.watching):
            steering = controls[:, None], pitch[:, None], text[:, None]
            mind.remember(x, level, self.latents, foreseen, steering, camera, self.age)
        kept, vcn = {}, self.vcn
        self.latents.copy_(torch.stack([self.latents[:, 1], x], 1))
        cond = F.silu(vcn.dec_control(control_features(controls[:, None])))
        recalls = self.drawn.recalls(camera, self.age, self.mind.pos, self.mind.focal)
        told = self.drawn.forward(vcn.dec_in(latents).float().unsqueeze(1), cond, self.rope_drawn, recalls, kept)
        frames = vcn.draw(told, controls[:, None], self.h, self.w)[:, 0].float()
        self.drawn.add(kept, camera)
        near = vcn.nearness(told, controls[:, None], pitch[:, None], self.h, self.w)[:, 0]
        self.views.add(frames[:, -1], near, pitched(camera[:, None], pitch)[:, 0], edited(controls))
        self.cameras.copy_(camera)
        self.age += 1
        return frames


class Walkers:
    """Worlds that follow the controls, captions and pitch of recorded episodes, from their start or from a prompt alone."""

    def __init__(self, dit, vcn, captions, episodes, count, chunks, rng, device, windows=None, furthest=None, watching=()):
        self.vcn, self.captions, self.episodes, self.rng, self.device = vcn, captions, episodes, rng, device
        self.chunks, self.windows, self.furthest = chunks, windows, furthest
        self.plans = [None] * count
        c = dit.c
        self.walks = Walks(dit, vcn, count, c.height // c.patch, c.width // c.patch, device, watching)
        self.begin = Replay(lambda *now: (self.walks.begin(*now),), device)

    def _plan(self, row):
        """A new world for this row: an episode of which a whole number of windows is followed."""
        f, rng = self.vcn.c.frames_per_chunk, self.rng
        lengths = np.array([len(e["frames.npy"]) // (f * self.chunks) for e in self.episodes.items])
        # episodes of each length equally often, but for those too short
        groups = [np.flatnonzero(lengths == n) for n in sorted(set(lengths)) if n >= (self.windows or 1)]
        i = rng.choice(groups[rng.integers(len(groups))])
        most = min(lengths[i], self.furthest // self.chunks) if self.furthest else lengths[i]
        windows = self.windows or 1 + rng.integers(most)
        at = rng.integers(len(self.episodes.items[i]["frames.npy"]) - f * self.chunks * windows + 1)
        frames, controls, texts, pitch = self.episodes.clip(i, at, self.chunks * windows, f, rng, rng.random() < 0.5)
        controls = torch.from_numpy(controls)
        self.plans[row] = {
            "frames": frames, "controls": controls, "pitch": torch.from_numpy(pitch), "camera": camera(controls),
            "text": self.captions([texts])[0], "seen": rng.integers(2) * 2, "at": 0,
        }  # fmt: skip
        self.walks.forget([row])

    @torch.no_grad()
    def follow(self):
        """The next chunks of every world, one after the other: true latents [B, N, C], steering as in `Walks.step` up to the camera,
        the latents that are not for it to dream [B, N, C], as it is still shown the recording or just begins, and where [B]."""
        for row, plan in enumerate(self.plans):
            if plan is None or plan["at"] == len(plan["controls"]):
                self._plan(row)
        stack = lambda key: torch.stack([p[key][p["at"] : p["at"] + self.chunks] for p in self.plans]).to(self.device)  # noqa: E731
        steering = [stack(k) for k in ("controls", "pitch", "text", "camera")]
        true = self.vcn.encode(to_float(stack("frames")), steering[0]).float()
        shown = torch.tensor([p["seen"] - p["at"] for p in self.plans], device=self.device)
        begin = [row for row, p in enumerate(self.plans) if p["at"] == p["seen"] == 0]
        for t in range(self.chunks):
            now, given, known = [s[:, t] for s in steering], true[:, t], t < shown
            if t == 0 and begin:
                given, known = given.clone(), known.clone()
                for some in torch.tensor(begin, device=self.device).split(TOGETHER):
                    given[some] = self._begin(some, now)
                known[begin] = True
            yield true[:, t], now, given, known
        for plan in self.plans:
            plan["at"] += self.chunks

    def _begin(self, rows, steering):
        """The first chunk of the worlds of these rows, at most TOGETHER."""
        padded = F.pad(rows, (0, TOGETHER - len(rows)))
        controls, pitch, text = (s[padded] for s in steering[:3])
        (first,) = self.begin(controls, pitch, text, torch.randn(TOGETHER, len(self.walks.mind.pos), self.vcn.c.latent, device=self.device))
        return first[: len(rows)]

    def advance(self, z, now, given, known):
        """Goes on with dreamed latents z, or those given where they are known -> the frames [B, F, 3, H, W]."""
        z = torch.where(known[:, None, None], given, z.detach())
        return self.walks.commit(z, *now, torch.randn_like(z))
