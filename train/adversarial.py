"""Sharpens a trained DiT on its own long walks, against a critic of latents.

    python train/adversarial.py --model models/overworld --data data/train data/long --held-out data/heldout --out runs/adversarial

Regression to the true next chunk answers with the mean of what may come, and the mean of means is a flat colour. Here worlds
walk freely, as in play, for up to a minute; a critic that knows controls, pitch and text tells their chunks from those of the
recordings, and the DiT learns to leave it nothing to tell by (adversarial post-training, Lin et al. 2025; on self-made pasts
as in Self Forcing, Huang et al. 2025). The loss pairs each dreamed token with the true one at its place (RpGAN with a
finite-difference R1, Huang et al. 2024, Lin et al. 2025). Ordinary training goes on beside it.
"""

import argparse
import copy

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

import data
import engine
from data import Episodes, pick, training_sets
from dit import CUT, Batches, Captions, draw_kind, evaluate, flops, regression, sheet
from export import load_model
from model import DiT, rms_norm
from walk import Walkers

LAYERS = 4  # of the DiT that the critic begins with
RATE, CRITIC_RATE = 3e-4, 1e-3  # of ordinary training it is 2e-3
HEAD_START = 40  # steps until the critic's word has its full weight
PROBE, PENALTY = 0.1, 0.25  # how far the critic's slope is measured, and its weight


class Critic(nn.Module):
    """The lower blocks of a DiT with a judgement per token."""

    def __init__(self, dit: DiT):
        super().__init__()
        self.dit = copy.deepcopy(dit)
        del self.dit.blocks[LAYERS:], self.dit.ada_out, self.dit.patch_out
        self.judge = nn.Linear(dit.c.dit.width, 1)
        nn.init.zeros_(self.judge.weight)

    def forward(self, z, controls, pitch, text, h, w):
        """Latents [B, T, N, C] of a clip -> how true each token looks [B, T, N], higher is truer."""
        dit = self.dit
        before = [F.pad(z, (0, 0, 0, 0, n, 0))[:, :-n] for n in (1, 2)]
        cond = dit.condition(torch.ones(z.shape[:2], device=z.device), controls, pitch, text)
        rope, cam, pos, focal = dit.geometry(controls, h, w)
        unforeseen = torch.zeros_like(z)
        x = dit.blocks(dit.patch_in(torch.cat([z, *before, unforeseen], -1)).float(), cond, rope, cam, pos, focal)
        return self.judge(rms_norm(x)).float().squeeze(-1)


@torch.no_grad()
def endure(dit, vcn, captions, episodes, device, worlds=4, windows=12):
    """How sharp worlds are after they walked freely for as long as the episodes tell: the gradient of the dreamed frames'
    last window over that of the true ones, 1 is as sharp."""
    state = torch.random.get_rng_state()
    torch.manual_seed(4)
    walkers = Walkers(dit, vcn, captions, episodes, worlds, 8, np.random.default_rng(4), device, windows)
    for _ in range(windows):
        true, dreamed, (controls, *_), _ = walkers.window(grad=False)
    torch.random.set_rng_state(state)
    grid = walkers.walks.h, walkers.walks.w
    slope = lambda z: vcn.decode(z, controls, *grid)[:, 1:].clamp(-1, 1).diff(dim=-1).abs().mean().item()  # noqa: E731
    return slope(dreamed) / slope(true)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    engine.arguments(p)
    data.arguments(p)
    p.add_argument("--model", required=True, help="model folder with the exported VCN, DiT and text encoder")
    p.add_argument("--walks", help="folder of long episodes that are never trained on: how sharp the model stays there")
    p.add_argument("--batch", type=int, default=4, help="clips of 6 chunks of ordinary training a step, over all processes")
    p.add_argument("--worlds", type=int, default=8, help="worlds that walk, over all processes")
    p.add_argument("--chunks", type=int, default=8, help="chunks that each world walks in a step")
    p.add_argument("--weight", type=float, default=0.25, help="of the critic's word against the error of ordinary training")
    args = p.parse_args()

    world = engine.World()
    torch.manual_seed(args.seed)
    c, vcn, dit = load_model(args.model, world.device)
    dit.requires_grad_(True)
    critic = Critic(dit)
    judge = engine.Optimizer(critic, world, CRITIC_RATE)
    run = engine.Run(args.out, dit, args, world, RATE, also={"critic": critic, "judge": judge})
    torch.manual_seed(args.seed + 1000 * run.step + world.rank)
    rng = np.random.default_rng([args.seed, run.step, world.rank])
    shared = np.random.default_rng([args.seed, run.step])
    sets, held_out = training_sets(args, c), Episodes(args.held_out, actions=c.actions)
    walks = [Episodes(args.walks, actions=c.actions)] if args.walks else []
    captions = Captions(args.model, [*sets, held_out, *walks])
    batches = Batches(vcn, captions, rng, world.device)
    walkers = Walkers(dit, vcn, captions, sets[0], args.worlds // world.size, args.chunks, rng, world.device)
    grid = c.height // c.patch, c.width // c.patch

    while run.running():
        # the critic first: true chunks above dreamed ones
        critic.requires_grad_(True)
        with world.precision():
            true, dreamed, steering, counts = walkers.window(grad=True)
            clips = torch.cat([true, dreamed.detach(), true + PROBE * torch.randn_like(true)])
            real, fake, near = critic(clips, *(torch.cat([s] * 3) for s in steering), *grid).chunk(3)
        mean = lambda x: (x * counts[..., None]).sum() / (counts.sum() * x.shape[-1]).clamp(min=1)  # noqa: E731
        told = mean(F.softplus(fake - real))
        (told + PENALTY / PROBE**2 * (near - real).square().mean()).backward()
        judge.step(run.rate())
        # then the DiT: dreamed chunks above true ones
        critic.requires_grad_(False)
        with world.precision():
            real, fake = critic(torch.cat([true, dreamed]), *(torch.cat([s] * 2) for s in steering), *grid).chunk(2)
        fooled = mean(F.softplus(real - fake)) * min(1, run.step / HEAD_START)
        # and ordinary training beside it
        _, chunks, clips, copies, _ = draw_kind(shared)
        clips = max(1, round(clips * args.batch / 4 / world.size))
        _, z, a, pitch, text, (h, w) = batches.draw(pick(sets, rng), clips, chunks, cut=CUT)
        with world.precision():
            loss, _, noise = regression(dit, vcn, z, z, a, pitch, text, h, w, copies)
        spent = flops(c, clips * world.size, chunks, copies) + flops(c, args.worlds, args.chunks, 3)
        run.update(loss + args.weight * fooled, spent,
                   {"loss": loss.item(), "noise": noise, "told": told.item(), "gap": mean(real - fake).item()})  # fmt: skip
        if run.step % 100 == 0 and world.rank == 0:
            figures = evaluate(run.ema, batches, held_out)
            for episodes in walks:
                figures["sharpness"] = endure(run.ema, vcn, captions, episodes, world.device)
            run.report(figures)
            sheet(run.ema, batches, held_out, run.folder / "rollout.png")
    run.save()
    if world.rank == 0:
        sheet(run.ema, batches, held_out, run.folder / "rollout.png")
        engine.plot(args.out, ["loss", "told", "held_next_psnr", "held_sharpness"])


if __name__ == "__main__":
    main()
