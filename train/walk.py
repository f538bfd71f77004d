"""Free-running worlds in a batch: the sampler with a cache of the past, as the runtime has it."""

import torch

from model import motion, rms_norm, rollout, sample_levels


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
        """A chunk [B, N, C] through the blocks; `kept` takes its keys and values, and then the last blocks are left out."""
        dit = self.dit
        x = dit.patch_in(torch.cat([x, self.latents[:, 1], self.latents[:, 0]], -1)).float().unsqueeze(1)
        cond = dit.condition(torch.full((len(x), 1), tau, device=x.device), *steering)
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
