"""Times the exported weights in PyTorch and ONNX Runtime beside our runtime: one table, all in one run.

    pip install onnx onnxscript onnxruntime
    cargo build --bin dream
    python train/bench_reference.py --model models/overworld --dream target/debug/dream
    cargo bench --profile dev --no-default-features --features cli --bench kernels -- linear
    python train/bench_reference.py --kernels target/criterion

Every round measures each of them in turn, on an otherwise idle machine; the table shows medians over the rounds. All
use f32 but for one row, the same number of threads, and a memory of earlier chunks that is full and kept between steps. The
second table is of single products on the model's shapes, as `benches/kernels.rs` has just timed them, and as others are now.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

from export import load_model
from geometry import CAMERA, CELL, camera, grid_positions, ground, look_up, motion, reckon, reproject
from model import control_features, rms_norm, rope_tables
from sampler import NEXT_GUIDANCE

# Rows, inputs and outputs of every kind of layer, and how many of it take turns: as in benches/kernels.rs.
LAYERS = {
    "qkv": (64, 256, 768), "proj": (64, 256, 256), "fc1": (64, 256, 1024), "fc2": (64, 1024, 256), "patch_in": (64, 96, 256),
    "patch_out": (64, 256, 32), "dec_out": (1024, 64, 144), "ada": (3, 128, 12288),
}  # fmt: skip
TURNS = 16


class Cached(nn.Module):
    """A trunk over one chunk, with the keys and values of earlier chunks and their biases at hand."""

    def __init__(self, trunk, tokens):
        super().__init__()
        self.blocks = trunk
        block = trunk[0]
        slots, shape = len(trunk.offsets), (block.heads, len(trunk.offsets) * tokens, block.head_dim)
        temporal = [i for i, block in enumerate(trunk) if block.flow is not None]
        past = [rms_norm(torch.randn(1, *shape)) for _ in range(2 * len(temporal))]
        for i, tensor in enumerate(past):
            self.register_buffer(f"past{i}", tensor)
        self.index = {layer: i for i, layer in enumerate(temporal)}
        self.slots = slots

    def bias(self, controls, pos, focal):
        """The flow biases, once a chunk."""
        cam = camera(controls)
        moved = motion(cam[:, -1:], cam[:, : self.slots])
        return [self.blocks[layer].flow(moved, pos, focal).flatten(-2) for layer in self.index]

    def forward(self, x, cond, rope, biases, layers=None):
        for layer, block in enumerate(list(self.blocks)[:layers]):
            memory = None
            if layer in self.index:
                i = self.index[layer]
                past = getattr(self, f"past{2 * i}"), getattr(self, f"past{2 * i + 1}"), biases[i]
                memory = lambda k, v, past=past: past  # noqa: E731
            x = block(x, cond, rope, memory)
        return x


class Step(nn.Module):
    """One denoising step of the DiT."""

    def __init__(self, dit, h, w):
        super().__init__()
        self.dit, self.trunk = dit, Cached(dit.blocks, h * w)
        self.rope = rope_tables(h, w, dit.c.dit.width // dit.c.dit.heads)

    def forward(self, x, before, foreseen, tau, controls, text, *biases):
        cond = self.dit.condition(tau, controls, torch.zeros(1), text)
        h = self.trunk(self.dit.patch_in(torch.cat([x, before, foreseen], -1)), cond, self.rope, biases)
        return self.dit.answer(h, cond, foreseen, torch.tensor(False))


class Chunk(nn.Module):
    """A whole chunk: foreseeing from one view, denoising, decoding, nearness, bytes, remembering."""

    def __init__(self, step, vcn, h, w):
        super().__init__()
        self.step, self.vcn, self.h, self.w = step, vcn, h, w
        self.decoder = Cached(vcn.dec_blocks, h * w)
        self.pos, self.focal = grid_positions(h, w)

    def forward(self, x, before, last, near, past_controls, controls, text):
        c, dit = self.vcn.c, self.step.dit
        now = reckon(controls)[0]
        last, near, then = (v.expand(len(now), *v.shape[1:]) for v in (last, near, torch.zeros(1, CAMERA)))
        seen, _, share = reproject(last, near, then, now)
        edge, _ = look_up(last, ground(now[:, 1], *last.shape[-2:], c.eye), then, now)
        seen = share * seen + (1 - share) * edge
        foreseen = self.vcn.encode(seen[None, None], controls[:, None])[:, 0]
        biases = self.step.trunk.bias(past_controls, self.pos, self.focal)
        for i in range(c.steps):
            tau = torch.full((1,), i / c.steps)
            clean = self.step(x, before, foreseen, tau, controls, text, *biases)
            if i == 0:
                without = self.step(x, before, foreseen, tau, controls, torch.zeros_like(text), *biases)
                clean = without + NEXT_GUIDANCE * (clean - without)
            x = x + (clean - x) / (c.steps - i)
        z = rms_norm(x)
        frames, near = self.decode(z, past_controls, controls)
        rgba = F.pad(((frames.clamp(-1, 1) + 1) * 127.5).byte(), (0, 0, 0, 0, 0, 1), value=255).permute(0, 2, 3, 1).contiguous()
        cond = dit.condition(torch.full((1,), 1 - c.context_noise), controls, torch.zeros(1), text)
        self.step.trunk(dit.patch_in(torch.cat([z, before, foreseen], -1)), cond, self.step.rope, biases, max(c.dit.temporal))
        return rgba, near

    def decode(self, z, past_controls, controls):
        v, h, w = self.vcn, self.h, self.w
        cond = F.silu(v.dec_control(control_features(controls)))
        rope = rope_tables(h, w, v.c.decoder.width // v.c.decoder.heads)
        x = self.decoder(v.dec_in(z), cond, rope, self.decoder.bias(past_controls, self.pos, self.focal))
        x, controls = x[:, None], controls[:, None]
        return v.draw(x, controls, h, w)[0, 0], v.nearness(x, controls, torch.zeros(1, 1), h, w)


def seconds(run, repeats=20):
    """The median time of a call."""
    run()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def session(path, threads):
    """ONNX Runtime's of a file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def products(rows, inputs, outputs, threads):
    """GFLOP/s of ONNX Runtime and of PyTorch at products of that shape whose weights take turns."""
    from onnx import TensorProto, helper, numpy_helper, save

    x, weights = torch.randn(rows, inputs), [torch.randn(inputs, outputs) for _ in range(TURNS)]
    nodes = [helper.make_node("MatMul", ["x", f"w{i}"], [f"y{i}"]) for i in range(TURNS)]
    made = [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, [rows, outputs]) for i in range(TURNS)]
    held = [numpy_helper.from_array(w.numpy(), f"w{i}") for i, w in enumerate(weights)]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, inputs])
    path = str(Path(tempfile.mkdtemp()) / "products.onnx")
    graph = helper.make_graph(nodes, "products", [given], made, held)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    onnx = session(path, threads)
    runs = lambda: onnx.run(None, {"x": x.numpy()}), lambda: [x @ w for w in weights]  # noqa: E731
    return [2 * TURNS * rows * inputs * outputs / seconds(run, 60) / 1e9 for run in runs]


