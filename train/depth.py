"""Teaches a trained VCN to tell how near the things in its frames are, from recordings that know it.

    python train/depth.py --model models/overworld --data data/train --held-out data/heldout --out runs/depth --minutes 10

The VCN itself stays as it is; only the head `near_…` on its decoder learns.
"""

import argparse
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

import data
import engine
from data import Episodes, pick, to_float, training_sets
from export import load_model
from geometry import CELL
from model import VCN
from vcn import NOISE

NEAREST = 0.5  # blocks: nothing counts as nearer


def flops(c, chunks, h=8, w=8):
    """FLOP of a training step over so many chunks: VCN forward, the head's block forward and backward."""
    n = h * w
    block = n * (12 * c.decoder.width**2 * 2 + 8 * n * c.decoder.width)
    return chunks * (block * (c.encoder.layers + c.decoder.layers + 3) + 4 * 2 * 16 * n * 9 * c.stem**2)


class Head:
    """What the head of a VCN answers to recorded clips, and what it should."""

    def __init__(self, vcn, device):
        self.vcn, self.device = vcn, device

    def errors(self, episodes, rng, clips, chunks, noise, **how):
        """Absolute errors [B, T, cells] of the nearness of clips' chunks but the first, as told and of flat ground."""
        frames, near, controls, pitch = episodes.near_clips(rng, clips, chunks, **how)
        x, near, a, pitch = to_float(frames).to(self.device), near.to(self.device), controls.to(self.device), pitch.to(self.device)
        true = F.avg_pool2d(near, CELL).clamp(max=1 / NEAREST)
        vcn, (h, w) = self.vcn, (x.shape[-2] // self.vcn.c.patch, x.shape[-1] // self.vcn.c.patch)
        with torch.no_grad():
            z = vcn.encode(x, a)
            told = vcn.tell(z + noise * torch.randn_like(z), a, h, w)
            flat = vcn.flat(pitch, h, w)
        error = lambda near: (near - true)[:, 1:].abs().flatten(2)  # noqa: E731
        return error(vcn.nearness(told, a, pitch, h, w)), error(flat)


@torch.no_grad()
def evaluate(head, episodes):
    """Mean absolute error on held-out clips, in the head's answers and if all were flat ground."""
    rng = np.random.default_rng(1)
    told, flat = zip(*(head.errors(episodes, rng, 4, 4, 0.0, mirror=False) for _ in range(6)))
    return {"error": torch.cat(told).mean().item(), "flat": torch.cat(flat).mean().item()}


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    engine.arguments(p)
    data.arguments(p)
    p.add_argument("--model", required=True, help="model folder with the exported VCN")
    p.add_argument("--batch", type=int, default=16, help="clips a step, over all processes")
    args = p.parse_args()

    world = engine.World()
    torch.manual_seed(args.seed)
    c, trained, _ = load_model(args.model, world.device)
    vcn = VCN(replace(c, depth=True)).to(world.device)
    vcn.load_state_dict(trained.state_dict(), strict=False)
    for name, weight in vcn.named_parameters():
        weight.requires_grad_(name.startswith("near_"))
    run = engine.Run(args.out, vcn, args, world, 2e-3)
    torch.manual_seed(args.seed + 1000 * run.step + world.rank)
    rng = np.random.default_rng([args.seed, run.step, world.rank])
    sets, held_out = training_sets(args, c, world.device), Episodes(args.held_out, actions=c.actions)
    batch, chunks = args.batch // world.size, 3
    while run.running():
        with world.precision():
            told, _ = Head(vcn, world.device).errors(pick(sets, rng), rng, batch, chunks, NOISE)
        loss = told.mean()
        loss.backward()
        run.update(flops(c, batch * world.size * chunks), {"loss": loss})
        if run.step % 200 == 0 and world.rank == 0:
            run.report(evaluate(Head(run.ema, world.device), held_out))
    run.save()
    if world.rank == 0:
        engine.plot(args.out, ["loss", "held_error"])


if __name__ == "__main__":
    main()
