"""Teaches the text encoder to say a scene as the DiT knows it, however it is worded.

    python train/words.py --model models/overworld --data data/train data/build --held-out data/heldout --out runs/words --minutes 28

A DiT knows a scene by the captions it was told; other words for it are embedded elsewhere, and it dreams something else of them. So first, in two
fifths of the time, the embedding of every scene is sought by which the DiT, left as it is, best tells recorded chunks from noise (textual
inversion, Gal et al. 2022). Then the encoder learns to embed so whatever means that scene: phrases of the corpus, and `prompts.tsv`, written for
this without sight of the evaluation's prompts. What means no scene stays where it was. Exports the encoder to the model folder.
"""

import argparse
import copy
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import data
import engine
from data import Episodes, to_float
from export import load_model
from text import DIM, TextEncoder, export_weights, pad
from text_corpus import BIOMES, TIMES, WEATHERS, corpus, eval_prompts, whole_words
from walk import noised

NAMES = [["-", *table] for table in (BIOMES, TIMES, WEATHERS)]  # of labels; the first: nothing is said
# a scene in the words of the captions, to begin with
PLAIN = [
    {
        "meadow": "a meadow with flowers and a few round trees", "forest": "a forest with oaks and birches and tall trees",
        "desert": "a desert with cacti and sand dunes", "snowfield": "a snowfield with dark firs and snow-covered fir trees",
        "badlands": "badlands with red mesas and striped cliffs", "shore": "a shore with palm trees and blue water",
    },
    {"dawn": "at dawn", "noon": "at noon", "sunset": "at sunset", "night": "at night"},
    {"clear": "in clear weather", "fog": "in fog", "rain": "in the rain", "snowfall": "while it snows"},
]  # fmt: skip
SAID, CLEAR_SAID = (0.88, 0.85, 0.88), 0.5  # how often a label is told; nobody says of every fine day that it is
SCENES_RATE, WORDS_RATE = 1e-3, 1e-3
SHARE = 0.4  # of the time, for the scenes
CHUNKS, PHRASES, PROMPTS = 48, 96, 64  # of a step
EVALUATED = 8  # steps' worth of held-out chunks
MISSED = 0.1  # of the words are not heard
HERE = Path(__file__).resolve().parent


class Scenes(nn.Module):
    """The embedding of every scene: its own, and what its biome, its time and its weather have in common with others'."""

    def __init__(self, encoder):
        super().__init__()
        sizes = [len(names) for names in NAMES]
        self.all = torch.cartesian_prod(*map(torch.arange, sizes))  # labels [S, 3]
        self.register_buffer("stride", torch.tensor([sizes[1] * sizes[2], sizes[2], 1]))
        self.embeddings = nn.ModuleList(nn.Embedding(n, DIM) for n in (*sizes, len(self.all)))
        for part in self.embeddings[:3]:
            nn.init.zeros_(part.weight)
        named = [[names[i] for names, i in zip(NAMES, labels)] for labels in self.all.tolist()]
        texts = [", ".join(table[name] for table, name in zip(PLAIN, labels) if name != "-") for labels in named]
        self.embeddings[3].weight.data.copy_(encoder.encode(texts))

    def forward(self, labels):
        """Labels [N, 3], numbers in NAMES -> unit vectors [N, DIM]."""
        parts = sum(part(labels[:, i]) for i, part in enumerate(self.embeddings[:3]))
        return F.normalize(parts + self.embeddings[3]((labels * self.stride).sum(-1)), dim=-1)


def numbers(labels):
    """Names of a biome, a time and a weather, `-` where nothing is said -> their numbers in NAMES."""
    return [names.index(label) for names, label in zip(NAMES, labels)]


def fresh(run):
    """Seeds torch, and gives a generator, as nobody has them at this step of the run."""
    seed = [run.args.seed, run.step, run.world.rank]
    torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    return np.random.default_rng(seed)


def draw(episodes, rng, batch, per_chunk):
    """Lone chunks at any time: frames [B, 1, F, 3, H, W], controls [B, 1, F, names], pitch [B, 1] and what is told of their scenes [B, 3]."""
    clips, labels = [], []
    for i in rng.choice(len(episodes.items), batch):
        episode = episodes.items[i]
        at = rng.integers(len(episode["frames.npy"]) - per_chunk + 1)
        scene = next(s for s in reversed(episode["json"]["scenes"]) if s["tick"] < at + per_chunk)
        scene = [scene[key] for key in ("biome", "time", "weather")]
        said = rng.random(3) < (*SAID[:2], CLEAR_SAID if scene[2] == "clear" else SAID[2])
        clips.append(episodes.clip(i, at, 1, per_chunk, rng, rng.random() < 0.5))
        labels.append([n if told else 0 for n, told in zip(numbers(scene), said)])
    frames, controls, _, pitch = zip(*clips)
    controls, pitch = (torch.from_numpy(np.stack(v)) for v in (controls, pitch))
    return torch.stack(frames), controls, pitch, torch.tensor(labels)


def error(dit, vcn, scenes, episodes, rng, world):
    """How far `dit` is from recorded chunks at any noise, told their scenes by each of several `scenes`; with a gradient of these."""
    frames, controls, pitch, labels = (t.to(world.device) for t in draw(episodes, rng, CHUNKS, dit.c.frames_per_chunk))
    with torch.no_grad():
        z = vcn.encode(to_float(frames), controls)
        tau = torch.rand(z.shape[:2], device=z.device) ** 2  # as the levels of a first picture
        noisy, nothing = noised(z, tau), torch.zeros_like(z)
    grid = frames.shape[-2] // dit.c.patch, frames.shape[-1] // dit.c.patch
    errors = []
    for some in scenes:
        with world.precision():
            clean = dit(nothing, torch.ones_like(tau), noisy, tau, nothing, controls, pitch, some(labels)[:, None], *grid)
        errors.append((clean.float() - z).square().mean())
    return errors


