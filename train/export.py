"""Writes a model folder that the runtime loads, and parity fixtures for its tests.

    python train/export.py --model models/overworld --vcn runs/vcn --dit runs/dit
    python train/export.py --model models/overworld --edits runs/edits
    python train/export.py --fixture tests/fixtures/parity
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from lora import adapted, changed, factors
from model import VCN, Config, DiT, TrunkConfig
from sampler import rollout

WORLDS = 8  # that a fixture is looked for in
OTHERS, ROUNDING = 8, 1e-6  # how often such a world is dreamed anew, with inputs so far off
STEADY = 3e-5  # how far each may come to lie from it, of its largest value: the runtime may be off by 1e-4


def load_model(folder, device="cpu"):
    """Config, VCN and DiT (None when there is none yet) of a model folder, for inference."""
    folder = Path(folder)
    c = Config.from_dict(json.loads((folder / "config.json").read_text()))
    models = []
    for name, kind in (("vcn", VCN), ("dit", DiT)):
        path = folder / f"{name}.safetensors"
        model = None
        if path.exists():
            model = kind(c)
            model.load_state_dict({k: v.float() for k, v in load_file(path).items()})
            model = model.to(device).eval().requires_grad_(False)
        models.append(model)
    return c, *models


def load_editor(folder, dit):
    """The DiT of a model folder where a block is broken or placed, or None if it is the same."""
    path = Path(folder) / "edits.safetensors"
    return changed(dit, {k: v.float() for k, v in load_file(path).items()}) if path.exists() else None


def write(folder, c, states, dtype=torch.float16):
    """Writes config.json and NAME.safetensors for each state dict."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(c.to_dict(), indent=1) + "\n")
    for name, state in states.items():
        state = {k: v.detach().to(dtype).contiguous().cpu() for k, v in state.items()}
        if not all(v.isfinite().all() for v in state.values()):
            raise SystemExit(f"error: {name} holds numbers that are not finite")
        save_file(state, folder / f"{name}.safetensors")


def small(folder):
    """Writes a small model with random weights to a folder. -> as of `load_model`."""
    torch.manual_seed(1)  # a world that does not blow rounding up: with 0 it grows a hundredfold in 16 chunks
    trunk = dict(width=32, heads=2)
    c = Config(name="parity", depth=True, width=48, height=32, latent=8, cond=16, stem=16, text=12,
               steps=2, first_steps=3, guidance=1.5, edit_rank=4,
               encoder=TrunkConfig(layers=1, temporal=[], offsets=[], **trunk),
               decoder=TrunkConfig(layers=2, temporal=[0, 1], offsets=[1], **trunk),
               dit=TrunkConfig(layers=3, temporal=[0, 1], offsets=[1, 2, 5, 9], **trunk))  # fmt: skip
    vcn, dit = VCN(c), DiT(c)
    for p in [*vcn.parameters(), *dit.parameters()]:
        p.data += 0.05 * torch.randn_like(p)
    # As wild as the pictures, rounding would grow with every chunk; and a part of the distance is bare.
    for p, by in (vcn.near_out.weight, 0.1), (vcn.near_out.bias, 0.1), (vcn.dec_out.weight, 0.1), (vcn.dec_out.bias, 0.1):
        p.data *= by
    editor = adapted(dit, c.edit_rank)
    for p in editor.parameters():
        p.data += 0.1 * torch.randn_like(p) * p.requires_grad
    edits = factors(editor.state_dict())
    write(folder, c, {"vcn": vcn.state_dict(), "dit": dit.state_dict(), "edits": edits}, torch.float32)
    return c, vcn, dit


@torch.no_grad()
def fixture(folder, model=None):
    """A rollout of 64 frames, stage by stage: of a small model with random weights, or of the model in a folder."""
    torch.manual_seed(0)
    c, vcn, dit = load_model(model) if model else small(folder)
    editor = load_editor(model or folder, dit)
    for _ in range(WORLDS):
        case, deviation = world(c, vcn, dit, editor)
        if deviation < STEADY:
            return save_file({k: v.contiguous() for k, v in case.items()}, Path(folder) / "case.safetensors")
        print(f"rounding alone makes this world another by {deviation:.1e} of its largest value: another one", flush=True)
    raise SystemExit(f"error: rounding alone makes each of {WORLDS} worlds another, so none can be compared")


