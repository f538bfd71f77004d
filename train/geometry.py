"""Where the camera is, and what it goes on seeing. Runtime twins: `src/model/action.rs`, `views.rs`, `warp.rs`.

A camera is five numbers: yaw and pitch in radians, x and z in blocks, jumps.
"""

import math

import torch
import torch.nn.functional as F

MOTION = 6  # yaw, pitch, forward, right, jump, 1: what the flow bias is linear in
WALK, SPRINT = 0.215, 1.5  # blocks a tick, factor
FOCAL = 88.09 / 128  # focal length over the square root of the frame's area


def reckon(controls, start=None):
    """Dead-reckoned camera [..., n, 5] (yaw, pitch in radians; x, z in blocks; jumps) after every tick, from `start` [..., 5].

    controls [..., n, 8] as in `Controls::to_vector`.
    """
    start = torch.zeros(5, device=controls.device) if start is None else start
    yaw, pitch, x, z, jumps = (v[..., None] for v in start.unbind(-1))
    yaw = yaw + torch.deg2rad(controls[..., 4]).cumsum(-1)
    pitch = pitch + torch.deg2rad(controls[..., 5]).cumsum(-1)
    speed = WALK * (1 + (SPRINT - 1) * controls[..., 2])
    forward, right = controls[..., 0] * speed, controls[..., 1] * speed
    x = x + (forward * yaw.sin() + right * yaw.cos()).cumsum(-1)
    z = z + (forward * yaw.cos() - right * yaw.sin()).cumsum(-1)
    return torch.stack([yaw, pitch, x, z, jumps + controls[..., 3].cumsum(-1)], -1)


def camera(controls):
    """The camera [..., T, 5] of `reckon` at the end of every chunk of controls [..., T, ticks, 8]."""
    ticks = controls.shape[-2]
    return reckon(controls.flatten(-3, -2))[..., ticks - 1 :: ticks, :]


def pitched(cameras, pitch):
    """Cameras [..., F, 5] with the pitch of the last being pitch [...]."""
    change = F.one_hot(torch.tensor(1, device=pitch.device), 5) * (pitch - cameras[..., -1, 1])[..., None]
    return cameras + change.unsqueeze(-2)


def motion(now, then):
    """Camera motion [..., MOTION] from camera `then` to `now`, seen from `now`."""
    d = now - then
    limit = math.radians(60)
    turn = torch.tan(d[..., :2].clamp(-limit, limit))
    sin, cos = now[..., 0].sin(), now[..., 0].cos()
    forward = d[..., 2] * sin + d[..., 3] * cos
    right = d[..., 2] * cos - d[..., 3] * sin
    return torch.stack([turn[..., 0], turn[..., 1], forward, right, d[..., 4], torch.ones_like(forward)], -1)


def rays(h, w, device=None):
    """Centres x, y [h, w] of pixels or tokens in focal lengths from the middle (right, down), and the focal length in
    them."""
    focal = FOCAL * math.sqrt(h * w)
    y, x = torch.meshgrid(torch.arange(h, device=device) + 0.5, torch.arange(w, device=device) + 0.5, indexing="ij")
    return (x - w / 2) / focal, (y - h / 2) / focal, focal


def grid_positions(h, w, device=None):
    """Token centres [N, 2] and the focal length, as of `rays`."""
    x, y, focal = rays(h, w, device)
    return torch.stack([x, y], -1).reshape(-1, 2), focal


def sample_at(images, x, y, focal, mode="bilinear"):
    """Colours of images [M, 3, H, W] at x, y [M, H, W] in focal lengths from the middle, edges held."""
    h, w = images.shape[-2:]
    grid = torch.stack([x * 2 * focal / w, y * 2 * focal / h], -1)
    return F.grid_sample(images, grid, mode, "border", align_corners=False)


