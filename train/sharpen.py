"""Sharpens the pictures of a trained VCN against a critic of patches.

    python train/sharpen.py --model models/overworld --data data/train --held-out data/heldout --out runs/sharpen --minutes 15

Regression draws the mean of the textures that a latent may stand for, which is none: one pass keeps three quarters of the edges,
and a world is drawn again and again. Here a critic tells drawn frames from true ones patch by patch, and the convolutions of
the decoder learn to leave it nothing to tell by (Esser et al. 2021).
Encoder and blocks stay as they are, so what knows their latents still does.
"""

import argparse

import numpy as np
import torch

import data
import engine
from critic import Critic
from data import Episodes, pick, to_float, training_sets
from export import load_model
from vcn import NOISE, evaluate, flops, loss_fn

LEARNS = "dec_token", "dec_res", "dec_out"
WEIGHT = 0.03  # of the critic's word
HEAD_START = 100  # steps until the critic's word has its full weight


def sharpness(frames):
    """Mean step of brightness between neighbours, of frames [..., 3, H, W]."""
    luma = (frames * torch.tensor([0.299, 0.587, 0.114], device=frames.device)[:, None, None]).sum(-3)
    across, down = luma.diff(dim=-1)[..., :-1, :], luma.diff(dim=-2)[..., :-1]
    return torch.hypot(across, down).mean().item()


@torch.no_grad()
def sharp(vcn, episodes, device):
    """Sharpness of held-out frames after one pass, and after ten, over their own."""
    frames, controls, *_ = episodes.clips(np.random.default_rng(1), 24, 1, mirror=False)
    x = to_float(frames).to(device)
    x, still = x[:, :, -1:].expand_as(x), torch.zeros_like(controls, device=device)
    own, ratios, grid = sharpness(x), [], (x.shape[-2] // vcn.c.patch, x.shape[-1] // vcn.c.patch)
    for _ in range(10):
        x = vcn.decode(vcn.encode(x, still), still, *grid).clamp(-1, 1)
        x = x[:, :, -1:].expand_as(x)
        ratios.append(sharpness(x) / own)
    return {"sharp_once": ratios[0], "sharp_ten_times": ratios[-1]}


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    engine.arguments(p)
    data.arguments(p)
    p.add_argument("--model", required=True, help="model folder with the exported VCN")
    p.add_argument("--batch", type=int, default=8, help="clips a step, over all processes")
    args = p.parse_args()

    world = engine.World()
    torch.manual_seed(args.seed)
    c, vcn, _ = load_model(args.model, world.device)
    for name, weight in vcn.named_parameters():
        weight.requires_grad_(name.startswith(LEARNS))
    critic = Critic().to(world.device)
    judge = engine.Optimizer(critic, world, 1e-3)
    run = engine.Run(args.out, vcn, args, world, 5e-4, also={"critic": critic, "judge": judge})
    torch.manual_seed(args.seed + 1000 * run.step + world.rank)
    rng = np.random.default_rng([args.seed, run.step, world.rank])
    sets, held_out = training_sets(args, c, world.device), Episodes(args.held_out, actions=c.actions)
    batch, chunks = args.batch // world.size, 2
    while run.running():
        frames, a, *_ = pick(sets, rng).clips(rng, batch, chunks)
        x, a = to_float(frames).to(world.device), a.to(world.device)
        h, w = x.shape[-2] // c.patch, x.shape[-1] // c.patch
        with world.precision():
            with torch.no_grad():
                z = vcn.encode(x, a)
                told = vcn.tell(z + NOISE * torch.rand(len(z), 1, 1, 1, device=z.device) * torch.randn_like(z), a, h, w)
            y = vcn.draw(told, a, h, w)
            loss = loss_fn(y, x)
            flat = lambda v: v.flatten(0, 2)  # noqa: E731
            critic.requires_grad_(True)
            lesson, told = critic.lesson(flat(x), flat(y))
            lesson.backward()
            judge.step(run.rate())
            critic.requires_grad_(False)
            fooled = critic.verdict(flat(x), flat(y)).mean() * min(1, run.step / HEAD_START)
        spent = flops(c, batch * world.size * chunks)
        (loss + WEIGHT * fooled).backward()
        run.update(spent, {"loss": loss, "told": told, "sharp": sharpness(y.detach()) / sharpness(x)})
        if run.step % 200 == 0 and world.rank == 0:
            run.report({**evaluate(run.ema, held_out, world.device), **sharp(run.ema, held_out, world.device)})
    run.save()
    if world.rank == 0:
        engine.plot(args.out, ["loss", "told", "sharp", "held_psnr"])


if __name__ == "__main__":
    main()
