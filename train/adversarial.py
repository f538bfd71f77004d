"""Sharpens a trained DiT on its own long walks, against a critic of pictures.

    python train/adversarial.py --model models/overworld --data data/train data/long --held-out data/heldout --out runs/adversarial

Regression to the true next chunk answers with the mean of what may come, and the mean of means is a flat colour. Here worlds
walk freely, as in play; a critic that knows the words tells their frames from those of the recordings, patch by patch, and the DiT
learns to leave it nothing to tell by (adversarial post-training, Lin et al. 2025; on self-made pasts as in Self Forcing, Huang et al.
2025). Where a walk is still near its recording, that counts too. Ordinary training goes on beside it.
"""

import argparse

import numpy as np
import torch

import data
import engine
from critic import Critic
from data import Episodes, pick, training_sets
from dit import CUT, EDITS, Batches, Captions, draw_kind, evaluate, flops, regression, sheet, walk_flops
from export import load_model
from sharpen import sharpness
from walk import FURTHEST, Walkers, weigh

RATE, CRITIC_RATE = 5e-4, 1e-3
JUDGED = 2  # chunks of each world whose picture is judged with a gradient
HEAD_START = 20  # steps until the critic's word has its full weight
STRAYED = 0.05  # squared error of what was foreseen that halves the say of the recording


def pictures(vcn, latents, controls, rows, at, grid):
    """The last frames [K, 3, H, W] of chunks `at` [K] of clips `rows` [K] of latents [B, T, N, C], with a gradient of those chunks
    alone."""
    pair = lambda v: torch.stack([v[rows, at - 1], v[rows, at]], 1)  # noqa: E731
    z = pair(latents)
    z = torch.stack([z[:, 0].detach(), z[:, 1]], 1)
    return vcn.decode(z, pair(controls), *grid)[:, 1, -1].clamp(-1, 1).float()


@torch.no_grad()
def endure(dit, vcn, captions, episodes, device, worlds=4, windows=12):
    """How sharp worlds are after they walked freely for as long as the episodes tell, over the truth: 1 is as sharp."""
    state = torch.random.get_rng_state()
    torch.manual_seed(4)
    walkers = Walkers(dit, vcn, captions, episodes, worlds, 8, np.random.default_rng(4), device, windows)
    for _ in range(windows):
        true, _, _, frames, (controls, *_), _ = walkers.window(grad=False)
    torch.random.set_rng_state(state)
    recorded = vcn.decode(true, controls, walkers.walks.h, walkers.walks.w)[:, :, -1]
    return sharpness(frames[:, 1:]) / sharpness(recorded[:, 1:])


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    engine.arguments(p)
    data.arguments(p)
    p.add_argument("--model", required=True, help="model folder with the exported VCN, DiT and text encoder")
    p.add_argument("--walks", help="folder of long episodes that are never trained on: how sharp the model stays there")
    p.add_argument("--batch", type=int, default=4, help="clips of 6 chunks of ordinary training a step, over all processes")
    p.add_argument("--worlds", type=int, default=8, help="worlds that walk, over all processes")
    p.add_argument("--chunks", type=int, default=8, help="chunks that each world walks in a step")
    p.add_argument("--weight", type=float, default=0.1, help="of the critic's word against the error of ordinary training")
    args = p.parse_args()

    world = engine.World()
    torch.manual_seed(args.seed)
    c, vcn, dit = load_model(args.model, world.device)
    dit.requires_grad_(True)
    critic = Critic(c.text).to(world.device)
    judge = engine.Optimizer(critic, world, CRITIC_RATE)
    run = engine.Run(args.out, dit, args, world, RATE, also={"critic": critic, "judge": judge})
    torch.manual_seed(args.seed + 1000 * run.step + world.rank)
    rng = np.random.default_rng([args.seed, run.step, world.rank])
    shared = np.random.default_rng([args.seed, run.step])
    sets, held_out = training_sets(args, c), Episodes(args.held_out, actions=c.actions)
    walks = [Episodes(args.walks, actions=c.actions)] if args.walks else []
    captions = Captions(args.model, [*sets, held_out, *walks])
    batches = Batches(vcn, captions, rng, world.device)
    walkers = Walkers(dit, vcn, captions, sets[0], args.worlds // world.size, args.chunks, rng, world.device, furthest=FURTHEST)
    grid = c.height // c.patch, c.width // c.patch

    while run.running():
        with world.precision():
            true, dreamed, foreseen, frames, (controls, _, text), own = walkers.window(grad=True)
            with torch.no_grad():
                recorded = vcn.decode(true, controls, *grid)[:, :, -1].clamp(-1, 1).float()
            critic.requires_grad_(True)
            lesson, told = critic.lesson(recorded[own], frames[own].clamp(-1, 1), text[own])
            lesson.backward()
            judge.step(run.rate())
            critic.requires_grad_(False)
            # a gradient through the decoder for some of them
            rows = torch.arange(len(true)).repeat(JUDGED)
            at = torch.from_numpy(rng.integers(1, args.chunks, len(rows)))
            drawn = pictures(vcn, dreamed, controls, rows, at, grid)
            fooled = (critic.verdict(recorded[rows, at], drawn, text[rows, at]) * own[rows, at]).mean() * min(1, run.step / HEAD_START)
            kept = (weigh(foreseen, true, STRAYED) * own * (dreamed - true).square().mean((2, 3))).mean()
        _, chunks, clips, copies, _ = draw_kind(shared)
        clips = max(1, round(clips * args.batch / 4 / world.size))
        _, z, a, pitch, text, (h, w) = batches.draw(pick(sets, rng), clips, chunks, cut=CUT, edits=EDITS)
        with world.precision():
            loss, _, noise = regression(dit, vcn, z, z, a, pitch, text, h, w, copies)
        spent = flops(c, clips * world.size, chunks, copies) + walk_flops(c, args.worlds, args.chunks, 1)
        figures = {"loss": loss, "kept": kept, "told": told, "fooled": fooled}
        run.update(loss + 0.2 * kept + args.weight * fooled, spent, {"noise": noise, **{k: v.item() for k, v in figures.items()}})
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
