"""Trains the diffusion transformer on the latents of a trained VCN.

    python train/dit.py --model models/overworld --data data/train --held-out data/heldout --out runs/dit --minutes 70
"""

import argparse
from functools import partial

import numpy as np
import torch

import data
import engine
from data import Episodes, pick, to_float, training_sets
from engine import Replay
from export import load_model
from geometry import camera, edited
from model import DiT, rms_norm
from sampler import next_levels
from text import TextEncoder
from vcn import psnr
from walk import FURTHEST, Walkers, Walks, noised, weigh

# what a step sees: its share of the draws, chunks a clip, clips (of --batch 4), noisy copies of each, and at most how
# many more passes with the model's own predictions as the past. Many short clips teach fastest, long ones the memory,
# single chunks how a world begins.
MIX = [(0.35, 6, 4, 2, 3), (0.05, 20, 2, 2, 8), (0.6, 1, 16, 4, 0)]
# of the steps, so many follow worlds that the model itself walks, with the sampler that ships: (share, worlds of --batch 4,
# chunks, noisy copies of the truth)
OWN_WALKS = (0.3, 8, 8, 2)
DOUBT, OWN_DOUBT = 0.1, 0.3  # see `walk.weigh`: what keeps a strayed world whole is learned on its own walk alone
CUT = 0.25  # of the clips change the place with the caption
EDITS = 0.4  # of the clips show a block broken or placed
EDITED = 20  # times as much counts the error of the chunk in which that happens: it is small, and seen at once or never
FIRST = 4  # times as much counts the error of a chunk without a past, which is far from known
UNPROMPTED = 0.1  # of the clips, for guidance
CONTEXT_NOISE = 0.25  # the past is remembered at levels 1 - 0.25 to 1


def foresee_flops(c, n=64):
    """FLOP of decoding a chunk and encoding what is foreseen of the next."""
    trunks = sum(t.layers * n * (12 * t.width**2 * 2 + 8 * n * t.width) for t in (c.encoder, c.decoder))
    return trunks + 2 * 8 * n * 16 * 9 * c.stem**2  # two blocks of two 3x3 convolutions each way


def flops(c, clips, chunks, copies, n=64):
    """FLOP of a training step over clips of so many chunks: context stream up to the last temporal layer and what is
    foreseen (if there is a past), noisy copies."""
    block = n * (12 * c.dit.width**2 * 2 + 8 * n * c.dit.width)
    context = max(c.dit.temporal) + 1 if chunks > 1 else 0
    return clips * (3 * chunks * block * (context + copies * c.dit.layers) + (chunks - 1) * foresee_flops(c))


def walk_flops(c, worlds, chunks, copies, n=64):
    """FLOP of such a step of `Walkers.errors`: sampler and commit forward, noisy copies with their gradients."""
    block = n * (12 * c.dit.width**2 * 2 + 8 * n * c.dit.width)
    network = block * ((c.steps + 3 * copies) * c.dit.layers + max(c.dit.temporal) + 1)
    return worlds * chunks * (network + foresee_flops(c))


class Captions:
    """Embeds captions once each, with the encoder that ships."""

    def __init__(self, folder, sets, device):
        texts = sorted({t for s in sets for t in s.texts()})
        self.index = {t: i for i, t in enumerate(texts)}
        self.vectors = TextEncoder(folder, device).encode(texts)

    def __call__(self, captions):
        """[B][T] texts -> [B, T, text]."""
        return self.vectors[torch.tensor([[self.index[t] for t in row] for row in captions], device=self.vectors.device)]


