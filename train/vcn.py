"""Trains the video compression network.

    python train/vcn.py --data data/train --held-out data/heldout --out runs/vcn --minutes 45
    torchrun --nproc_per_node 2 train/vcn.py ...
"""

import argparse

import numpy as np
import torch

import data
import engine
from data import Episodes, pick, to_float, training_sets
from export import load_model
from model import VCN

NOISE = 0.12  # on the latents while training, so that the decoder forgives the DiT small errors


def flops(c, chunks, h=8, w=8):
    """FLOP of a training step (forward and twice as much backward) over this many chunks."""
    n = h * w
    blocks = (c.encoder.layers + c.decoder.layers) * n * (12 * c.decoder.width**2 * 2 + 8 * n * c.decoder.width)
    cells = n * (c.patch // 4) ** 2
    convs = 8 * cells * 9 * c.stem**2 * 2
    linears = 4 * n * (c.patch // 4) ** 2 * c.stem * c.decoder.width
    return 3 * chunks * (blocks + convs + linears)


def loss_fn(out, frames):
    """Mean absolute and squared error, of the picture, its gradients, and the difference between a chunk's frames."""
    e = out - frames
    loss = e.abs().mean() + e.square().mean()
    for stride in (1, 2):
        for dim in (-1, -2):
            n = e.shape[dim] - stride
            loss = loss + 0.125 * (e.narrow(dim, stride, n) - e.narrow(dim, 0, n)).abs().mean()
    d = e[:, :, 1:] - e[:, :, :-1]
    return loss + d.abs().mean() + 4 * d.square().mean()


def psnr(mse):
    return -10 * np.log10(max(mse / 4, 1e-10))  # values span 2


@torch.no_grad()
def evaluate(model, episodes, device, clips=24):
    """Held-out figures on fixed clips: PSNR of all and of turning chunks, share of the in-chunk motion explained."""
    rng = np.random.default_rng(1)
    rows = []
    for _ in range(clips // 4):
        frames, controls, *_ = episodes.clips(rng, 4, 4, mirror=False)
        x, a = to_float(frames).to(device), controls.to(device)
        h, w = x.shape[-2] // model.c.patch, x.shape[-1] // model.c.patch
        y = model.decode(model.encode(x, a), a, h, w).clamp(-1, 1)
        mse = (y - x).square().mean((2, 3, 4, 5))
        dx, dy = x[:, :, 1] - x[:, :, 0], y[:, :, 1] - y[:, :, 0]
        turn = a[..., 4].abs().mean(-1) >= 1
        rows.append([t[:, 1:].flatten().cpu() for t in (mse, turn, (dy - dx).square().mean((2, 3, 4)), dx.square().mean((2, 3, 4)))])
    mse, turn, error, energy = (torch.cat(r) for r in zip(*rows))
    return {
        "psnr": psnr(mse.mean().item()),
        "psnr_clip": float(np.mean([psnr(m) for m in mse.tolist()])),
        "psnr_turning": psnr(mse[turn].mean().item()) if turn.any() else 0.0,
        "motion": 1 - (error.sum() / energy.sum()).item(),
    }


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    engine.arguments(p)
    data.arguments(p)
    p.add_argument("--batch", type=int, default=6, help="clips a step, over all processes")
    p.add_argument("--chunks", type=int, default=4, help="chunks a clip")
    args = p.parse_args()

    world = engine.World()
    torch.manual_seed(args.seed)
    c, start, _ = load_model(args.init) if args.init else (engine.config(args), None, None)
    model = VCN(c).to(world.device)
    run = engine.Run(args.out, model, args, world, 2e-3, start)
    rng = np.random.default_rng([args.seed, run.step, world.rank])
    sets, held_out = training_sets(args, c, world.device), Episodes(args.held_out, actions=c.actions)
    batch = args.batch // world.size

    while run.running():
        frames, a, *_ = pick(sets, rng).clips(rng, batch, args.chunks)
        x, a = to_float(frames).to(world.device), a.to(world.device)
        h, w = x.shape[-2] // c.patch, x.shape[-1] // c.patch
        z = model.encode(x, a)
        loss = loss_fn(model.decode(z + NOISE * torch.randn_like(z), a, h, w), x)
        loss.backward()
        run.update(flops(c, batch * world.size * args.chunks), {"loss": loss})
        if run.step % 100 == 0 and world.rank == 0:
            run.report(evaluate(run.ema, held_out, world.device))
    run.save()
    if world.rank == 0:
        engine.plot(args.out, ["loss", "held_psnr", "held_psnr_turning", "held_motion"])


if __name__ == "__main__":
    main()
