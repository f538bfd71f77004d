"""Teaches a DiT to dream in its few steps what it dreams in many.

    python train/distill.py --model models/overworld --data data/train data/long --held-out data/heldout --out runs/distill

Regression answers with the mean of what may come, few steps with nearly that, and a walk from mean to mean ends in a flat colour. Here
worlds walk freely, with the sampler that ships, and two more copies of the DiT watch: the teacher stays as it was and knows what should
come after such a past, the mimic learns what does come. Where they differ about a noised chunk, the DiT goes from what the mimic answers
to what the teacher does (distribution matching, Yin et al. 2024; on self-made pasts as in Self Forcing, Huang et al. 2025). Both are asked
twice: after this past, and as if the chunk had none, for a past that has faded lets even the teacher expect nothing but more of the same.
The nearer a walk still is to its recording, the more that counts instead. Ordinary training goes on beside it.
"""

import argparse
import copy

import numpy as np
import torch

import data
import engine
from data import Episodes, pick, training_sets
from dit import CUT, EDITED, Batches, Captions, Lessons, draw_kind, evaluate, flops, sheet, walk_flops
from engine import Replay
from export import load_model
from geometry import edited
from sharpen import sharpness
from walk import Walkers, noised, weigh

RATE, MIMIC_RATE = 2e-4, 1e-3
GUIDED = 1.5  # how far the teacher follows the words, over what it answers without
HEAD_START = 40  # steps until the mimic is believed
KEPT = 10  # how much the recording counts, beside the teacher
STRAYED = 0.1  # squared error of what was foreseen that halves the say of the recording
EDITS = 0.75  # of the clips of ordinary training show a block broken or placed
COPIES = 2  # noisy copies of each chunk that the mimic learns from
CHUNKS, FURTHEST = 4, 240  # that a world walks in a step, and before it begins anew


def difference(walks, teacher, mimic, z, now, alone):
    """The loss [B] whose gradient leads dreamed chunks z [B, N, C] from what the mimic makes of them, noised, to what the teacher does;
    steering `now` as in `Walks.step`, `alone` as in `Walks.predict`."""
    with torch.no_grad():
        tau = 0.02 + 0.96 * torch.rand(len(z), device=z.device)
        noisy = noised(z, tau)
        told = None if alone else teacher.recalls(now[3], walks.age)
        real = walks.predict(noisy, tau, *now, teacher, told, alone)
        wordless = [*now[:2], torch.zeros_like(now[2]), *now[3:]]
        without = walks.predict(noisy, tau, *wordless, teacher, told, alone)
        real = without + GUIDED * (real - without)
        made = walks.predict(noisy, tau, *now, mimic, alone=alone)
        lead = (real - made) / ((z - real).abs().mean((1, 2), keepdim=True) + 1e-3)
        goal = z + lead
    return 0.5 * (z - goal).square().mean((1, 2))


class Lesson:
    """What DiT and mimic learn from a chunk of every world: gradients, and the losses by teacher, by recording and of the mimic."""

    def __init__(self, world, walkers):
        self.world, self.walkers = world, walkers
        self.of_walks = Replay(self._walk, world.device)

    def _walk(self, true, controls, pitch, text, camera, given, known, trust):
        walks, (teacher, mimic) = self.walkers.walks, self.walkers.walks.watching
        own = (~known).float()
        with self.world.precision():
            now = controls, pitch, text, camera, walks.foresee(controls, pitch)
            z = walks.step(*now, torch.randn_like(true))
            edit = edited(controls)  # seen right after it or never, so the recording knows
            near = STRAYED * weigh(now[-1], true, STRAYED)
            after, alone = (difference(walks, teacher, mimic, z, now, lone) for lone in (False, True))
            match = (own * ~edit * (after + (1 - near) * alone)).mean()
            kept = (own * torch.where(edit, EDITED, 1) * near.square() * (z - true).square().mean((1, 2))).mean()
        ((trust * match + KEPT * kept) / self.walkers.chunks).backward()
        with self.world.precision():
            errors = [walks.error(z.detach(), *now, COPIES, mimic, lone) for lone in (False, True)]
            lesson = (own.repeat(COPIES) * (errors[0] + errors[1])).mean()
        (lesson / self.walkers.chunks).backward()
        with self.world.precision(), torch.no_grad():
            self.walkers.advance(z, now, given, known)
        return match.detach(), kept.detach(), lesson.detach()


