"""Times published families at their real sizes, with random weights, beside their reference implementations in PyTorch.

    git clone https://github.com/etched-ai/open-oasis
    git clone https://github.com/Overworldai/world_engine
    cargo build --bin dream
    python train/bench_families.py oasis --reference open-oasis --dream target/debug/dream
    python train/bench_families.py oasis --reference open-oasis --dream target/debug/dream --width 512 --frames 32 --steps 1 --precisions
    python train/bench_families.py waypoint --reference world_engine --dream target/debug/dream

Upstream code is run where it lies and never copied; einops is needed. Both sides use f32, the same threads, the same weights
and the same inputs, and what they make of them is compared, on an otherwise idle machine. The reference takes minutes to
hours: with `--steps 1` whoever sees the past in every step does one of the ten steps of a frame, which counts ten times; and
8 bits and fewer are timed on that many steps beside f32.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from fixtures import oasis, waypoint

STEPS = 10
# Of DiT-S/2 and vit-l-20-shallow-encoder; the width is an argument.
DIT = {"input_h": 18, "input_w": 32, "patch_size": 2, "in_channels": 16, "depth": 16, "num_heads": 16, "max_frames": 32}  # fmt: skip
VAE = {"latent_dim": 16, "input_height": 360, "input_width": 640, "patch_size": 20, "enc_dim": 1024, "enc_depth": 6,
       "enc_heads": 16, "dec_dim": 1024, "dec_depth": 12, "dec_heads": 16}  # fmt: skip
# Latents that fill Waypoint's local memories, and those that are timed.
SEEN, LATENTS = 16, 1
# Runs a command and tells the most kilobytes that it had. A process of its own, because a child begins with its parent's.
PEAK = """import resource, subprocess, sys
subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"""


def seconds(run):
    begin = time.perf_counter()
    result = run()
    return time.perf_counter() - begin, result


def ours(args, folder, **changes):
    """What `dream verify` says of the fixture with these settings, by stage, and the most memory that it took, in GB."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, **changes}))
    command = [sys.executable, "-c", PEAK, args.dream, "verify", folder, "--threads", str(args.threads), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    path.write_text(json.dumps(config))
    stages, *memory = done.stdout.splitlines()
    if not memory:
        raise SystemExit(done.stderr.strip())
    return {stage["name"]: stage for stage in json.loads(stages)}, int(memory[0]) / 1e6


def row(name, time, base, error=None, memory=None):
    error, memory = "" if error is None else f"{error:.0e}", "" if memory is None else f"{memory:.2f}"
    print(f"| {name} | {time:.2f} | {time / base:.2f} | {error} | {memory} |", flush=True)


def head(title):
    a = torch.randn(2048, 2048)
    rate = 2 * 2048**3 / min(seconds(lambda: a @ a)[0] for _ in range(5)) / 1e9
    print(f"\n{title}; {torch.get_num_threads()} threads, PyTorch {torch.__version__}, its GEMM {rate:.0f} GFLOP/s\n")
    print("| | seconds | x ours | off by | most memory, GB |\n|---|---|---|---|---|", flush=True)


def flop(dit, past):
    """Of one pass over a frame behind so many others."""
    tokens, width = dit["input_h"] * dit["input_w"] // 4, dit["hidden_size"]
    return dit["depth"] * 2 * tokens * (24 * width**2 + 2 * width * tokens + 2 * width * (past + 1))


def run_oasis(args, folder):
    dit_config, frames, scale = {**DIT, "hidden_size": args.width}, args.frames, STEPS / args.steps
    dit, vae = oasis.networks(args.reference, dit_config, VAE)
    seeds, actions, noise = oasis.inputs(dit_config, 1, frames)
    head(f"Oasis of width {args.width}, {frames} frames, the first given, {STEPS} steps")
    denoise, latents = seconds(lambda: oasis.rollout(args.reference, dit, vae, seeds, actions, noise, args.steps))
    denoise *= scale
    rgb = torch.rand(1, 3, VAE["input_height"], VAE["input_width"])
    encoded = vae.encode(rgb * 2 - 1).mean
    vae.decode(encoded)
    decode, decoded = seconds(lambda: vae.decode(encoded))
    grid = encoded.transpose(1, 2).reshape(1, *seeds.shape[1:]) * oasis.SCALE
    case = {"seed_latents": seeds, "actions": actions, "noise": noise, "latents": latents, "vae_rgb_in": rgb,
            "vae_latents": grid, "vae_rgb_out": (decoded + 1) / 2}  # fmt: skip
    oasis.write(folder, {"dit": dit_config, "vae": VAE, "ddim_steps": args.steps}, dit, vae, case)
    del dit, vae

    exact, memory = ours(args, folder)
    error, few_steps = exact["denoising"]["error"], exact["denoising"]["seconds"]
    if args.steps != STEPS:
        exact, _ = ours(args, folder, ddim_steps=STEPS)
    base, picture = exact["denoising"]["seconds"], exact["decoding"]["seconds"]
    again, _ = ours(args, folder, context="recompute")
    row("ours", base, base, error, memory)
    row("ours, past seen in every step", scale * again["denoising"]["seconds"], base, again["denoising"]["error"])
    row("PyTorch, the reference's loop", denoise, base)
    row("ours, with decoding", base + frames * picture, base + frames * picture, exact["decoding"]["error"])
    row("PyTorch, with decoding", denoise + frames * decode, base + frames * picture)
    for precision in args.precisions:
        other, memory = ours(args, folder, precision=precision)
        slower = other["denoising"]["seconds"] / few_steps
        row(f"ours, {precision}", slower * base, base, other["denoising"]["error"], memory)
    made = range(1, frames)
    reference = STEPS * sum(flop(dit_config, past) for i in made for past in range(i + 1))
    needed = STEPS * sum(flop(dit_config, i) for i in made) + sum(flop(dit_config, i) for i in range(frames))
    print(f"\nThe reference's {reference / 1e12:.1f} TFLOP of denoising over our {needed / 1e12:.1f} are {reference / needed:.1f}.")


def run_waypoint(args, folder):
    config = waypoint.PUBLISHED
    model_class, cache_class = waypoint.load(args.reference)
    model = waypoint.network(model_class, config)
    seeds, controls, noise = waypoint.inputs(config, SEEN, LATENTS)
    cache = cache_class(argparse.Namespace(**config), batch_size=1, dtype=torch.float32)
    times = []

    def timed(*inputs, **named):
        time, result = seconds(lambda: model(*inputs, **named))
        times.append(time)
        return result

    passes = len(config["scheduler_sigmas"])
    head(f"Waypoint 1.5 at 360P, a pass with {SEEN} latents seen, the mean of {LATENTS * passes}")
    latents = waypoint.rollout(timed, cache, seeds, controls, noise)
    reference = statistics.mean(times[SEEN:])
    case = {"seed_latents": seeds, "controls": controls, "noise": noise, "latents": latents}
    waypoint.write(folder, config, model, case)
    del model, cache

    def a_pass(**changes):
        stages, memory = ours(args, folder, **changes)
        return stages["rollout"]["seconds"] / (LATENTS * passes), stages["rollout"]["error"], memory

    base, error, memory = a_pass()
    row("ours", base, base, error, memory)
    row("PyTorch", reference, base)
    for precision in args.precisions:
        time, error, memory = a_pass(precision=precision)
        row(f"ours, {precision}", time, base, error, memory)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("family", choices=("oasis", "waypoint"))
    p.add_argument("--reference", type=Path, required=True, help="folder of the upstream repository")
    p.add_argument("--dream", required=True, help="the dream tool")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--width", type=int, default=1024, help="of Oasis")
    p.add_argument("--frames", type=int, default=8, help="of Oasis")
    p.add_argument("--steps", type=int, default=STEPS, help="steps of an Oasis frame that the slow sides do")
    p.add_argument("--precisions", nargs="*", default=["int8", "q8", "q4"], help="to be timed beside f32")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        {"oasis": run_oasis, "waypoint": run_waypoint}[args.family](args, Path(folder))


if __name__ == "__main__":
    main()
