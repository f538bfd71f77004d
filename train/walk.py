"""Free-running worlds in a batch: the sampler with a cache of the past, as the runtime has it."""

import numpy as np
import torch
import torch.nn.functional as F

from data import to_float
from geometry import CAMERA, Views, camera, grid_positions, motion, pitched, reckon
from model import control_features, rms_norm, rollout, rope_tables, sample_levels

DOUBT = 0.3  # see `weigh`: what keeps a strayed world whole is learned here alone
FURTHEST = 160  # chunks that a world walks before it begins anew


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
            self.kept[layer] = torch.cat([past[:, :, 1:], kept[layer].unsqueeze(2).float()], 2)
        self.cameras = torch.cat([self.cameras[:, 1:], camera[:, None]], 1)

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


class Walks:
    """B worlds that walk in step, each of its own age; `model.rollout` with the work of the past kept.

    Keys, values and remembered latents of the newest chunks and the frames in view stay; gradients reach the last denoising
    step of a chunk alone, as the past is taken as given (Self Forcing, Huang et al. 2025).
    """

    def __init__(self, dit, vcn, count, h, w, device):
        self.dit, self.vcn, self.h, self.w, self.steps = dit, vcn, h, w, dit.c.steps
        c, n = dit.c, h * w
        self.latents = torch.zeros(count, 2, n, c.latent, device=device)  # as remembered, the newest last
        self.views = Views(count, h * c.patch, w * c.patch, c.eye, device)
        self.cameras = torch.zeros(count, CAMERA, device=device)  # at the end of the last chunk
        self.past, self.drawn = (Past(trunk, count, n, device) for trunk in (dit.blocks, vcn.dec_blocks))
        self.age = torch.zeros(count, dtype=torch.long, device=device)
        self.pos, self.focal = grid_positions(h, w, device)
        self.rope, self.rope_drawn = (
            rope_tables(h, w, trunk.width // trunk.heads, device) for trunk in (c.dit, c.decoder)
        )  # fmt: skip

    def forget(self, rows):
        """Begins the worlds of these rows anew."""
        self.age[rows] = 0
        self.latents[rows] = 0
        self.cameras[rows] = 0
        self.views.forget(rows)

    @torch.no_grad()
    def foresee(self, controls, pitch):
        """The next chunk if nothing but the camera moves [B, N, C], as of `VCN.foreseen`."""
        frames = self.views.see(pitched(reckon(controls, self.cameras), pitch))
        foreseen = self.vcn.encode(frames[:, None], controls[:, None])[:, 0].float()
        return foreseen * (self.age > 0)[:, None, None]

    def _recalls(self, camera):
        return self.past.recalls(camera, self.age, self.pos, self.focal)

    def _pass(self, x, tau, foreseen, steering, recalls, kept=None):
        """A chunk [B, N, C] at level tau [B] through the network; `kept` takes its keys and values, and then nothing else is made."""
        dit = self.dit
        x = dit.patch_in(torch.cat([x, self.latents[:, 1], self.latents[:, 0], foreseen], -1)).float().unsqueeze(1)
        cond = dit.condition(torch.as_tensor(tau, device=x.device).expand(len(x))[:, None], *steering)
        upto = None if kept is None else dit.blocks.last_temporal + 1
        x = self.past.forward(x, cond, self.rope, recalls, kept, upto)
        if kept is not None:
            return None
        begins = (self.age == 0).repeat(len(x) // len(self.age))[:, None, None, None]
        return dit.answer(x, cond, foreseen[:, None], begins).float().squeeze(1)

    def step(self, controls, pitch, text, camera, foreseen, noise):
        """Dreams a chunk of every world: controls [B, F, 8], pitch [B], text [B, text], camera [B, CAMERA], foreseen [B, N, C] of
        `foresee`, noise [B, N, C] -> latents [B, N, C], with a gradient of the last step where there is a past."""
        steering = controls[:, None], pitch[:, None], text[:, None]
        levels = sample_levels(self.steps)
        x = noise
        for now, after in zip(levels, levels[1:]):
            with torch.set_grad_enabled(after == 1 and torch.is_grad_enabled()):
                clean = self._pass(x, now, foreseen, steering, self._recalls(camera))
                x = clean if after == 1 else x + (after - now) / (1 - now) * (clean - x)
        latents = rms_norm(x)
        fresh = (self.age == 0).nonzero()[:, 0]
        if len(fresh):
            steering, noise = [t[fresh] for t in steering], noise[fresh, None]
            first = rollout(self.dit, self.vcn, noise[:, :0], *steering, noise, noise, self.h, self.w)
            latents = latents.index_copy(0, fresh, first[:, 0])
        return latents

    def error(self, true, controls, pitch, text, camera, foreseen, copies):
        """The error [copies*B] of true latents [B, N, C] predicted from noisy copies, half of them pure noise, after what these
        worlds remember; steering as in `step`. With a gradient."""
        tau = torch.rand(copies * len(true), device=true.device) ** 1.3
        tau[: len(true)][torch.rand(len(true), device=true.device) < 0.5] = 0
        repeat = lambda a: a.repeat(copies, *[1] * (a.dim() - 1))  # noqa: E731
        recalls = {layer: [repeat(t) for t in recall] for layer, recall in self._recalls(camera).items()}
        before, self.latents = self.latents, repeat(self.latents)
        steering = [repeat(t)[:, None] for t in (controls, pitch, text)]
        clean = self._pass(noised(repeat(true), tau), tau, repeat(foreseen), steering, recalls)
        self.latents = before
        return (clean - repeat(true)).square().mean((1, 2))

    @torch.no_grad()
    def commit(self, latents, controls, pitch, text, camera, foreseen, noise):
        """Remembers a chunk of every world, and draws it -> frames [B, F, 3, H, W]."""
        level = 1 - self.dit.c.context_noise
        x = level * latents + (1 - level) * noise
        kept, vcn = {}, self.vcn
        self._pass(x, level, foreseen, (controls[:, None], pitch[:, None], text[:, None]), self._recalls(camera), kept)
        self.past.add(kept, camera)
        self.latents = torch.stack([self.latents[:, 1], x], 1)
        cond = F.silu(vcn.dec_control(control_features(controls[:, None])))
        recalls = self.drawn.recalls(camera, self.age, self.pos, self.focal)
        told = self.drawn.forward(vcn.dec_in(latents).float().unsqueeze(1), cond, self.rope_drawn, recalls, kept)
        frames = vcn.draw(told, controls[:, None], self.h, self.w)[:, 0].float()
        self.drawn.add(kept, camera)
        near = vcn.nearness(told, controls[:, None], pitch[:, None], self.h, self.w)[:, 0]
        self.views.add(frames[:, -1], near, pitched(camera[:, None], pitch)[:, 0])
        self.cameras = camera
        self.age += 1
        return frames


class Walkers:
    """Worlds that follow the controls, captions and pitch of recorded episodes, from their start or from a prompt alone."""

    def __init__(self, dit, vcn, captions, episodes, count, chunks, rng, device, windows=None, furthest=None):
        self.vcn, self.captions, self.episodes, self.rng, self.device = vcn, captions, episodes, rng, device
        self.chunks, self.windows, self.furthest = chunks, windows, furthest
        self.plans = [None] * count
        c = dit.c
        self.walks = Walks(dit, vcn, count, c.height // c.patch, c.width // c.patch, device)

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

    def _gather(self):
        """The next chunks of every world: true latents [B, T, N, C], steering per chunk, and how many chunks are still seen [B]."""
        for row, plan in enumerate(self.plans):
            if plan is None or plan["at"] == len(plan["controls"]):
                self._plan(row)
        stack = lambda key: torch.stack([torch.as_tensor(p[key][p["at"] : p["at"] + self.chunks]) for p in self.plans])  # noqa: E731
        steering = [stack(k).to(self.device) for k in ("controls", "pitch", "text", "camera")]
        with torch.no_grad():
            true = self.vcn.encode(to_float(stack("frames")).to(self.device), steering[0])
        seen = torch.tensor([p["seen"] - p["at"] for p in self.plans], device=self.device)
        for plan in self.plans:
            plan["at"] += self.chunks
        return true, steering, seen

    def _advance(self, true, steering, seen):
        """Every world's next chunk, dreamed unless it is seen, after `steering` as in `Walks.step`, and its last frame."""
        z = self.walks.step(*steering, torch.randn_like(true))
        z = torch.where(seen[:, None, None], true, z)
        frames = self.walks.commit(z.detach(), *steering, torch.randn_like(z))
        return z, frames[:, -1]

    def _now(self, steering, t):
        """What a chunk is told: the steering of chunk t, and what is foreseen of it."""
        now = [s[:, t] for s in steering]
        return [*now, self.walks.foresee(*now[:2])]

    def window(self, grad):
        """The next chunks of every world -> true, dreamed and foreseen latents [B, T, N, C], the last frames of the dreamed
        [B, T, 3, H, W], steering (controls, pitch, text), and which chunks are dreamed from a past of their own [B, T]."""
        true, steering, seen = self._gather()
        foreseen, dreamed, frames, counts = [], [], [], []
        for t in range(self.chunks):
            counts.append((self.walks.age > 0) & (t >= seen))
            now = self._now(steering, t)
            foreseen.append(now[-1])
            with torch.set_grad_enabled(grad):
                z, last = self._advance(true[:, t], now, t < seen)
            dreamed.append(z)
            frames.append(last)
        dreamed, foreseen, frames, counts = (torch.stack(v, 1) for v in (dreamed, foreseen, frames, counts))
        return true, dreamed, foreseen, frames, steering[:3], counts

    def errors(self, copies):
        """The errors of the next true chunks of every world after its own past [T, copies*B], weighed, with gradients; the
        worlds walk on."""
        true, steering, seen = self._gather()
        errors = []
        for t in range(self.chunks):
            now = self._now(steering, t)
            weight = weigh(now[-1], true[:, t], DOUBT).repeat(copies)
            errors.append(weight * self.walks.error(true[:, t], *now, copies))
            with torch.no_grad():
                self._advance(true[:, t], now, t < seen)
        return torch.stack(errors)