def reproject(images, then, now, eye):
    """Images [M, 3, H, W] of cameras then [M, 5] as cameras now [M, 5] see them, and which pixels were in view [M, 1, H, W].

    A rotation moves the picture the same at every depth. Walking moves what is below the horizon, as if the ground were
    flat, bare and `eye` blocks below; the rest stays, as if it were far.
    """
    h, w = images.shape[-2:]
    x, y, focal = rays(h, w, images.device)
    angle = lambda a: (a.cos()[:, None, None], a.sin()[:, None, None])  # noqa: E731
    (yc, ys), (nc, ns), (tc, ts) = angle(now[:, 0] - then[:, 0]), angle(now[:, 1]), angle(then[:, 1])
    cos, sin, dx, dz = then[:, 0].cos(), then[:, 0].sin(), now[:, 2] - then[:, 2], now[:, 3] - then[:, 3]
    right, forward = ((dx * cos - dz * sin)[:, None, None], (dx * sin + dz * cos)[:, None, None])
    # the pixel's ray levelled, turned to where that camera looked, met with the ground, and pitched as that camera was
    y, z = y * nc - ns, y * ns + nc
    x, z = x * yc + z * ys, z * yc - x * ys
    nearness = y.clamp(min=0) / eye if eye else torch.zeros_like(y)
    x, z = x + right * nearness, z + forward * nearness
    y, z = y * tc + z * ts, z * tc - y * ts
    inside = (z > 0.01) & (x.abs() * focal <= z * w / 2) & (y.abs() * focal <= z * h / 2)
    z = z.clamp(min=0.01)
    # bicubic, as frames are seen again and again: bilinear blurs them each time
    return sample_at(images, x / z, y / z, focal, "bicubic").clamp(-1, 1), inside.unsqueeze(1)


class Views:
    """The frames that B worlds go on seeing: their last one, and key frames of other directions, newest first, until
    they are left behind. Frames are kept in half precision.
    """

    MOST = 6  # key frames
    TURN, WAY = math.radians(40), 0.5  # how far in radians or blocks from all others a key frame is taken
    FRESH, FAR = 1 / 8, 2  # of that: a frame so near to a key frame takes its place; one so far on foot forgets it

    def __init__(self, count, height, width, eye, device=None):
        self.eye = eye
        self.nothing = torch.zeros(3, height, width, device=device), torch.zeros(5, device=device)
        self.last, self.keys = [self.nothing] * count, [[] for _ in range(count)]

    def forget(self, rows):
        """Begins the worlds of these rows anew: grey."""
        for row in rows:
            self.last[row], self.keys[row] = self.nothing, []

    def add(self, frames, cameras):
        """The last frame [B, 3, H, W] of every world, taken by cameras [B, 5]."""
        for row, view in enumerate(zip(frames.clamp(-1, 1).half().float(), cameras)):
            gone = lambda key, view=view: (view[1] - key[1])[2:4].norm() > self.FAR * self.WAY  # noqa: E731
            keys = [key for key in self.keys[row] if not gone(key)]
            apart = [self._apart(view[1], key[1]) for key in keys]
            nearest = min(apart, default=1)
            if nearest < self.FRESH:
                keys.pop(apart.index(nearest))
            if nearest < self.FRESH or nearest >= 1:
                keys = [view, *keys][: self.MOST]
            self.last[row], self.keys[row] = view, keys

    def _apart(self, a, b):
        yaw, pitch, x, z, _ = (a - b).tolist()
        return max(abs(math.remainder(yaw, 2 * math.pi)) / self.TURN, abs(pitch) / self.TURN, math.hypot(x, z) / self.WAY)

    def see(self, cameras):
        """What cameras [B, F, 5] see if nothing else moves [B, F, 3, H, W]: each pixel from the first view that has it, and
        where none has, as the last frame goes on at its edge."""
        (b, f), worlds = cameras.shape[:2], [[last, *keys] for last, keys in zip(self.last, self.keys)]
        now, seen, missing = cameras.flatten(0, 1), None, None
        for i in range(max(map(len, worlds))):
            views = [world[min(i, len(world) - 1)] for world in worlds]
            images, then = (torch.stack([view[part] for view in views]).repeat_interleave(f, 0) for part in (0, 1))
            image, inside = reproject(images, then, now, self.eye)
            seen = image if seen is None else torch.where(missing & inside, image, seen)
            missing = ~inside if missing is None else missing & ~inside
            if not missing.any():
                break
        return seen.unflatten(0, (b, f))


def turned(controls):
    """Rotation [..., F-1, 2] (yaw, pitch in radians) from each frame of a chunk but the last to the last."""
    look = torch.deg2rad(controls[..., 1:, 4:6])
    return look.flip(-2).cumsum(-2).flip(-2)


def warp(images, turn):
    """images [M, 3, H, W] as seen after the camera turned by turn [M, 2] -> as seen before, bilinear, edges held.

    A rotation moves the picture the same at every depth, so the controls alone tell where each pixel comes from.
    """
    x, y, focal = rays(*images.shape[-2:], images.device)
    (ys, yc), (ps, pc) = ((t.sin()[:, None, None], t.cos()[:, None, None]) for t in turn.unbind(-1))
    x, z = x * yc - ys, x * ys + yc
    y, z = y * pc + z * ps, z * pc - y * ps
    return sample_at(images, x / z, y / z, focal)