def world(c, vcn, dit, editor):
    """A random world: what the runtime is given and what it must make of it, and how far others come to lie from that
    whose inputs differ by no more than rounding. A picture is kept in half precision, and which way one number of it is rounded
    may decide what is dreamed."""
    h, w, f, chunks, seen = c.height // c.patch, c.width // c.patch, c.frames_per_chunk, 64 // c.frames_per_chunk, 2
    frames = torch.rand(1, seen, f, 3, c.height, c.width) * 2 - 1
    a = torch.zeros(1, chunks, f, c.controls)
    a[..., 0] = torch.randint(-1, 2, (chunks // 4,)).repeat_interleave(4)[None, :, None]
    a[..., 1] = torch.randint(-1, 2, (chunks // 4,)).repeat_interleave(4)[None, :, None]
    a[..., 2:4] = (torch.rand(1, chunks, 1, 2) > 0.7).float()
    a[..., 4] = 6 * torch.randn(1, chunks // 4, 1).repeat_interleave(4, 1).clamp(-1, 1)
    a[..., 5] = torch.randn(1, chunks, 1)
    a[:, 18:31] = 0  # standing still, longer than key frames give way
    a[:, 6, -1, 6], a[:, 17, -1, 7] = 1, 1
    a[..., 8:] = torch.rand(1, chunks, f, c.controls - 8)
    pitch = torch.deg2rad(a[..., 5].flatten(1).cumsum(1)[:, f - 1 :: f])
    text = torch.randn(1, 2, c.text).repeat_interleave(chunks // 2, 1)
    text = text / text.norm(dim=-1, keepdim=True)
    noise, eps = torch.randn(1, chunks, h * w, c.latent), torch.randn(1, chunks, h * w, c.latent)
    first = vcn.encode(frames, a[:, :seen])
    latents = rollout(dit, vcn, first, a, pitch, text, noise, eps, h, w, editor)
    half = chunks // 2  # where the text changes and a new past begins
    parts = [vcn.decode(latents[:, part], a[:, part], h, w) for part in (slice(half), slice(half, None))]
    a3, pitch3, text3, noise3, eps3 = (v[:, :3] for v in (a, pitch, text, noise, eps))
    alone = rollout(dit, vcn, first[:, :0], a3, pitch3, text3, noise3, eps3, h, w)
    case = {
        "frames": frames[0], "controls": a[0], "text": text[0], "noise": noise[0], "context_eps": eps[0],
        "encoded": first[0], "latents": latents[0], "decoded": torch.cat(parts, 1)[0],
        "latents_no_past": alone[0],
    }  # fmt: skip
    others = lambda v: v.repeat(OTHERS, *[1] * (v.dim() - 1))  # noqa: E731
    rocked = lambda v: others(v) * (1 + ROUNDING * torch.randn(OTHERS, *v.shape[1:]))  # noqa: E731
    apart = rollout(dit, vcn, rocked(first), *map(others, (a, pitch, text)), rocked(noise), others(eps), h, w, editor) - latents
    return case, (apart.abs().max() / latents.abs().max()).item()


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", help="model folder to write")
    p.add_argument("--vcn", help="run of the VCN")
    p.add_argument("--dit", help="run of the DiT")
    p.add_argument("--edits", help="run of the edits")
    p.add_argument("--config", help="config.json, if not overworld's")
    p.add_argument("--fixture", help="folder to write a parity fixture to: of --model if given, else of a small random one")
    args = p.parse_args()
    runs = {"vcn": args.vcn, "dit": args.dit, "edits": args.edits}
    if any(runs.values()):
        states = {n: torch.load(Path(r) / "state.pt", map_location="cpu", weights_only=False)["ema"] for n, r in runs.items() if r}
        config = Path(args.config or Path(args.model) / "config.json")  # a model's settings outlive its weights
        c = Config.from_dict(json.loads(config.read_text())) if args.config or config.exists() else Config()
        if "vcn" in states:
            c = replace(c, depth="near_in.weight" in states["vcn"])
        if "edits" in states:
            states["edits"] = factors(states["edits"])
            c = replace(c, edit_rank=next(len(v) for k, v in states["edits"].items() if ".lora_A." in k))
        elif "dit" in states:  # changes are of the DiT that they were trained on
            c = replace(c, edit_rank=0)
            (Path(args.model) / "edits.safetensors").unlink(missing_ok=True)
        write(args.model, c, states)
    if args.fixture:
        Path(args.fixture).mkdir(parents=True, exist_ok=True)
        fixture(args.fixture, args.model)


if __name__ == "__main__":
    main()