def invert(scenes, dit, vcn, episodes, held_out, run, world):
    """Seeks the embeddings by which `dit` predicts recorded chunks best, averaged in `run.ema`."""
    begun, rng = copy.deepcopy(scenes).requires_grad_(False), fresh(run)
    while run.running():
        (loss,) = error(dit, vcn, [scenes], episodes, rng, world)
        loss.backward()
        run.update(3 * flops_alone(dit) * CHUNKS * world.size, {"loss": loss.detach()})
    run.save()
    if world.rank == 0:
        torch.manual_seed(2)
        rng = np.random.default_rng(2)
        with torch.no_grad():
            errors = torch.tensor([error(dit, vcn, [run.ema, begun], held_out, rng, world) for _ in range(EVALUATED)])
        run.report(dict(zip(("sought", "plain"), errors.mean(0).tolist())))


def flops_alone(dit):
    """Of a lone chunk through the DiT."""
    tokens = (dit.c.height // dit.c.patch) * (dit.c.width // dit.c.patch)
    return 2 * tokens * sum(p.numel() for p in dit.blocks.parameters() if p.dim() == 2)


def read(path):
    """Prompts and their labels [N, 3] of a file as `assets/eval_prompts.tsv` is one."""
    rows = [line.split("\t") for line in Path(path).read_text().splitlines()]
    asked = {row[0].lower() for row in eval_prompts()}
    if any(row[0].lower() in asked for row in rows):
        raise SystemExit(f"error: {path}: prompts of the evaluation are not to be trained on")
    return [row[0] for row in rows], torch.tensor([numbers(row[1:]) for row in rows])


@torch.no_grad()
def understood(encoder, scenes, prompts, labels):
    """The share of what prompts tell that the scene with the nearest embedding tells, too."""
    whole = scenes.all[(scenes.all > 0).all(1)]
    nearest = whole[(encoder.encode(prompts) @ scenes(whole).T).argmax(1)]
    asked = labels > 0
    return float((nearest == labels)[asked].float().mean())


def reword(encoder, scenes, run, world):
    """Trains the encoder's weights, in place and averaged in `run.ema`, to embed as `scenes` whatever means one."""
    phrases, named = corpus(whole_words(encoder.tokenizer), scenes=34_000, negations=4_000, general=16_000)
    prompts, labels = read(HERE / "prompts.tsv")
    ids = lambda texts: [e.ids for e in encoder.tokenizer.encode_batch(texts)]  # noqa: E731
    with torch.no_grad():
        target = encoder.encode(phrases)
        meant = [i for i, names in enumerate(named) if names]
        target[meant] = scenes(torch.tensor([numbers(named[i]) for i in meant]))
        sets = [(ids(phrases), target, PHRASES), (ids(prompts), scenes(labels), PROMPTS)]
    weights = sum(p.numel() for p in encoder.model.encoder.parameters())
    model, rng = encoder.model.train(), fresh(run)
    while run.running():
        chosen = [(tokens, target, rng.integers(len(tokens), size=n)) for tokens, target, n in sets]
        tokens, mask = pad([tokens[i] for tokens, _, rows in chosen for i in rows])
        target = torch.cat([target[rows] for _, target, rows in chosen])
        heard = mask & (torch.rand(mask.shape) >= MISSED)
        heard[:, 0] = True
        loss = 1 - (model(tokens, heard) * target).sum(-1).mean()
        loss.backward()
        run.update(6 * weights * int(mask.sum()) * world.size, {"loss": loss.detach()})
    run.save()
    model.load_state_dict(run.ema.state_dict())
    model.eval()


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    engine.arguments(p)
    data.arguments(p)
    p.add_argument("--model", type=Path, required=True, help="model folder, whose text encoder is trained and written anew")
    args = p.parse_args()

    world = engine.World()
    torch.manual_seed(args.seed)
    c, vcn, dit = load_model(args.model, world.device)
    dit.requires_grad_(False)
    encoder, out = TextEncoder(args.model), Path(args.out)
    sets = [Episodes(*folders, actions=c.actions) for folders in (args.data, [args.held_out])]
    if not all("scenes" in e["json"] for episodes in sets for e in episodes.items):
        raise SystemExit("error: not every recording tells its scenes: take those of `cargo run --bin dream -- data`")
    held_out = read(HERE / "prompts_heldout.tsv")

    scenes = Scenes(encoder).to(world.device)
    part = lambda share: Namespace(**{**vars(args), "minutes": args.minutes * share})  # noqa: E731
    run = engine.Run(out / "scenes", scenes, part(SHARE), world, SCENES_RATE)
    invert(scenes, dit, vcn, *sets, run, world)
    scenes = run.ema.cpu()
    before = understood(encoder, scenes, *held_out)

    run = engine.Run(out / "encoder", encoder.model, part(1 - SHARE), world, WORDS_RATE)
    reword(encoder, scenes, run, world)
    if world.rank == 0:
        export_weights(encoder.model, args.model)
        run.report({"before": before, "understood": understood(TextEncoder(args.model), scenes, *held_out)})


if __name__ == "__main__":
    main()
