"""What every training stage shares: processes, optimizer, schedule, checkpoints, log and progress."""

import atexit
import copy
import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from model import Config


class World:
    """This process among all (`torchrun` starts several; alone otherwise)."""

    def __init__(self):
        self.size = int(os.environ.get("WORLD_SIZE", 1))
        self.rank = int(os.environ.get("RANK", 0))
        cuda = torch.cuda.is_available()
        self.device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if cuda else "cpu")
        if self.size > 1:
            dist.init_process_group("nccl" if cuda else "gloo")
            if self.rank > 0:  # threads of PyTorch may abort a process that ends with them; the first one tells how it went
                atexit.register(lambda: os._exit(int(hasattr(sys, "last_value"))))

    def precision(self):
        """A context whose products are bfloat16 where the processor does those faster (twice here), else float32."""
        fast = self.device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
        return torch.autocast(self.device.type, torch.bfloat16, enabled=fast)

    def sum(self, tensors):
        """Sums the tensors over all processes, in place and in one message."""
        if self.size > 1:
            flat = torch._utils._flatten_dense_tensors(tensors)
            dist.all_reduce(flat)
            for t, s in zip(tensors, torch._utils._unflatten_dense_tensors(flat, tensors)):
                t.copy_(s)


class Replay:
    """A function of tensors whose kernels a GPU is given at once, from the second call with the same shapes and settings on (a CUDA
    graph); on a CPU the function itself.

    The function must not ask a GPU for numbers, and must change in place what it changes, gradients among it. It returns tensors.
    """

    pool = None  # of memory, which all share

    def __init__(self, function, device):
        self.function, self.cuda, self.graphs = function, device.type == "cuda", {}

    def __call__(self, *inputs, **settings):
        if not self.cuda:
            return self.function(*inputs, **settings)
        key = *(x.shape for x in inputs), *settings.items()
        if key not in self.graphs:  # what is made once is made now, and not in the graph
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                out = self.function(*inputs, **settings)
            torch.cuda.current_stream().wait_stream(stream)
            self.graphs[key] = None
            return out
        if self.graphs[key] is None:
            Replay.pool = Replay.pool or torch.cuda.graph_pool_handle()
            held, graph = [x.clone() for x in inputs], torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=Replay.pool):
                out = self.function(*held, **settings)
            self.graphs[key] = graph, held, out
        graph, held, out = self.graphs[key]
        for mine, given in zip(held, inputs):
            mine.copy_(given)
        graph.replay()
        return [x.clone() for x in out]  # the next graph overwrites them


def orthogonalize(m, steps=4):
    """The orthogonal factors of matrices [n, rows, columns], roughly, by Newton-Schulz iteration (Muon, Jordan et al. 2024)."""
    x = m / (m.norm(dim=(1, 2), keepdim=True) + 1e-7)
    wide = x.shape[1] <= x.shape[2]
    x = x if wide else x.mT
    for _ in range(steps):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x if wide else x.mT


class Optimizer:
    """Muon for matrices and convolutions, Adam for the rest (biases, scales, embedding tables). Matrices are shared out over the processes."""

    def __init__(self, model, world, lr):
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        self.matrices = [p for n, p in named if p.dim() in (2, 4) and min(p.shape[0], p[0].numel()) > 8 and "embeddings" not in n]
        chosen = {id(p) for p in self.matrices}
        self.rest = [p for _, p in named if id(p) not in chosen]
        self.alike = {}  # matrices of a shape are updated together
        for i, p in enumerate(self.matrices):
            self.alike.setdefault(p.flatten(1).shape, []).append(i)
        self.world, self.lr = world, lr
        self.momentum = [torch.zeros_like(p) for p in self.matrices]
        self.adam = torch.optim.Adam([{"params": self.rest}], lr=lr, betas=(0.9, 0.99))
        for p in self.matrices + self.rest:  # in the same place for good, as `Replay` needs it
            p.grad = torch.zeros_like(p)

    def step(self, scale):
        """One update with `scale` times the base learning rates; gradients are summed over processes first."""
        params = self.matrices + self.rest
        grads = [p.grad for p in params]
        self.world.sum(grads)
        if self.world.size > 1:
            torch._foreach_div_(grads, self.world.size)
        norm = torch.nn.utils.clip_grad_norm_(params, 1.0)
        if self.matrices:
            self._step_matrices(grads[: len(self.matrices)], scale)
        for group in self.adam.param_groups:
            group["lr"] = self.lr * scale
        self.adam.step()
        torch._foreach_zero_(grads)
        return float(norm)

    def _step_matrices(self, grads, scale):
        torch._foreach_lerp_(self.momentum, grads, 0.05)
        updates = [torch.zeros_like(p) for p in self.matrices]
        for shape, alike in self.alike.items():
            mine = alike[self.world.rank :: self.world.size]
            if mine:
                g = torch.stack([grads[i].lerp(self.momentum[i], 0.95).flatten(1) for i in mine])
                # the update's RMS is 0.2 of the learning rate, Adam's usual (Moonlight, Liu et al. 2025)
                with self.world.precision():
                    factors = orthogonalize(g).float() * 0.2 * max(shape) ** 0.5
                for i, factor in zip(mine, factors):
                    updates[i] = factor.view_as(updates[i])
        self.world.sum(updates)
        torch._foreach_add_([p.data for p in self.matrices], updates, alpha=-self.lr * scale)

    def state_dict(self):
        return {"momentum": self.momentum, "adam": self.adam.state_dict()}

    def load_state_dict(self, state):
        for m, s in zip(self.momentum, state["momentum"]):
            m.copy_(s)
        self.adam.load_state_dict(state["adam"])


