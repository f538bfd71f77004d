"""From noise to latents in a few steps: the reference of the runtime's sampler (`src/model/sampler.rs`, `src/family/dream/world.rs`)."""

import torch
import torch.nn.functional as F

from geometry import CELL, camera, edited, unedited
from model import VCN, DiT, rms_norm

RENEWED = 0.05  # signal level of a chunk that begins from what was foreseen of it
NEXT_GUIDANCE = 4.0  # of the first step of a chunk on a walk that sees no true one: left to itself the world forgets the words
# How much louder the noise is where nothing was foreseen, and where what was is far away and bare:
LOUDER = 1.3, 0.0  # at the size that was trained, what comes into view stays empty
GUIDED_LOUDER = 0.5, 3.0  # in a chunk that is guided so; the latter after a whole past: nothing would come out of there any more
EDIT_STEPS = 2  # times as many steps a chunk takes in which a block is broken or placed
EDIT_GUIDANCE = 2.0  # how far a chunk in which a block is broken or placed goes on from what it would be without


def sample_levels(steps):
    """Signal levels of a sampler with `steps` evaluations: 0 first, evenly spaced, 1 is the end."""
    return [i / steps for i in range(steps + 1)]


def next_levels(steps):
    """Those of a chunk after true ones: later (timesteps shifted by 2, Esser et al. 2024), as most of it is foreseen."""
    return [2 * level / (1 + level) for level in sample_levels(steps)]


def first_levels(steps):
    """Those of a chunk without a past: nearest where noise begins to take shape, which decides what is to be seen."""
    return [level * level for level in sample_levels(steps)]


def louder(noise, unseen, patch, louder=LOUDER):
    """Noise [B, N, C] of a chunk with a past, the louder the more of it is `unseen` [B, 2, H/CELL, W/CELL], as of `Views.see`."""
    return noise * (1 + sum(by * x for by, x in zip(louder, F.avg_pool2d(unseen, patch // CELL).flatten(2).unbind(1)))[..., None])


@torch.no_grad()
def rollout(dit: DiT, vcn: VCN, first, controls, pitch, text, noise, context_eps, h, w, editor=None):
    """Reference sampler, without a cache: continues `first` [B, P, N, C] to T chunks (P may be 0).

    controls [B, T, F, 8], pitch [B, T], text [B, T, text], noise and context_eps [B, T, N, C]. Deterministic (DDIM, Song et al. 2021):
    x moves on the line between its noise and the present prediction. Finished latents are put back on their
    unit-RMS sphere and remembered at level 1 - context_noise. Noise is louder where nothing was foreseen, and of a guided chunk in a bare
    distance. On a walk a chunk that
    sees no true one follows the words: its first step is guided. Where the text changes, the past ends: the chunk begins anew from what was
    foreseen of it, made noisy (SDEdit, Meng et al. 2022), and is guided away from the words before. A chunk in which a block is broken
    or placed is dreamed by `editor`, if there is one, and guided away from what it would be without. -> latents [B, T, N, C].
    """
    c, total = dit.c, controls.shape[1]
    latents, begin, start = first, 0, None
    cameras = camera(controls)
    for t in range(first.shape[1], total):
        edit = edited(controls[:, t])
        sees_true = begin == 0 and 0 < first.shape[1] and t - first.shape[1] < max(c.dit.offsets)
        walked = (controls[:, t, :, :2] != 0).any()  # all in view changes then, not its borders alone
        follows = c.guidance > 1 and walked and not (sees_true or edit.any())
        if edit.any():
            later = sample_levels(EDIT_STEPS * c.steps)
        else:
            later = sample_levels(c.steps) if follows else next_levels(c.steps)
        x, levels = noise[:, t], later if t else first_levels(c.first_steps)
        if t and (text[:, t] != text[:, t - 1]).any():
            foreseen = vcn.foreseen(latents[:, begin:], controls[:, begin : t + 1], pitch[:, begin : t + 1], h, w, start)[:, -1]
            levels = [RENEWED, *(level for level in sample_levels(c.first_steps) if level > RENEWED)]
            x, begin, start = RENEWED * foreseen + (1 - RENEWED) * x, t, cameras[:, t - 1]
        steering = controls[:, begin : t + 1], pitch[:, begin : t + 1]
        foreseen, unseen = vcn.foresee(latents[:, begin:], *steering, h, w, start)
        if t > begin:
            unknown, bare = GUIDED_LOUDER if follows else LOUDER
            x = louder(x, unseen, c.patch, (unknown, bare if t - begin >= max(c.dit.offsets) else 0))
        past = (1 - c.context_noise) * latents[:, begin:] + c.context_noise * context_eps[:, begin:t]
        for now, after in zip(levels, levels[1:]):
            # the chunk under way stands in for itself in the context stream; no other chunk sees it there
            context = torch.cat([past, x[:, None]], 1)
            level = torch.full(context.shape[:2], 1 - c.context_noise, device=x.device)
            tau = torch.cat([level[:, :-1], torch.full_like(level[:, :1], now)], 1)

            def predict(text, controls, dreams=None):
                return dit(context, level, context, tau, foreseen, controls, steering[1], text, h, w, dreams)[:, -1]

            words, done = text[:, begin : t + 1], steering[0]
            clean = predict(words, done)
            if t == begin and c.guidance > 1:
                without = predict(text[:, t - 1 : t] if t else torch.zeros_like(words), done)
                clean = without + c.guidance * (clean - without)
            elif follows and now == 0:
                without = predict(torch.cat([words[:, :-1], torch.zeros_like(words[:, -1:])], 1), done)
                clean = without + NEXT_GUIDANCE * (clean - without)
            if t > begin and edit.any():
                without = predict(words, torch.cat([done[:, :-1], unedited(done[:, -1:])], 1))
                changed = without + EDIT_GUIDANCE * (predict(words, done, editor) - without)
                clean = torch.where(edit[:, None, None], changed, clean)
            x = clean if after == 1 else x + (after - now) / (1 - now) * (clean - x)
        latents = torch.cat([latents, rms_norm(x)[:, None]], 1)
    return latents