def kernels(folder, threads):
    """Prints the table of single products; ours and candle's were timed by criterion."""
    print(f"GFLOP/s, {threads} threads\n")
    print("| layer | shape | ours | candle | ONNX Runtime | PyTorch | ours over candle | over ONNX Runtime |\n|---|---|---|---|---|---|---|---|")
    for name, shape in LAYERS.items():
        rates = []
        for whose in ("ours", "candle"):
            estimate = json.loads((folder / "linear" / whose / name / "new" / "estimates.json").read_text())
            rates.append(2 * shape[0] * shape[1] * shape[2] / estimate["median"]["point_estimate"])
        rates += products(*shape, threads)
        ours, candle, onnx, _ = rates
        cells = [f"{rate:.0f}" for rate in rates] + [f"{ours / candle:.2f}", f"{ours / onnx:.2f}"]
        print(f"| {name} | {'×'.join(map(str, shape))} | {' | '.join(cells)} |", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", help="model folder")
    p.add_argument("--dream", help="the dream tool")
    p.add_argument("--kernels", type=Path, help="what criterion has measured: then single products are compared instead")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=5)
    args = p.parse_args()
    if not args.kernels and not (args.model and args.dream):
        p.error("--model and --dream, or --kernels")

    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    if args.kernels:
        return kernels(args.kernels, args.threads)
    from onnxruntime.quantization import QuantType, quantize_dynamic

    c, vcn, dit = load_model(args.model)
    h, w = c.height // c.patch, c.width // c.patch
    step = Step(dit, h, w)
    chunk = Chunk(step, vcn, h, w)
    x, before = torch.randn(1, h * w, c.latent), torch.randn(1, h * w, 2 * c.latent)
    past_controls = torch.zeros(1, 1 + len(c.dit.offsets), c.frames_per_chunk, c.controls)
    controls, text = torch.zeros(1, c.frames_per_chunk, c.controls), torch.randn(1, c.text)
    biases = step.trunk.bias(past_controls, chunk.pos, chunk.focal)
    one = (x, before, torch.randn_like(x), torch.full((1,), 0.5), controls, text, *biases)
    last, near = torch.rand(1, 3, c.height, c.width), torch.rand(1, c.height // CELL, c.width // CELL)
    whole = (x, before, last, near, past_controls, controls, text)

    path = str(Path(tempfile.mkdtemp()) / "step.onnx")
    torch.onnx.export(step, one, path, dynamo=True)
    onnx = session(path, args.threads)
    feed = {i.name: t.numpy() for i, t in zip(onnx.get_inputs(), one)}
    error = abs(onnx.run(None, feed)[0] - step(*one).numpy()).max()
    if error > 1e-3:
        raise SystemExit(f"error: ONNX Runtime computes something else ({error:.1e} off)")
    quantize_dynamic(path, f"{path}.int8", weight_type=QuantType.QInt8)
    onnx8 = session(f"{path}.int8", args.threads)
    compiled_step, compiled_chunk = torch.compile(step), torch.compile(chunk)

    a = torch.randn(2048, 2048)
    peak = 2 * 2048**3 / seconds(lambda: a @ a, 5) / 1e9
    runs = {
        ("PyTorch eager", "step"): lambda: step(*one),
        ("PyTorch compiled", "step"): lambda: compiled_step(*one),
        ("ONNX Runtime", "step"): lambda: onnx.run(None, feed),
        ("ONNX Runtime, 8 bits", "step"): lambda: onnx8.run(None, feed),
        ("PyTorch eager", "chunk"): lambda: chunk(*whole),
        ("PyTorch compiled", "chunk"): lambda: compiled_chunk(*whole),
    }
    times = {key: [] for key in [*runs, ("ours", "step"), ("ours", "chunk")]}
    command = [args.dream, "bench", "--model", args.model, "--seconds", "4", "--threads", str(args.threads), "--json"]
    for _ in range(args.rounds):
        for key, run in runs.items():
            times[key].append(1e3 * seconds(run))
        ours = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        times["ours", "step"].append(ours["stage_ms"]["denoise"] / (ours["steps"] + 1))  # the first asks twice
        times["ours", "chunk"].append(ours["chunk_ms"]["p50"])

    print(f"{c.name}, {args.threads} threads, PyTorch's GEMM {peak:.0f} GFLOP/s\n")
    print("| | one DiT step, ms | x ours | whole chunk, ms | x ours |\n|---|---|---|---|---|")
    median = {key: statistics.median(values) for key, values in times.items()}
    for name in dict.fromkeys(name for name, _ in times):
        cells = []
        for part in ("step", "chunk"):
            value = median.get((name, part))
            cells += [f"{value:.1f}", f"{value / median['ours', part]:.2f}"] if value else ["", ""]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