class Run:
    """A training run in a folder that survives interruption.

    The schedule goes by the minutes spent training, over all sittings: a warm-up, constant to 60 % of `minutes`, then
    down to 2 %. `state.pt` is written every five minutes, at the end and when told to stop (SIGTERM); the same command
    resumes from it. A new run begins with the weights of `start`, if given. `also` names whatever else is to be found again, with a state dict.
    """

    def __init__(self, folder, model, args, world, lr, start=None, also=None):
        self.folder, self.model, self.args, self.world = Path(folder), model, args, world
        if start is not None:
            model.load_state_dict(start.state_dict())
        self.optimizer, self.also = Optimizer(model, world, lr), also or {}
        self.ema = copy.deepcopy(model).requires_grad_(False)
        self.step, self.elapsed, self.flops, self.stopped = 0, 0.0, 0.0, False
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "stopped", True))
        self.folder.mkdir(parents=True, exist_ok=True)
        state = self.folder / "state.pt"
        if state.exists():
            s = torch.load(state, map_location=world.device, weights_only=False)
            model.load_state_dict(s["model"])
            self.ema.load_state_dict(s["ema"])
            self.optimizer.load_state_dict(s["optimizer"])
            for name, thing in self.also.items():
                thing.load_state_dict(s[name])
            self.step, self.elapsed, self.flops = s["step"], s["elapsed"], s["flops"]
        self.begin = self.saved = time.time()
        self.before, self.flops_before, self.first_step = self.elapsed, self.flops, self.step

    def running(self):
        """False at the end of the schedule and when told to stop. Sets `progress`, 0 to 1, on which the processes agree."""
        progress = self.elapsed / (60 * self.args.minutes)
        if self.args.max_steps:
            progress = max(progress, self.step / self.args.max_steps)
        share = torch.tensor([1.0 if self.stopped else progress / self.world.size], device=self.world.device)
        self.world.sum([share])
        self.progress = share.item()
        return self.progress < 1

    def rate(self):
        """The present share of the base learning rate."""
        return min(1, (self.step + 1 - self.first_step) / 20, max(0.02, (1 - self.progress) / 0.4))

    def update(self, flops, parts):
        """Steps by the gradients and logs; `flops` were spent over all processes, `parts` are named figures to print."""
        norm = self.optimizer.step(self.rate())
        with torch.no_grad():
            decay = min(0.999, self.step / (self.step + 10))  # a mean over the last tenth of the run, and no more than 1000 steps
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.model.parameters()), 1 - decay)
        self.step += 1
        now = time.time()
        self.elapsed = self.before + now - self.begin
        self.flops += flops
        if self.world.rank == 0 and (self.step % 10 == 0 or self.step <= 3):
            rate = (self.flops - self.flops_before) / max(now - self.begin, 1) / 1e9
            parts = {name: float(part) for name, part in parts.items()}
            figures = " ".join(f"{k} {v:.4f}" for k, v in parts.items())
            left = self.args.minutes - self.elapsed / 60
            print(f"step {self.step} {figures} norm {norm:.2f} {rate:.0f} GFLOP/s {self.flops:.2e} FLOP, {left:.0f} min left", flush=True)
            self.log(parts)
        if now - self.saved > 300:
            self.save()

    def log(self, figures):
        with open(self.folder / "log.jsonl", "a") as f:
            f.write(json.dumps({"step": self.step, "minutes": self.elapsed / 60, "flops": self.flops, **figures}) + "\n")

    def report(self, figures):
        """Prints and logs figures on held-out seeds, as `held_…`."""
        figures = {f"held_{name}": value for name, value in figures.items()}
        print(" ".join(f"{name} {value:.3f}" for name, value in figures.items()), flush=True)
        self.log(figures)

    def save(self):
        self.saved = time.time()
        if self.world.rank == 0:
            s = {"model": self.model.state_dict(), "ema": self.ema.state_dict(), "optimizer": self.optimizer.state_dict(),
                 "step": self.step, "elapsed": self.elapsed, "flops": self.flops,
                 **{name: thing.state_dict() for name, thing in self.also.items()}}  # fmt: skip
            torch.save(s, self.folder / "state.tmp")
            os.replace(self.folder / "state.tmp", self.folder / "state.pt")


def arguments(parser):
    """The options that every stage has."""
    parser.add_argument("--out", required=True, help="folder of the run; the same folder resumes")
    parser.add_argument("--minutes", type=float, default=60, help="length of the schedule in minutes of training")
    parser.add_argument("--max-steps", type=int, default=0, help="end the schedule after this many steps, if sooner")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", help="config.json of another model size; default: overworld")


def config(args):
    """The model's config."""
    return Config.from_dict(json.load(open(args.config))) if args.config else Config()


def plot(folder, keys):
    """Draws the logged figures against FLOPs into curve.png."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [json.loads(line) for line in open(Path(folder) / "log.jsonl")]
    fig, axes = plt.subplots(1, len(keys), figsize=(4 * len(keys), 3))
    for ax, key in zip(axes if len(keys) > 1 else [axes], keys):
        points = [(r["flops"], r[key]) for r in rows if key in r]
        ax.plot(*zip(*points) if points else ([], []))
        ax.set(title=key, xlabel="FLOP", xscale="log")
    fig.tight_layout()
    fig.savefig(Path(folder) / "curve.png", dpi=90)
    plt.close(fig)
