"""The overworld model, once: a video compression network (VCN) and a block-causal diffusion transformer (DiT).

Shapes: B clips, T chunks, N = h*w tokens of a chunk's latent grid, D channels. A chunk is `frames_per_chunk`
frames and their controls. Runtime twin: `src/model/` (state_dict names are the safetensors keys there).
"""

import math
from dataclasses import asdict, dataclass, field, replace

import torch
import torch.nn as nn
import torch.nn.functional as F

from geometry import CELL, MOTION, Views, camera, edited, grid_positions, ground, motion, pitched, reckon, turned, warp


@dataclass
class TrunkConfig:
    """A stack of transformer blocks."""

    width: int = 256
    heads: int = 4
    layers: int = 8
    temporal: list[int] = field(default_factory=lambda: [1, 3, 5])  # layers that also see earlier chunks
    offsets: list[int] = field(default_factory=lambda: [1, 2, 3, 5, 8, 12, 18])  # how many chunks back


@dataclass
class Config:
    """Everything that decides shapes; `config.json` of a model folder."""

    family: str = "dream"
    name: str = "overworld"
    width: int = 128  # pixels, the size trained at
    height: int = 128
    fps: float = 20.0
    eye: float = 1.62  # blocks above the ground, or 0: walking moves nothing in view (a camera that stands)
    depth: bool = False  # whether the VCN tells how near things are (train/depth.py); else all is flat ground
    patch: int = 16  # pixels across a token
    frames_per_chunk: int = 2
    controls: int = 8  # numbers a tick: those of `Controls::to_vector`, then `actions`
    actions: list[str] = field(default_factory=list)  # what a recorded game has beyond walking
    text: int = 384
    latent: int = 32
    cond: int = 128
    stem: int = 64  # channels of the convolutional part of the VCN, at a quarter of the frame's size
    encoder: TrunkConfig = field(default_factory=lambda: TrunkConfig(layers=2, temporal=[], offsets=[]))
    decoder: TrunkConfig = field(default_factory=lambda: TrunkConfig(layers=4, temporal=[0, 1, 2, 3], offsets=[1]))
    dit: TrunkConfig = field(default_factory=TrunkConfig)
    edit_rank: int = 0  # of the changes of the DiT's weights where a block is broken or placed (train/edits.py); 0 is none
    steps: int = 2
    first_steps: int = 8
    guidance: float = 2.0  # of a chunk without a past; above 1 later ones are guided, too
    context_noise: float = 0.1
    precision: str = "f32"  # or int8: of the blocks of DiT and decoder at run time, on a CPU

    @classmethod
    def from_dict(cls, d):
        trunks = {k: TrunkConfig(**d[k]) for k in ("encoder", "decoder", "dit")}
        return cls(**{**d, **trunks})

    to_dict = asdict


def rms_norm(x):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


def modulate(x, shift, scale):
    return rms_norm(x) * (1 + scale) + shift


def rope_tables(h, w, head_dim, device=None):
    """cos, sin [N, head_dim/2] of a 2-D rotary embedding: a half of the pairs turns with x, the other with y."""
    n = head_dim // 4
    freqs = 100.0 ** (-torch.arange(n, device=device) / n)
    y, x = torch.meshgrid(torch.arange(h, device=device), torch.arange(w, device=device), indexing="ij")
    angles = torch.cat([x.reshape(-1, 1) * freqs, y.reshape(-1, 1) * freqs], -1)
    return angles.cos(), angles.sin()