class Batches:
    """Latent clips [B, T, N, C] with controls and text, encoded on the fly."""

    def __init__(self, vcn, captions, rng, device):
        self.vcn, self.captions, self.rng, self.device = vcn, captions, rng, device

    @torch.no_grad()
    def draw(self, episodes, batch, chunks, **how):
        frames, controls, captions, pitch = episodes.clips(self.rng, batch, chunks, **how)
        x, a = to_float(frames).to(self.device), controls.to(self.device)
        grid = (x.shape[-2] // self.vcn.c.patch, x.shape[-1] // self.vcn.c.patch)
        return x, self.vcn.encode(x, a), a, pitch.to(self.device), self.captions(captions), grid


class Lessons:
    """What a DiT learns in a step, gradients only; `sharp` as of `regression`."""

    def __init__(self, world, vcn, dit, walkers=None, forward=None, sharp=False):
        self.world, self.vcn, self.dit, self.walkers, self.sharp = world, vcn, dit, walkers, sharp
        self.forward = dit if forward is None else forward
        self.of_clips, self.of_walks = Replay(self._clips, world.device), Replay(self._walk, world.device)

    def _clips(self, z, past, controls, pitch, text, grid, copies):
        """As `regression`, without a gradient."""
        c = self.dit.c
        model = self.forward if grid == (c.height // c.patch, c.width // c.patch) else self.dit  # one size is compiled
        with self.world.precision():
            loss, clean, noise = regression(model, self.vcn, z, past, controls, pitch, text, *grid, copies, self.sharp)
        loss.backward()
        return loss.detach(), clean, noise

    def _walk(self, true, controls, pitch, text, camera, given, known, steps, copies):
        """The weighed error of a chunk of the worlds that walk, as `Walkers.follow` tells it; they go on."""
        walks = self.walkers.walks
        walks.steps = steps
        with self.world.precision():
            now = controls, pitch, text, camera, walks.foresee(controls, pitch)
            loss = (weigh(now[-1], true, OWN_DOUBT).repeat(copies) * walks.error(true, *now, copies)).mean()
        (loss / self.walkers.chunks).backward()
        with self.world.precision(), torch.no_grad():
            self.walkers.advance(walks.step(*now, torch.randn_like(true)), now, given, known)
        return (loss.detach(),)


def draw_kind(rng):
    """One of MIX, as often as it says."""
    return MIX[rng.choice(len(MIX), p=[m[0] for m in MIX])]


def regression(model, vcn, z, past, controls, pitch, text, h, w, copies, sharp=False):
    """The weighed error of `copies` noisy copies of the latents z [B, T, N, C] with this past, their first predictions and the mean
    error from pure noise. With `sharp` a chunk with a past is taught what to make of pure noise alone, and its edits: the mean
    of what may come, which is where sampling starts and not where it ends."""
    with torch.no_grad():
        foreseen = vcn.foreseen(past, controls, pitch, h, w)
    chunks, rand = z.shape[1], partial(torch.rand, device=z.device)
    text = torch.where(rand(len(z), 1, 1) < UNPROMPTED, 0.0, text)
    context_tau = 1 - CONTEXT_NOISE * rand(z.shape[:2])
    tau = rand(copies * len(z), chunks) ** 1.3
    tau[: len(z)][rand(len(z), chunks) < 0.5] = 0
    target = z.repeat(copies, 1, 1, 1)
    clean = model(noised(past, context_tau), context_tau, noised(target, tau), tau, foreseen, controls, pitch, text, h, w).float()
    error = (clean - target).square().mean((2, 3))
    weight = weigh(foreseen, z, DOUBT)
    weight[:, 0] *= FIRST
    edit = edited(controls)
    weight[:, 1:] *= torch.where(edit[:, 1:], EDITED, 1)
    weight = weight.repeat(copies, 1)
    if sharp:
        weight[:, 1:] *= ((tau == 0) | edit.repeat(copies, 1))[:, 1:]
    loss = (error * weight).mean()
    blind = tau[: len(z)] == 0
    return loss, clean[: len(z)].detach(), (error[: len(z)] * blind).sum().detach() / blind.sum()


@torch.no_grad()
@torch.random.fork_rng()
def evaluate(dit, batches, held_out, clips=12):
    """Held-out latent error from pure noise, turning and other chunks apart; next-chunk PSNR at the shipped steps."""
    rng, batches.rng = batches.rng, np.random.default_rng(2)
    torch.manual_seed(2)
    errors, turns, first, mse, copy = [], [], [], [], []
    level = 1 - dit.c.context_noise
    for _ in range(clips // 4):
        x, z, a, pitch, text, (h, w) = batches.draw(held_out, 4, 6, mirror=False)
        context_tau = torch.full(z.shape[:2], level, device=z.device)
        context = noised(z, context_tau)
        foreseen = batches.vcn.foreseen(z, a, pitch, h, w)
        noisy, tau = torch.randn_like(z), 0.0
        for after in next_levels(dit.c.steps)[1:]:
            clean = dit(context, context_tau, noisy, torch.full(z.shape[:2], tau, device=z.device), foreseen, a, pitch, text, h, w)
            if tau == 0:
                e = (clean - z).square().mean((2, 3))
                errors.append(e[:, 2:].flatten())
                first.append(e[:, 0])
                turns.append((a[..., 4].abs().mean(-1) >= 1)[:, 2:].flatten())
            noisy = noisy + (after - tau) / (1 - tau) * (clean - noisy) if after < 1 else clean
            tau = after
        # decode every predicted chunk after its true predecessor
        pairs = torch.stack([z[:, 1:-1], rms_norm(noisy[:, 2:])], 2).flatten(0, 1)
        y = batches.vcn.decode(pairs, torch.stack([a[:, 1:-1], a[:, 2:]], 2).flatten(0, 1), h, w)[:, 1].clamp(-1, 1)
        truth = x[:, 2:].flatten(0, 1)
        mse.append((y - truth).square().mean((1, 2, 3, 4)))
        copy.append((x[:, 1:-1, -1:].flatten(0, 1) - truth).square().mean((1, 2, 3, 4)))
    batches.rng = rng
    errors, turns, mse, copy = (torch.cat(v) for v in (errors, turns, mse, copy))
    return {
        "turning": errors[turns].mean().item(),
        "other": errors[~turns].mean().item(),
        "first": torch.cat(first).mean().item(),
        "next_psnr": float(np.mean([psnr(m) for m in mse.tolist()])),
        "copy_psnr": float(np.mean([psnr(m) for m in copy.tolist()])),
    }


@torch.no_grad()
def sheet(dit, batches, held_out, path, chunks=20):
    """Draws held-out clips beside free-running rollouts from two true chunks."""
    from PIL import Image

    rng, batches.rng = batches.rng, np.random.default_rng(3)
    x, z, a, pitch, text, (h, w) = batches.draw(held_out, 4, chunks, mirror=False)
    batches.rng = rng
    g = torch.Generator().manual_seed(0)
    noise, eps = (torch.randn(z.shape, generator=g).to(z.device) for _ in range(2))
    walks, cameras, out = Walks(dit, batches.vcn, len(z), h, w, z.device), camera(a), []
    for t in range(chunks):
        steering = a[:, t], pitch[:, t], text[:, t], cameras[:, t], walks.foresee(a[:, t], pitch[:, t])
        latents = z[:, t] if t < 2 else walks.step(*steering, noise[:, t])
        out.append(walks.commit(latents, *steering, eps[:, t]))
    y = torch.stack(out, 1).clamp(-1, 1)
    pick = [0, 1, 2, 3, 4, 6, 8, 11, 15, 19]
    rows = [torch.cat([v[i, t, 1] for t in pick if t < chunks], -1) for i in range(len(x)) for v in (x, y)]
    image = ((torch.cat(rows, -2) + 1) * 127.5).byte().permute(1, 2, 0).cpu().numpy()
    Image.fromarray(image).save(path)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    engine.arguments(p)
    data.arguments(p)
    p.add_argument("--model", required=True, help="model folder with the exported VCN and text encoder")
    p.add_argument("--compile", action="store_true", help="torch.compile: some minutes to begin with, then a third faster")
    p.add_argument("--batch", type=int, default=4, help="clips of 6 chunks a step, over all processes; of other lengths in proportion")
    args = p.parse_args()

    world = engine.World()
    torch.manual_seed(args.seed)
    c, vcn, _ = load_model(args.model, world.device)
    dit = DiT(c).to(world.device)
    start = load_model(args.init)[2] if args.init else None
    run = engine.Run(args.out, dit, args, world, 1e-3 if start else 2e-3, start)
    torch.manual_seed(args.seed + 1000 * run.step + world.rank)
    rng = np.random.default_rng([args.seed, run.step, world.rank])
    shared = np.random.default_rng([args.seed, run.step])  # draws that all processes must share
    sets, held_out = training_sets(args, c, world.device), Episodes(args.held_out, actions=c.actions)
    captions = Captions(args.model, [*sets, held_out], world.device)
    batches = Batches(vcn, captions, rng, world.device)
    share, worlds, far, walk_copies = OWN_WALKS
    worlds = max(1, round(worlds * args.batch / 4 / world.size))
    walkers = Walkers(dit, vcn, captions, sets[0], worlds, far, rng, world.device, furthest=FURTHEST)

    lessons = Lessons(world, vcn, dit, walkers, torch.compile(dit, dynamic=False) if args.compile else None)
    passes = 0
    while run.running():
        if passes == 0 and run.progress > 0.1 and shared.random() < share:
            steps = int(shared.integers(2, 5))  # so that no number of steps is out of its depth
            for true, now, given, known in walkers.follow():
                (loss,) = lessons.of_walks(true, *now, given, known, steps=steps, copies=walk_copies)
            run.update(walk_flops(c, worlds * world.size, far, walk_copies), {"walk": loss})
            continue
        if passes == 0:
            _, chunks, clips, copies, own_passes = draw_kind(shared)
            clips = max(1, round(clips * args.batch / 4 / world.size))
            _, z, a, pitch, text, grid = batches.draw(pick(sets, rng), clips, chunks, cut=CUT, edits=EDITS)
            past = z
            passes = 1 + (shared.integers(own_passes + 1) if run.progress > 0.1 else 0)
        else:
            # the same clips once more, with the past (or a part) as the model itself saw it: against drift. A pass
            # builds on the pass before, so errors pile up as they do when walking. The start has no past: it stays true.
            own = torch.rand(z.shape[:2], device=z.device) < 2 * torch.rand(len(z), 1, device=z.device)
            own[:, 0] = False
            past = torch.where(own[..., None, None], again, z)
        passes -= 1
        loss, clean, noise = lessons.of_clips(z, past, a, pitch, text, grid=grid, copies=copies)
        again = rms_norm(clean)
        run.update(flops(c, clips * world.size, chunks, copies), {"loss": loss, "noise": noise, "chunks": chunks})
        if run.step % 400 == 0 and world.rank == 0:
            run.report(evaluate(run.ema, batches, held_out))
    run.save()
    if world.rank == 0:
        sheet(run.ema, batches, held_out, run.folder / "rollout.png")
        engine.plot(args.out, ["loss", "held_turning", "held_other", "held_next_psnr"])


if __name__ == "__main__":
    main()
