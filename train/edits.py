"""Teaches a DiT to break and place blocks, and to dream all else as it did.

    python train/edits.py --model models/overworld --data data/build --held-out data/heldout --out runs/edits

What is broken or placed is a small part of few chunks, and a stage that only makes dreams likely (distill.py) hardly misses it. Here the chunk
of an edit learns from the recording, and every other from the DiT as it was (learning without forgetting, Li & Hoiem 2016), so that
walks stay as sharp as they were. Half of the clips go on from an edit as the DiT itself makes it. Short clips (--chunks 4) teach edits
soonest; long ones (20, from a run of short ones) must follow: what is not kept of a long past is forgotten, and an edit fades. Worlds that
the DiT walks by itself go on beside them, asked as after their past and as if they had none, for what is kept for recordings alone is lost
where a walk has strayed from them.
"""

import argparse
import copy
from functools import partial

import numpy as np
import torch

import data
import engine
from data import Episodes, pick, training_sets
from dit import CONTEXT_NOISE, Batches, Captions, flops, walk_flops
from export import load_model
from geometry import edited, unedited
from model import EDIT_GUIDANCE, rms_norm
from walk import Walkers, noised

RATE = 5e-4
COPIES = 2  # noisy copies of each clip
# times as much counts the chunk in which a block is: a hole is a small part of the picture; and those after, or what breaks a block unmakes
# it in chunks in which nothing is broken
PLACED, BROKEN, AFTER = 3, 8, 6
KEPT = 4  # times as much counts what a world keeps that the DiT walks by itself: a minute adds up what is not
OWN = 0.5  # of the clips go on from edits as the DiT makes them
WORDLESS = 0.3  # of the chunks without a past have no words either, for guidance
WALKED, FURTHEST = 4, 240  # chunks that a world walks in a step, and before it begins anew


def lesson(model, before, vcn, z, controls, pitch, text, h, w, copies):
    """The loss of clips z [B, T, N, C] whose edits are learned from them and the rest from the DiT `before`; then the mean errors from pure noise
    in chunks of an edit, of `model` and `before`, and how far `model` is from `before` elsewhere."""
    rand = partial(torch.rand, device=z.device)
    edit = edited(controls)
    edit[:, 0] = False  # what was there before is not known
    context_tau = 1 - CONTEXT_NOISE * rand(z.shape[:2])
    with torch.no_grad():
        given = noised(z, context_tau), context_tau, torch.randn_like(z), torch.zeros_like(context_tau), vcn.foreseen(z, controls, pitch, h, w)
        with_it, without = (model(*given, a, pitch, text, h, w).float() for a in (controls, unedited(controls)))
        made = rms_norm(without + EDIT_GUIDANCE * (with_it - without))
        own = edit & (rand(len(z), 1) < OWN)
        past = torch.where(own[..., None, None], made, z)
        foreseen = vcn.foreseen(past, controls, pitch, h, w)
    edit = edit.repeat(copies, 1)
    tau = rand(copies * len(z), z.shape[1]) ** 1.3
    tau[: len(z)] = 0
    true = z.repeat(copies, 1, 1, 1)
    given = noised(past, context_tau), context_tau, noised(true, tau), tau, foreseen, controls, pitch, text, h, w
    with torch.no_grad():
        kept = before(*given).float()
    clean = model(*given).float()
    error = (clean - torch.where(edit[..., None, None], true, kept)).square().mean((2, 3))
    broken, after = edit & (controls[..., 6] > 0).any(-1).repeat(copies, 1), edit.cumsum(1) > 0
    loss = (error * torch.where(broken, BROKEN, torch.where(edit, PLACED, torch.where(after, AFTER, 1)))).mean()
    with torch.no_grad():
        blind = edit & (tau == 0)
        mean = lambda e, where: (e * where).sum() / where.sum().clamp(min=1)  # noqa: E731
        return loss, mean(error, blind), mean((kept - true).square().mean((2, 3)), blind), mean(error, ~edit)