def rotate(x, rope):
    """x [..., N, heads, head_dim], pairs (i, i + head_dim/2)."""
    cos, sin = (t.unsqueeze(1) for t in rope)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Flow(nn.Module):
    """Attention bias from camera motion to a cached chunk: -alpha |pos_k - target_q|^2 + slot.

    The target of a query is where its content was, a displacement linear in the motion; for a rotation and for a
    ground plane it is a quadratic polynomial of the image position, hence the basis. Heads differ in depth.
    """

    def __init__(self, heads, slots):
        super().__init__()
        weight = torch.zeros(heads, MOTION, 6, 2)  # basis 1, x, y, x^2, xy, y^2
        weight[:, 0, 0, 0] = weight[:, 0, 3, 0] = weight[:, 0, 4, 1] = 1  # yaw right: content came from the right
        weight[:, 1, 0, 1] = weight[:, 1, 5, 1] = weight[:, 1, 4, 0] = -1  # pitch up: content came from above
        for head in range(heads // 2):  # half of the heads start on the ground plane, the others far away
            weight[head, 2, 4, 0] = weight[head, 2, 5, 1] = -0.3
            weight[head, 3, 2, 0] = 0.3
        self.weight = nn.Parameter(weight)
        self.log_alpha = nn.Parameter(torch.linspace(math.log(2), math.log(0.3), heads))
        self.slot = nn.Parameter(torch.zeros(heads, slots))

    def forward(self, motion, pos, focal):
        """motion [..., S, MOTION] to each of S slots -> bias [..., heads, N, S, N]."""
        with torch.autocast(pos.device.type, enabled=False):  # a small difference of large numbers
            return self.bias(motion, pos, focal)

    def bias(self, motion, pos, focal):
        x, y = pos.unbind(-1)
        basis = torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], -1)
        shift = torch.einsum("...sm,hmbc,nb->...hnsc", motion, self.weight, basis)
        target = focal * (pos[:, None, :] + shift)
        key = focal * pos
        alpha = self.log_alpha.exp()[:, None, None]
        q = torch.cat([2 * alpha[..., None] * target, -alpha[..., None].expand(*target.shape[:-1], 1)], -1)
        k = torch.cat([key, key.square().sum(-1, keepdim=True)], -1)
        return q @ k.T + (self.slot[:, None, : motion.shape[-2]] - alpha * target.square().sum(-1)).unsqueeze(-1)


# --- blocks -----------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """A DiT block (Peebles & Xie 2023, adaLN-Zero) with QK-norm, whose attention may also see earlier chunks."""

    def __init__(self, c: TrunkConfig, cond, temporal):
        super().__init__()
        self.heads, self.head_dim = c.heads, c.width // c.heads
        self.ada = nn.Linear(cond, 6 * c.width)
        self.qkv = nn.Linear(c.width, 3 * c.width, bias=False)
        self.q_norm = nn.Parameter(torch.ones(self.head_dim))
        self.k_norm = nn.Parameter(torch.ones(self.head_dim))
        self.proj = nn.Linear(c.width, c.width, bias=False)
        self.fc1 = nn.Linear(c.width, 4 * c.width)
        self.fc2 = nn.Linear(4 * c.width, c.width)
        self.flow = Flow(c.heads, len(c.offsets)) if temporal else None
        nn.init.zeros_(self.ada.weight)
        nn.init.zeros_(self.ada.bias)
        with torch.no_grad():  # gates start at one, so that no layer has to wake up first
            self.ada.bias.view(6, -1)[[2, 5]] = 1

    def keys(self, x, ada, rope):
        """q, k, v [..., N, heads, head_dim] of the modulated input."""
        h = modulate(x, ada[0], ada[1])
        q, k, v = self.qkv(h).unflatten(-1, (3, self.heads, self.head_dim)).unbind(-3)
        return rotate(rms_norm(q) * self.q_norm, rope), rotate(rms_norm(k) * self.k_norm, rope), v

    def forward(self, x, cond, rope, memory=None):
        """x [..., N, D], cond [..., cond]; memory(k, v) -> earlier keys, values [..., S, N, heads, head_dim] and the
        flow bias [..., heads, N, S*N]."""
        ada = self.ada(cond).unsqueeze(-2).chunk(6, -1)
        q, k, v = self.keys(x, ada, rope)
        q, k, v = (t.transpose(-2, -3) for t in (q, k, v))  # [..., heads, N, head_dim]
        scores = q @ k.transpose(-1, -2) * self.head_dim**-0.5
        if memory is not None:
            mk, mv, bias = memory(k, v)
            past = q @ mk.transpose(-1, -2) * self.head_dim**-0.5 + bias
            scores, v = torch.cat([scores, past], -1), torch.cat([v, mv], -2)
        o = (scores.softmax(-1) @ v).transpose(-2, -3).flatten(-2)
        x = x + ada[2] * self.proj(o)
        h = F.gelu(self.fc1(modulate(x, ada[3], ada[4])), approximate="tanh")
        return x + ada[5] * self.fc2(h)


