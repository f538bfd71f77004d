"""Free-running worlds in a batch: the sampler with a cache of the past, as the runtime has it."""

import numpy as np
import torch

from data import to_float
from model import camera, motion, rms_norm, rollout, sample_levels

FURTHEST = 48  # chunks that a world walks before it begins anew: after longer the truth tells little of where it is


def noised(x, tau):
    """x [..., N, C] at signal level tau [...]."""
    tau = tau[..., None, None]
    return tau * x + (1 - tau) * torch.randn_like(x)


class Walks:
    """B worlds that walk in step, each of its own age; `model.rollout` with the work of the past kept.

    Keys, values and remembered latents of the newest `reach` chunks stay; gradients reach the last denoising step of a
    chunk alone, as the past is taken as given (Self Forcing, Huang et al. 2025).
    """

    def __init__(self, dit, count, h, w, device):
        self.dit, self.h, self.w = dit, h, w
        c = dit.c.dit
        self.reach, n = max(c.offsets), h * w
        self.slots = self.reach - torch.tensor(c.offsets, device=device)
        self.latents = torch.zeros(count, 2, n, dit.c.latent, device=device)  # as remembered, the newest last
        shape = (2, count, self.reach, c.heads, n, c.width // c.heads)
        self.past = {layer: torch.zeros(shape, device=device) for layer in c.temporal}
        self.cameras = torch.zeros(count, self.reach, 5, device=device)
        self.age = torch.zeros(count, dtype=torch.long, device=device)
        self.rope, _, self.pos, self.focal = dit.geometry(torch.zeros(1, 1, 1, dit.c.controls, device=device), h, w)

    def forget(self, rows):
        """Begins the worlds of these rows anew."""
        self.age[rows] = 0
        self.latents[rows] = 0

    def _recalls(self, camera):
        """What each temporal layer remembers, seen from `camera` [B, 5]."""
        moved = motion(camera[:, None, None], self.cameras[:, None, self.slots])
        missing = self.age[:, None] < self.reach - self.slots
        missing = missing.repeat_interleave(self.h * self.w, -1)[:, None, None, None]
        recalls = {}
        for layer, past in self.past.items():
            bias = self.dit.blocks[layer].flow(moved, self.pos, self.focal).flatten(-2).masked_fill(missing, float("-inf"))
            keys, values = past[:, :, self.slots].transpose(2, 3).flatten(3, 4).unsqueeze(2)
            recalls[layer] = (keys, values, bias)
        return recalls

    def _pass(self, x, tau, steering, recalls, kept=None):
        """A chunk [B, N, C] at level tau [B] through the blocks; `kept` takes its keys and values, and then the last blocks are left out."""
        dit = self.dit
        x = dit.patch_in(torch.cat([x, self.latents[:, 1], self.latents[:, 0]], -1)).float().unsqueeze(1)
        cond = dit.condition(torch.as_tensor(tau, device=x.device).expand(len(x))[:, None], *steering)
        for layer, block in enumerate(dit.blocks):
            memory = None
            if layer in recalls:
                def memory(k, v, layer=layer):
                    if kept is not None:
                        kept[layer] = torch.stack([k, v]).squeeze(2)
                    return recalls[layer]

            x = block(x, cond, self.rope, memory)
            if kept is not None and layer == dit.blocks.last_temporal:
                return None
        shift, scale = dit.ada_out(cond).unsqueeze(-2).chunk(2, -1)
        return dit.patch_out(rms_norm(x) * (1 + scale) + shift).float().squeeze(1)

    def step(self, controls, pitch, text, camera, noise):
        """Dreams a chunk of every world: controls [B, F, 8], pitch [B], text [B, text], camera [B, 5], noise [B, N, C]
        -> latents [B, N, C], with a gradient of the last step where there is a past."""
        steering = controls[:, None], pitch[:, None], text[:, None]
        levels = sample_levels(self.dit.c.steps)
        x = noise
        for now, after in zip(levels, levels[1:]):
            with torch.set_grad_enabled(after == 1 and torch.is_grad_enabled()):
                clean = self._pass(x, now, steering, self._recalls(camera))
                x = clean if after == 1 else x + (after - now) / (1 - now) * (clean - x)
        latents = rms_norm(x)
        fresh = (self.age == 0).nonzero()[:, 0]
        if len(fresh):
            steering = (t[fresh] for t in steering)
            first = rollout(self.dit, noise[fresh, None][:, :0], *steering, noise[fresh, None], noise[fresh, None], self.h, self.w)
            latents = latents.index_copy(0, fresh, first[:, 0])
        return latents

    def error(self, true, controls, pitch, text, camera, copies):
        """The error [copies*B] of true latents [B, N, C] predicted from noisy copies, half of them pure noise, after what these
        worlds remember; steering as in `step`. With a gradient."""
        tau = torch.rand(copies * len(true), device=true.device) ** 1.3
        tau[: len(true)][torch.rand(len(true), device=true.device) < 0.5] = 0
        repeat = lambda a: a.repeat(copies, *[1] * (a.dim() - 1))  # noqa: E731
        recalls = {layer: [repeat(t) for t in recall] for layer, recall in self._recalls(camera).items()}
        before, self.latents = self.latents, repeat(self.latents)
        steering = [repeat(t)[:, None] for t in (controls, pitch, text)]
        clean = self._pass(noised(repeat(true), tau), tau, steering, recalls)
        self.latents = before
        return (clean - repeat(true)).square().mean((1, 2))

    @torch.no_grad()
    def commit(self, latents, controls, pitch, text, camera, noise):
        """Remembers a chunk of every world."""
        level = 1 - self.dit.c.context_noise
        x = level * latents + (1 - level) * noise
        kept = {}
        self._pass(x, level, (controls[:, None], pitch[:, None], text[:, None]), self._recalls(camera), kept)
        for layer, past in self.past.items():
            self.past[layer] = torch.cat([past[:, :, 1:], kept[layer].unsqueeze(2).float()], 2)
        self.latents = torch.stack([self.latents[:, 1], x], 1)
        self.cameras = torch.cat([self.cameras[:, 1:], camera[:, None]], 1)
        self.age += 1


class Walkers:
    """Worlds that follow the controls, captions and pitch of recorded episodes, from their start or from a prompt alone."""

    def __init__(self, dit, vcn, captions, episodes, count, chunks, rng, device, windows=None, furthest=None):
        self.vcn, self.captions, self.episodes, self.rng, self.device = vcn, captions, episodes, rng, device
        self.chunks, self.windows, self.furthest = chunks, windows, furthest
        self.plans = [None] * count
        c = dit.c
        self.walks = Walks(dit, count, c.height // c.patch, c.width // c.patch, device)

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
        """Every world's next chunk, dreamed unless it is seen."""
        z = self.walks.step(*steering, torch.randn_like(true))
        z = torch.where(seen[:, None, None], true, z)
        self.walks.commit(z.detach(), *steering, torch.randn_like(z))
        return z

    def window(self, grad):
        """The next chunks of every world -> true and dreamed latents [B, T, N, C], steering (controls, pitch, text), and
        which chunks are dreamed from a past of their own [B, T]."""
        true, steering, seen = self._gather()
        dreamed, counts = [], []
        for t in range(self.chunks):
            counts.append((self.walks.age > 0) & (t >= seen))
            with torch.set_grad_enabled(grad):
                dreamed.append(self._advance(true[:, t], [s[:, t] for s in steering], t < seen))
        return true, torch.stack(dreamed, 1), steering[:3], torch.stack(counts, 1)

    def errors(self, copies):
        """The errors of the next true chunks of every world after its own past [T, copies*B], with gradients; the worlds
        walk on."""
        true, steering, seen = self._gather()
        errors = []
        for t in range(self.chunks):
            now = [s[:, t] for s in steering]
            errors.append(self.walks.error(true[:, t], *now, copies))
            with torch.no_grad():
                self._advance(true[:, t], now, t < seen)
        return torch.stack(errors)