@torch.no_grad()
@torch.random.fork_rng()
def endure(dit, vcn, captions, episodes, device, worlds=16, chunks=10):
    """How sharp worlds are that walk freely for as long as the episodes tell: the sharpness over the truth's of their last second, of
    the tenth, and of the worst of them in the last."""
    torch.manual_seed(4)
    windows = min(len(e["frames.npy"]) for e in episodes.items) // (chunks * dit.c.frames_per_chunk)
    walkers = Walkers(dit, vcn, captions, episodes, worlds, chunks, np.random.default_rng(4), device, windows)
    walks, ratios = walkers.walks, []

    def walk(controls, pitch, text, camera, given, known):
        now = controls, pitch, text, camera, walks.foresee(controls, pitch)
        return (walkers.advance(walks.step(*now, torch.randn_like(given)), now, given, known)[:, -1],)

    walk = Replay(walk, device)
    for _ in range(windows):
        for true, now, given, known in walkers.follow():
            (last,) = walk(*now, given, known)
        recorded = vcn.decode(true[:, None], now[0][:, None], walks.h, walks.w)[:, 0, -1]
        ratios.append([sharpness(a) / sharpness(b) for a, b in zip(last, recorded)])
    mean = [float(np.mean(r)) for r in ratios]
    return {"sharpness_10": mean[min(9, windows - 1)], "sharpness": mean[-1], "sharpness_worst": min(ratios[-1])}


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    engine.arguments(p)
    data.arguments(p)
    p.add_argument("--model", required=True, help="model folder with the exported VCN, DiT and text encoder")
    p.add_argument("--walks", help="folder of long episodes that are never trained on: how sharp the model stays there")
    p.add_argument("--batch", type=int, default=4, help="clips of 6 chunks of ordinary training a step, over all processes")
    p.add_argument("--worlds", type=int, default=8, help="worlds that walk, over all processes")
    args = p.parse_args()

    world = engine.World()
    torch.manual_seed(args.seed)
    c, vcn, dit = load_model(args.model, world.device)
    teacher = copy.deepcopy(dit)
    if args.init:
        dit.load_state_dict(load_model(args.init)[2].state_dict())
    mimic = copy.deepcopy(dit).requires_grad_(True)
    dit.requires_grad_(True)
    study = engine.Optimizer(mimic, world, MIMIC_RATE)
    run = engine.Run(args.out, dit, args, world, RATE, also={"mimic": mimic, "study": study})
    torch.manual_seed(args.seed + 1000 * run.step + world.rank)
    rng = np.random.default_rng([args.seed, run.step, world.rank])
    shared = np.random.default_rng([args.seed, run.step])
    sets, held_out = training_sets(args, c, world.device), Episodes(args.held_out, actions=c.actions)
    walks = [Episodes(args.walks, actions=c.actions)] if args.walks else []
    captions = Captions(args.model, [*sets, held_out, *walks], world.device)
    batches = Batches(vcn, captions, rng, world.device)
    walkers = Walkers(
        dit, vcn, captions, sets[0], args.worlds // world.size, CHUNKS, rng, world.device, furthest=FURTHEST, watching=(teacher, mimic)
    )
    lesson, lessons = Lesson(world, walkers), Lessons(world, vcn, dit, sharp=True)

    while run.running():
        trust = float(run.step >= HEAD_START)
        for true, now, given, known in walkers.follow():
            match, kept, learned = lesson.of_walks(true, *now, given, known, trust=trust)
        study.step(run.rate())
        _, chunks, clips, copies, _ = draw_kind(shared)
        clips = max(1, round(clips * args.batch / 4 / world.size))
        _, z, a, pitch, text, grid = batches.draw(pick(sets, rng), clips, chunks, cut=CUT, edits=EDITS)
        loss, _, noise = lessons.of_clips(z, z, a, pitch, text, grid=grid, copies=copies)
        spent = flops(c, clips * world.size, chunks, copies) + 3 * walk_flops(c, args.worlds, CHUNKS, COPIES)
        run.update(spent, {"loss": loss, "noise": noise, "match": match, "kept": kept, "mimic": learned})
        if run.step % 400 == 0 and world.rank == 0:
            run.report(evaluate(run.ema, batches, held_out))
            for episodes in walks:
                run.report(endure(run.ema, vcn, captions, episodes, world.device))
    run.save()
    if world.rank == 0:
        for episodes in walks:
            run.report(endure(run.ema, vcn, captions, episodes, world.device))
        sheet(run.ema, batches, held_out, run.folder / "rollout.png")
        engine.plot(args.out, ["loss", "match", "held_next_psnr", "held_sharpness"])


if __name__ == "__main__":
    main()