class Trunk(nn.ModuleList):
    """Blocks over [B, T, N, D], causal over T through their temporal layers."""

    def __init__(self, c: TrunkConfig, cond):
        super().__init__([Block(c, cond, layer in c.temporal) for layer in range(c.layers)])
        self.offsets = c.offsets
        self.last_temporal = max(c.temporal, default=-1)

    def forward(self, x, cond, rope, cam, pos, focal, clean=None, kept=None, past=None):
        """x [B, T, N, D], cond [B, T, cond], cam [B', T, CAMERA].

        Every chunk sees the chunks `offsets` before it. With `clean` = B', the first B' rows are the clean stream,
        whose keys and values serve as the past of all rows (several noisy copies of the same clips follow); they are
        dropped after the last temporal layer. `kept` takes keys and values of each temporal layer; with `past`, such a dict, they
        are the past.
        """
        b, t = x.shape[:2]
        streams = 1 if clean is None else b // clean
        offsets = [o for o in self.offsets if o < t]
        if offsets:
            # the chunk each offset back [B', T, S, ...]; what there is not is masked
            back = lambda v: torch.stack([F.pad(v[:, : t - o], (*[0, 0] * (v.dim() - 2), o, 0)) for o in offsets], 2)  # noqa: E731
            missing = torch.stack([torch.arange(t, device=x.device) < o for o in offsets], 1).repeat_interleave(x.shape[2], -1)  # [T, S*N]
            moved = motion(cam[:, :, None], back(cam))  # [B', T, S, MOTION]

        def memory(layer, block):
            bias = block.flow(moved, pos, focal).flatten(-2).masked_fill(missing[:, None, None], float("-inf"))

            def recall(*now):
                if kept is not None:
                    kept[layer] = now
                k, v = (back(s[: len(cam)]) for s in (past[layer] if past else now))
                k, v = (s.permute(0, 1, 3, 2, 4, 5).flatten(3, 4) for s in (k, v))  # [B', T, heads, S*N, head_dim]
                return tuple(s.repeat(streams, 1, 1, 1, 1) for s in (k, v, bias))

            return recall

        for layer, block in enumerate(self):
            x = block(x, cond, rope, memory(layer, block) if block.flow is not None and offsets else None)
            if layer == self.last_temporal and clean is not None:
                x, cond, streams = x[clean:], cond[clean:], streams - 1
        return x


class ResBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv1 = nn.Conv2d(c, c, 3, padding=1)
        self.conv2 = nn.Conv2d(c, c, 3, padding=1)

    def forward(self, x):
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


def control_features(controls):
    """[..., ticks, 8] -> [..., ticks*8], looks in units of 10 degrees."""
    scale = torch.ones(controls.shape[-1], device=controls.device)  # the game's own actions follow
    scale[4:6] = 0.1
    return (controls * scale).flatten(-2)


# --- video compression network ----------------------------------------------------------------------------------------


