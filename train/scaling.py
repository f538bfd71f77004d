"""Draws how the error on held-out seeds falls with compute, for DiTs of several sizes on the same data: the curve of the Sora report.

    python train/scaling.py --model models/overworld --data data/train --held-out data/heldout --out runs/scaling --minutes 30

Each size is trained from nothing on clips alone, `--minutes` long, and measured whenever its steps have doubled.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import data
import engine
from data import Episodes, pick, training_sets
from dit import CUT, EDITS, Batches, Captions, Lessons, draw_kind, evaluate, flops
from export import load_model
from model import DiT

WIDTHS = (128, 256, 384)  # heads of 64
FIRST_LOOK = 50  # steps until the first measurement
CLIPS = 24  # of a measurement
ERRORS = {"held_first": "a chunk without a past", "held_turning": "the next chunk, turning", "held_other": "the next chunk, else"}


def points(folder, width):
    """What was measured of a size: dicts of `flops` and `held_…`."""
    rows = [json.loads(line) for line in (folder / str(width) / "log.jsonl").read_text().splitlines()]
    return [row for row in rows if "held_first" in row]


def frontier(curves, key):
    """The compute and error of all points that no cheaper one beats, [2, n]."""
    best, kept = float("inf"), []
    for spent, error in sorted((p["flops"], p[key]) for curve in curves.values() for p in curve):
        if error < best:
            best = error
            kept.append((spent, error))
    return np.array(kept).T


def power_law(spent, error):
    """Floor, factor and exponent of error = floor + factor * spent^-exponent, by least squares of logarithms over a grid of floors."""
    fits = []
    for floor in np.linspace(0, 0.98, 50) * error.min():
        (slope, start), residual, *_ = np.polyfit(np.log(spent), np.log(error - floor), 1, full=True)
        fits.append((residual.sum(), floor, np.exp(start), -slope))
    return min(fits)[1:]


def plot(folder):
    """Draws curve.png and prints the fits."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    curves = {width: points(folder, width) for width in WIDTHS}
    fig, axes = plt.subplots(1, len(ERRORS), figsize=(4.2 * len(ERRORS), 3.4))
    for ax, (key, title) in zip(axes, ERRORS.items()):
        for width, curve in curves.items():
            ax.plot([p["flops"] for p in curve], [p[key] for p in curve], "o-", ms=3, label=f"width {width}")
        spent, error = frontier(curves, key)
        floor, factor, exponent = power_law(spent, error)
        told = f"{floor:.3f} + {factor:.3g} FLOP$^{{-{exponent:.2f}}}$"
        print(f"{key}: {floor:.4f} + {factor:.4g} * FLOP^-{exponent:.3f} over {len(spent)} points")
        ax.plot(spent, floor + factor * spent**-exponent, "k--", lw=1, label=told)
        ax.set(title=f"error of {title}", xlabel="FLOP", xscale="log", yscale="log")
        ax.legend(fontsize=7)
    fig.tight_layout()
    fig.savefig(folder / "curve.png", dpi=90)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    engine.arguments(p)
    data.arguments(p)
    p.add_argument("--model", required=True, help="model folder with the exported VCN and text encoder")
    p.add_argument("--batch", type=int, default=4, help="clips of 6 chunks a step, over all processes; of other lengths in proportion")
    args = p.parse_args()

    world = engine.World()
    c, vcn, _ = load_model(args.model, world.device)
    sets, held_out = training_sets(args, c, world.device), Episodes(args.held_out, actions=c.actions)
    captions = Captions(args.model, [*sets, held_out], world.device)
    for width in WIDTHS:
        torch.manual_seed(args.seed)
        rng, shared = np.random.default_rng([args.seed, world.rank]), np.random.default_rng(args.seed)
        dit = DiT(replace(c, dit=replace(c.dit, width=width, heads=width // 64))).to(world.device)
        run = engine.Run(Path(args.out) / str(width), dit, args, world, 2e-3)
        batches, lessons, look = Batches(vcn, captions, rng, world.device), Lessons(world, vcn, dit), FIRST_LOOK
        while run.running():
            _, chunks, clips, copies, _ = draw_kind(shared)
            clips = max(1, round(clips * args.batch / 4 / world.size))
            _, z, a, pitch, text, grid = batches.draw(pick(sets, rng), clips, chunks, cut=CUT, edits=EDITS)
            loss, _, noise = lessons.of_clips(z, z, a, pitch, text, grid=grid, copies=copies)
            run.update(flops(dit.c, clips * world.size, chunks, copies), {"loss": loss, "noise": noise})
            if run.step >= look and world.rank == 0:
                run.report(evaluate(run.ema, batches, held_out, CLIPS))
                look *= 2
        run.save()
        if world.rank == 0:
            run.report(evaluate(run.ema, batches, held_out, CLIPS))
    if world.rank == 0:
        plot(Path(args.out))


if __name__ == "__main__":
    main()