def keeping(walks, now, noise):
    """The error against the DiT that watches [], over a chunk of every world as the DiT itself dreams it from `noise` [B, N, C], with a gradient;
    and the chunk [B, N, C]. Steering `now` as in `Walks.step`."""
    (before,) = walks.watching
    rand = partial(torch.rand, device=noise.device)
    with torch.no_grad():
        z = walks.step(*now, noise)
    loss = 0
    for alone in (False, True):
        tau = torch.where(rand(len(z)) < 0.5, 0, rand(len(z)))
        noisy, text, asked = noised(z, tau), now[2], ~edited(now[0])
        if alone:
            text, asked = torch.where(rand(len(z), 1) < WORDLESS, 0.0, text), torch.ones_like(asked)
        steering = *now[:2], text, *now[3:]
        with torch.no_grad():
            kept = walks.predict(noisy, tau, *steering, before, alone=alone)
        error = walks.predict(noisy, tau, *steering, alone=alone) - kept
        loss = loss + (error.square().mean((1, 2)) * asked).mean()
    return loss, z


@torch.no_grad()
@torch.random.fork_rng()
def evaluate(dit, before, batches, held_out, chunks, total=160):
    """Errors from pure noise in held-out chunks of an edit, of `dit` and `before`, over clips of `total` chunks together."""
    rng, batches.rng = batches.rng, np.random.default_rng(2)
    torch.manual_seed(2)
    errors = []
    for _ in range(max(1, total // chunks // 2)):
        _, z, a, pitch, text, grid = batches.draw(held_out, 2, chunks, mirror=False, edits=1.0)
        errors.append(torch.stack(lesson(dit, before, batches.vcn, z, a, pitch, text, *grid, 1)[1:]))
    batches.rng = rng
    return dict(zip(("edits", "before", "elsewhere"), torch.stack(errors).mean(0).tolist()))


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    engine.arguments(p)
    data.arguments(p)
    p.add_argument("--model", required=True, help="model folder with the exported VCN, DiT and text encoder")
    p.add_argument("--compile", action="store_true", help="torch.compile: some minutes to begin with, then a third faster")
    p.add_argument("--chunks", type=int, default=20, help="chunks a clip")
    p.add_argument("--batch", type=int, default=40, help="chunks of all clips of a step, over all processes")
    p.add_argument("--worlds", type=int, default=8, help="worlds that walk, over all processes")
    args = p.parse_args()

    world = engine.World()
    torch.manual_seed(args.seed)
    c, vcn, dit = load_model(args.model, world.device)
    before = copy.deepcopy(dit)
    if args.init:
        dit.load_state_dict(load_model(args.init)[2].state_dict())
    dit.requires_grad_(True)
    run = engine.Run(args.out, dit, args, world, RATE)
    torch.manual_seed(args.seed + 1000 * run.step + world.rank)
    rng = np.random.default_rng([args.seed, run.step, world.rank])
    sets, held_out = training_sets(args, c, world.device), Episodes(args.held_out, actions=c.actions)
    captions = Captions(args.model, [*sets, held_out], world.device)
    batches = Batches(vcn, captions, rng, world.device)
    compiled = partial(torch.compile, dynamic=False) if args.compile else lambda model: model
    model, was = compiled(dit), compiled(before)
    clips = max(1, args.batch // args.chunks // world.size)
    worlds = max(1, args.worlds // world.size)
    walkers = Walkers(dit, vcn, captions, sets[0], worlds, WALKED, rng, world.device, furthest=FURTHEST, watching=(before,))
    while run.running():
        _, z, a, pitch, text, grid = batches.draw(pick(sets, rng), clips, args.chunks, edits=1.0)
        with world.precision():
            loss, edits, unknown, elsewhere = lesson(model, was, vcn, z, a, pitch, text, *grid, COPIES)
        loss.backward()
        for true, now, given, known in walkers.follow():
            with world.precision():
                now = *now, walkers.walks.foresee(*now[:2])
                walked, z = keeping(walkers.walks, now, torch.randn_like(true))
            (KEPT * walked / WALKED).backward()
            with world.precision():
                walkers.advance(z, now, given, known)
        spent = flops(c, clips * world.size, args.chunks, COPIES) * 7 / 4 + 2 * walk_flops(c, worlds * world.size, WALKED, 2)
        run.update(spent, {"loss": loss.detach(), "edits": edits, "before": unknown, "elsewhere": elsewhere, "walked": walked.detach()})
        if run.step % 100 == 0 and world.rank == 0:
            run.report(evaluate(run.ema, before, batches, held_out, args.chunks))
    run.save()
    if world.rank == 0:
        run.report(evaluate(run.ema, before, batches, held_out, args.chunks))
        engine.plot(args.out, ["loss", "edits", "elsewhere", "walked", "held_edits"])


if __name__ == "__main__":
    main()