class VCN(nn.Module):
    """Frames <-> latents: 16x16 pixels x 2 frames become one token of 32 numbers of unit RMS.

    The decoder also attends to its features of the chunk before and knows the controls. It draws all frames of a chunk
    as the camera of the last one sees them, turns the earlier ones back by the known rotation, and adds what that
    cannot tell (edges, walking): so motion inside a chunk comes back.
    """

    def __init__(self, c: Config):
        super().__init__()
        self.c = c
        self.sub = c.patch // CELL  # tokens are sub x sub cells of 4 x 4 pixels
        cell, token = 16 * 3 * c.frames_per_chunk, self.sub**2 * c.stem
        self.enc_in = nn.Linear(cell, c.stem)
        self.enc_res = nn.ModuleList([ResBlock(c.stem) for _ in range(2)])
        self.enc_token = nn.Linear(token, c.encoder.width)
        self.enc_control = nn.Linear(c.controls * c.frames_per_chunk, c.cond)
        self.enc_blocks = Trunk(c.encoder, c.cond)
        self.enc_out = nn.Linear(c.encoder.width, c.latent)
        self.dec_in = nn.Linear(c.latent, c.decoder.width)
        self.dec_control = nn.Linear(c.controls * c.frames_per_chunk, c.cond)
        self.dec_blocks = Trunk(c.decoder, c.cond)
        self.dec_token = nn.Linear(c.decoder.width, token)
        self.dec_res = nn.ModuleList([ResBlock(c.stem) for _ in range(2)])
        self.dec_out = nn.Linear(c.stem, 16 * 3 * (2 * c.frames_per_chunk - 1))
        nn.init.normal_(self.dec_out.weight, std=0.02)
        if c.depth:
            self.near_in = nn.Linear(c.decoder.width + self.sub**2, c.decoder.width)
            self.near_blocks = Trunk(replace(c.decoder, layers=1, temporal=[], offsets=[]), c.cond)
            self.near_out = nn.Linear(c.decoder.width, self.sub**2)
            nn.init.zeros_(self.near_out.weight)

    def encode(self, frames, controls):
        """frames [B, T, F, 3, H, W] in -1..1 and controls [B, T, F, 8] -> latents [B, T, N, latent]."""
        b, t, f, _, hh, ww = frames.shape
        x = frames.reshape(b * t, f, 3, hh // 4, 4, ww // 4, 4).permute(0, 3, 5, 1, 2, 4, 6).flatten(3)
        x = self.enc_in(x).permute(0, 3, 1, 2)  # channels-last in memory
        for res in self.enc_res:
            x = res(x)
        h, w, s = hh // self.c.patch, ww // self.c.patch, self.sub
        x = F.silu(x).permute(0, 2, 3, 1).reshape(b, t, h, s, w, s, -1).permute(0, 1, 2, 4, 3, 5, 6).flatten(4)
        x = self.enc_token(x).flatten(2, 3)
        cond = F.silu(self.enc_control(control_features(controls)))
        pos, focal = grid_positions(h, w, x.device)
        rope = rope_tables(h, w, self.c.encoder.width // self.c.encoder.heads, x.device)
        x = self.enc_blocks(x, cond, rope, camera(controls), pos, focal)
        return rms_norm(self.enc_out(rms_norm(x)))

    def decode(self, latents, controls, h, w):
        """latents [B, T, h*w, latent], controls [B, T, F, 8] -> frames [B, T, F, 3, H, W]."""
        return self.draw(self.tell(latents, controls, h, w), controls, h, w)

    def tell(self, latents, controls, h, w):
        """What the decoder's blocks tell [B, T, h*w, width] of latents and controls as in `decode`."""
        cond = F.silu(self.dec_control(control_features(controls)))
        pos, focal = grid_positions(h, w, latents.device)
        rope = rope_tables(h, w, self.c.decoder.width // self.c.decoder.heads, latents.device)
        return self.dec_blocks(self.dec_in(latents), cond, rope, camera(controls), pos, focal)

    def draw(self, x, controls, h, w):
        """The frames of what the decoder's blocks tell [B, T, h*w, width]."""
        b, t, s, f = *x.shape[:2], self.sub, self.c.frames_per_chunk
        x = self.dec_token(rms_norm(x)).reshape(b * t, h, w, s, s, -1).permute(0, 1, 3, 2, 4, 5)
        x = x.reshape(b * t, h * s, w * s, -1).permute(0, 3, 1, 2)
        for res in self.dec_res:
            x = res(x)
        x = self.dec_out(F.silu(x).permute(0, 2, 3, 1)).reshape(b, t, h * s, w * s, 2 * f - 1, 3, 4, 4)
        x = x.permute(0, 1, 4, 5, 2, 6, 3, 7).reshape(b, t, 2 * f - 1, 3, h * s * 4, w * s * 4)
        earlier, last, residual = x.split([f - 1, 1, f - 1], 2)
        seen = warp(earlier.flatten(0, 2), turned(controls).flatten(0, 2)).view_as(earlier)
        return torch.cat([seen + residual, last], 2)

    def nearness(self, x, controls, pitch, h, w):
        """The nearness [B, T, H/CELL, W/CELL] of the last frames of what the decoder's blocks tell [B, T, h*w, width], with the
        camera's pitch [B, T] there: flat ground and, if the model tells depth, what stands on it."""
        c, s = self.c, self.sub
        flat = self.flat(pitch, h, w)
        if not c.depth:
            return flat
        tokens = flat.unflatten(-1, (w, s)).unflatten(-3, (h, s)).transpose(-3, -2).flatten(-2).flatten(-3, -2)
        cond = F.silu(self.dec_control(control_features(controls)))
        rope = rope_tables(h, w, c.decoder.width // c.decoder.heads, x.device)
        x = self.near_in(torch.cat([rms_norm(x), tokens], -1)).float()
        x = self.near_out(rms_norm(self.near_blocks(x, cond, rope, camera(controls), *grid_positions(h, w, x.device))))
        return flat + x.float().unflatten(-1, (s, s)).unflatten(-3, (h, w)).transpose(-3, -2).flatten(-2).flatten(-3, -2)

    def flat(self, pitch, h, w):
        """The nearness of flat ground, as of `nearness`."""
        return ground(pitch, h * self.sub, w * self.sub, self.c.eye)

    def foreseen(self, *clips, **options):
        """What `foresee` tells of clips, without what is unseen of them."""
        return self.foresee(*clips, **options)[0]

    def foresee(self, latents, controls, pitch, h, w, start=None):
        """Every chunk of clips as its past tells it if nothing but the camera moves: what `Views` see, encoded. latents
        [B, T or T-1, N, latent], controls [B, T, F, 8], pitch [B, T] at the end of chunks, the camera `start` [B, CAMERA] before the
        first, if it matters -> [B, T, N, latent], 0 for the first; and what is unseen of the last one, as of `Views.see`.
        """
        b, t, f = controls.shape[:3]
        if t == 1:
            cells = self.c.patch // CELL
            return torch.zeros(b, 1, h * w, self.c.latent, device=controls.device), torch.ones(b, 2, h * cells, w * cells, device=controls.device)
        past = controls[:, : t - 1]
        told = self.tell(latents[:, : t - 1], past, h, w)
        frames, near = self.draw(told, past, h, w)[:, :, -1].float(), self.nearness(told, past, pitch[:, : t - 1], h, w)
        cameras = pitched(reckon(controls.flatten(1, 2), start).unflatten(1, (t, f)), pitch)
        views, seen = Views(b, *frames.shape[-2:], self.c.eye, frames.device), []
        for i in range(1, t):
            views.add(frames[:, i - 1], near[:, i - 1], cameras[:, i - 1, -1], edited(controls[:, i - 1]))
            sight, unseen = views.see(cameras[:, i], min(i, views.MOST))
            seen.append(sight)
        return F.pad(self.encode(torch.stack(seen, 1), controls[:, 1:]).float(), (0, 0, 0, 0, 1, 0)), unseen


# --- diffusion transformer --------------------------------------------------------------------------------------------


class DiT(nn.Module):
    """Predicts a chunk's clean latent from a noisy one, the past, the controls and the text.

    What of the past is still in view need not be dreamed: the chunk as foreseen (`VCN.foreseen`) comes in beside the noisy
    one, and the answer corrects it. Only a chunk without a past is invented as a whole.

    tau is the signal level: x_tau = tau x + (1 - tau) noise, 0 is pure noise, 1 is clean.
    """

    def __init__(self, c: Config):
        super().__init__()
        self.c = c
        width = c.dit.width
        self.patch_in = nn.Linear(4 * c.latent, width)
        self.tau_in = nn.Linear(32, width)
        self.control_in = nn.Linear(c.controls * c.frames_per_chunk + 1, width)  # and the pitch
        self.text_in = nn.Linear(c.text, width)
        self.cond = nn.Linear(width, c.cond)
        self.blocks = Trunk(c.dit, c.cond)
        self.ada_out = nn.Linear(c.cond, 2 * width)
        self.patch_out = nn.Linear(width, 2 * c.latent)
        nn.init.zeros_(self.ada_out.weight)
        nn.init.zeros_(self.ada_out.bias)
        nn.init.normal_(self.patch_out.weight, std=0.02)
        nn.init.zeros_(self.patch_out.bias)
        with torch.no_grad():  # no correction to begin with
            self.patch_out.weight[c.latent :] = 0

    def condition(self, tau, controls, pitch, text):
        """tau [..., T], controls [..., T, F, 8], pitch [..., T], text [..., T, text] -> [..., T, cond]."""
        angles = tau[..., None] * math.pi * 2.0 ** (torch.arange(16, device=tau.device) / 3)
        features = self.tau_in(torch.cat([angles.cos(), angles.sin()], -1))
        steering = torch.cat([control_features(controls), pitch[..., None]], -1)
        features = features + self.control_in(steering) + self.text_in(text * text.shape[-1] ** 0.5)
        return F.silu(self.cond(F.silu(features)))

    def geometry(self, controls, h, w):
        pos, focal = grid_positions(h, w, controls.device)
        return rope_tables(h, w, self.c.dit.width // self.c.dit.heads, controls.device), camera(controls), pos, focal

    def answer(self, x, cond, foreseen, begins):
        """Clean latents from what the blocks tell [..., N, width]; chunks that `begins` [..., 1, 1] tells have no past."""
        shift, scale = self.ada_out(cond).unsqueeze(-2).chunk(2, -1)
        invented, correction = self.patch_out(modulate(x, shift, scale)).chunk(2, -1)
        return torch.where(begins, invented, foreseen + correction)

    def forward(self, context, context_tau, noisy, tau, foreseen, controls, pitch, text, h, w, dreams=None):
        """Teacher forcing with two streams.

        context [B, T, N, C]: the past as remembered at level context_tau [B, T]; noisy [K*B, T, N, C]: K copies of the
        same clips at levels tau [K*B, T], each of which sees `context` before it; foreseen [B, T, N, C] as of
        `VCN.foreseen`; pitch [B, T]: the camera's at the end
        of each chunk, in radians since the world began: the horizon, which a blurred past no longer tells. `dreams` is the DiT
        that denoises after what this one remembers, if it is another; then T is 2 at least.
        -> clean latents [K*B, T, N, C].
        """
        b = len(context) if context.shape[1] > 1 else 0  # a lone chunk is nobody's past
        streams = (b + len(noisy)) // len(context)
        before = [F.pad(context, (0, 0, 0, 0, n, 0))[:, :-n] for n in (1, 2)]
        repeat = lambda a: a.repeat(streams, *[1] * (a.dim() - 1))  # noqa: E731
        foreseen = repeat(foreseen)
        x = torch.cat([torch.cat([context[:b], noisy]), *map(repeat, before), foreseen], -1)
        cond = self.condition(torch.cat([context_tau[:b], tau]), repeat(controls), repeat(pitch), repeat(text))
        geometry = self.geometry(controls, h, w)
        if dreams is None:
            x = self.blocks(self.patch_in(x).float(), cond, *geometry, clean=b or None)
        else:
            kept, told = {}, (repeat(v)[b:] for v in (controls, pitch, text))
            self.blocks(self.patch_in(x[:b]).float(), cond[:b], *geometry, kept=kept)
            cond = torch.cat([cond[:b], dreams.condition(tau, *told)])
            x = dreams.blocks(dreams.patch_in(x[b:]).float(), cond[b:], *geometry, past=kept)
        return (dreams or self).answer(x, cond[b:], foreseen[b:], torch.arange(x.shape[1], device=x.device)[:, None, None] == 0)
