"""Teaches a DiT to break and place blocks, with weights that it has for that alone.

    python train/edits.py --model models/overworld --data data/build --held-out data/heldout --out runs/edits

What is broken or placed is a small part of few chunks: a stage that makes dreams likely (distill.py) hardly misses it, and one that weighs
it makes everything else soft. So the DiT stays as it is, and low-rank changes of its weights (LoRA, Hu et al. 2021) dream the chunk of an edit,
after what the DiT itself remembers of the past. That one chunk of a clip is all that is learned from, where it differs from what was foreseen.
"""

import argparse

import numpy as np
import torch

import data
import engine
from data import Episodes, to_float
from dit import Captions, foresee_flops
from export import load_model
from geometry import camera, edited
from lora import adapted
from sampler import louder
from walk import Mind, Walks, noised

RATE, RANK = 2e-3, 32
PASTS = (1, 2, 4, 8)  # chunks of a clip before the one of its edit
OWN, OF_THOSE = 0.5, 4  # of the clips so many of the last of those chunks are dreamed
COPIES = 3  # noisy copies of a chunk, the first of pure noise
NEW, OLD = 0.1, 0.2  # squared error of what was foreseen at which a token counts half; how much it counts where there is none


class Edits:
    """Clips of episodes that end with an edit: a block broken and a block placed in turn."""

    def __init__(self, episodes, per_chunk):
        self.episodes, self.per_chunk, self.of_kind = episodes, per_chunk, ([], [])
        for i, e in enumerate(episodes.items):
            for tick, kind in np.argwhere(episodes.controls(e)[:, 6:8] > 0):
                self.of_kind[kind].append((i, tick))

    def draw(self, rng, clips, chunks, mirror=True):
        """As `Episodes.clips`."""
        n, f, episodes, drawn = chunks * self.per_chunk, self.per_chunk, self.episodes, []
        for kind, name in ((0, "broken"), (1, "placed")):
            fitting = [(i, tick) for i, tick in self.of_kind[kind] if n - f <= tick <= len(episodes.items[i]["frames.npy"]) - f]
            if not fitting:
                raise SystemExit(f"error: no block is {name} after {n - f} frames of an episode: record some with `dream data --policy build`")
            for _ in range(kind, clips, 2):
                i, tick = fitting[rng.integers(len(fitting))]
                at = rng.integers(max(0, tick - n + 1), tick - n + f + 1)
                drawn.append(episodes.clip(i, at, chunks, f, rng, mirror and rng.random() < 0.5))
        frames, controls, captions, pitch = zip(*drawn)
        return torch.stack(frames), *(torch.from_numpy(np.stack(v)) for v in (controls, pitch)), list(captions)


class Lesson:
    """Worlds of a DiT in which `editor` dreams the edits."""

    def __init__(self, dit, editor, vcn, captions, clips, device):
        c = dit.c
        h, w = c.height // c.patch, c.width // c.patch
        self.walks, self.editor = Walks(dit, vcn, clips, h, w, device), Mind(editor, 1, h, w, device)
        self.vcn, self.captions, self.device = vcn, captions, device

    @torch.no_grad()
    def walk(self, frames, controls, pitch, captions, own):
        """Walks through clips up to their last chunk, of which it returns the true latents [B, N, C] and the steering as in `Walks.step`; of the
        chunks before, the last `own` are dreamed, but for the first."""
        walks, (controls, pitch) = self.walks, (v.to(self.device) for v in (controls, pitch))
        z = self.vcn.encode(to_float(frames).to(self.device), controls).float()
        steering, last = (controls, pitch, self.captions(captions), camera(controls)), z.shape[1] - 1
        walks.forget(range(len(z)))
        for t in range(last + 1):
            now = [s[:, t] for s in steering]
            now.append(walks.foresee(*now[:2]))
            if t == last:
                return z[:, t], now
            chunk, noise = z[:, t], torch.randn_like(z[:, t])
            if t > 0 and last - own <= t:
                edit, chunk = edited(now[0]), walks.step(*now, noise)
                if edit.any():
                    chunk = torch.where(edit[:, None, None], walks.step(*now, noise, self.editor), chunk)
            walks.commit(chunk, *now, torch.randn_like(chunk))

    def error(self, true, now, copies):
        """The squared error [copies, B, N] of the editor's answers to noisy copies of the next chunk true [B, N, C], and how much of its tokens is
        new [B, N], 0 to 1."""
        walks = self.walks
        tau = torch.rand(copies * len(true), device=self.device)
        tau[: len(true)] = 0
        noisy = noised(true.repeat(copies, 1, 1), tau)
        noisy[: len(true)] = louder(noisy[: len(true)], walks.unseen, walks.dit.c.patch)
        answers = walks.predict(noisy, tau, *now, self.editor, walks.mind.recalls(now[3], walks.age))
        surprise = (true - now[-1]).square().mean(-1)
        return (answers.unflatten(0, (copies, -1)) - true).square().mean(-1), surprise / (surprise + NEW)


@torch.no_grad()
@torch.random.fork_rng()
def evaluate(lesson, editor, edits, clips, total=64):
    """Errors from pure noise of what is new in the chunks of `total` held-out edits: holes, and blocks placed."""
    rng, lesson.editor.dit, was = np.random.default_rng(2), editor, lesson.editor.dit
    torch.manual_seed(2)
    errors = []
    for i in range(max(1, total // clips)):
        error, new = lesson.error(*lesson.walk(*edits.draw(rng, clips, 5, mirror=False), i % 2 * OF_THOSE), 1)
        errors.append((error[0] * new).sum(1) / new.sum(1))
    lesson.editor.dit = was
    broken = (clips + 1) // 2
    errors = torch.stack(errors)
    return {"broken": errors[:, :broken].mean().item(), "placed": errors[:, broken:].mean().item()}


def edit_flops(c, clips, past, own, copies, n=64):
    """FLOP of a step: a walk with so many chunks before the edit, of which `own` are dreamed, and the editor's copies with their gradients."""
    block = n * (12 * c.dit.width**2 * 2 + 8 * n * c.dit.width)
    walk = past * (block * (max(c.dit.temporal) + 1) + foresee_flops(c)) + own * block * c.steps * c.dit.layers
    return clips * (walk + foresee_flops(c) + 3 * copies * block * c.dit.layers)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    engine.arguments(p)
    data.arguments(p)
    p.add_argument("--model", required=True, help="model folder with the exported VCN, DiT and text encoder")
    p.add_argument("--batch", type=int, default=16, help="clips of a step, over all processes")
    args = p.parse_args()

    world = engine.World()
    torch.manual_seed(args.seed)
    c, vcn, dit = load_model(args.model, world.device)
    editor = adapted(dit, RANK)
    run = engine.Run(args.out, editor, args, world, RATE)
    torch.manual_seed(args.seed + 1000 * run.step + world.rank)
    rng = np.random.default_rng([args.seed, run.step, world.rank])
    shared = np.random.default_rng([args.seed, run.step])  # draws that all processes must share
    sets = [Episodes(*args.data, actions=c.actions, rephrased=True), Episodes(args.held_out, actions=c.actions)]
    captions = Captions(args.model, sets, world.device)
    edits, held_out = (Edits(episodes, c.frames_per_chunk) for episodes in sets)
    clips = max(2, args.batch // world.size)
    lesson = Lesson(dit, editor, vcn, captions, clips, world.device)
    while run.running():
        past, own = PASTS[shared.integers(len(PASTS))], OF_THOSE * int(shared.random() < OWN)
        with world.precision():
            error, new = lesson.error(*lesson.walk(*edits.draw(rng, clips, past + 1), own), COPIES)
            loss = (error * (OLD + new)).mean()
        loss.backward()
        spent = edit_flops(c, clips * world.size, past, min(own, past - 1), COPIES)
        run.update(spent, {"loss": loss.detach(), "noise": ((error[0] * new).sum() / new.sum()).detach()})
        if run.step % 100 == 0 and world.rank == 0:
            run.report(evaluate(lesson, run.ema, held_out, clips))
    run.save()
    if world.rank == 0:
        run.report(evaluate(lesson, run.ema, held_out, clips))
        engine.plot(args.out, ["loss", "noise", "held_broken", "held_placed"])


if __name__ == "__main__":
    main()
