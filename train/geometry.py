"""Where the camera is, and what it goes on seeing. Runtime twins: `src/model/action.rs`, `views.rs`, `warp.rs`.

A camera is six numbers: yaw and pitch in radians, x and z in blocks, jumps, and ticks since the last of them. A frame's nearness
[h, w] is one over the blocks to what each cell of it shows, across the line of sight; 0 is infinitely far.
"""

import math

import torch
import torch.nn.functional as F

MOTION = 6  # yaw, pitch, forward, right, jump, 1: what the flow bias is linear in
WALK, SPRINT = 0.215, 1.5  # blocks a tick, factor
RISE, FALL = 0.425, 0.035  # blocks that a jump rises a tick at first, and how fast that ends
CELL = 4  # pixels across a cell
CAMERA = 6  # numbers
NEAR = 0.05  # of the way to a thing: it fades from there to twice that, and is behind a camera that came closer
FARTHEST = 0.02  # nearness below which all counts alike
KNOWN = 0.3  # share of a cell from which on it is taken as seen
FOCAL = 88.09 / 128  # focal length over the square root of the frame's area


def reckon(controls, start=None):
    """Dead-reckoned camera [..., n, CAMERA] after every tick, from `start` [..., CAMERA].

    controls [..., n, 8] as in `Controls::to_vector`.
    """
    start = torch.zeros(CAMERA, device=controls.device) if start is None else start
    yaw, pitch, x, z, jumps, aloft = (v[..., None] for v in start.unbind(-1))
    yaw = yaw + torch.deg2rad(controls[..., 4]).cumsum(-1)
    pitch = pitch + torch.deg2rad(controls[..., 5]).cumsum(-1)
    speed = WALK * (1 + (SPRINT - 1) * controls[..., 2])
    forward, right = controls[..., 0] * speed, controls[..., 1] * speed
    x = x + (forward * yaw.sin() + right * yaw.cos()).cumsum(-1)
    z = z + (forward * yaw.cos() - right * yaw.sin()).cumsum(-1)
    jumps = jumps + controls[..., 3].cumsum(-1)
    tick = torch.arange(1.0, controls.shape[-2] + 1, device=controls.device)
    jump = torch.where(controls[..., 3] > 0, tick - 1, -1).cummax(-1).values  # ticks until the last one
    aloft = torch.where(jump < 0, aloft + tick, tick - jump)
    return torch.stack([yaw, pitch, x, z, jumps, aloft], -1)


def height(cameras):
    """How high the last jump has taken cameras [..., CAMERA], in blocks, if they land where they left."""
    aloft, jumped = cameras[..., 5], cameras[..., 4] > 0
    return (aloft * (RISE - FALL * aloft)).clamp(min=0) * jumped


def camera(controls):
    """The camera [..., T, CAMERA] of `reckon` at the end of every chunk of controls [..., T, ticks, 8]."""
    ticks = controls.shape[-2]
    return reckon(controls.flatten(-3, -2))[..., ticks - 1 :: ticks, :]


def pitched(cameras, pitch):
    """Cameras [..., F, CAMERA] with the pitch of the last being pitch [...]."""
    change = F.pad((pitch - cameras[..., -1, 1])[..., None], (1, CAMERA - 2))
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


def slope(pitch, h, w):
    """How far rays [..., h, w] of cameras of this pitch [...] lead down, for one along their axis."""
    _, y, _ = rays(h, w, pitch.device)
    pitch = pitch[..., None, None]
    return y * pitch.cos() - pitch.sin()


def ground(pitch, h, w, eye):
    """Nearness [..., h, w] of flat, bare ground `eye` blocks below cameras of this pitch [...]; all is far where eye is 0."""
    down = slope(pitch, h, w).clamp(min=0)
    return down / eye if eye else torch.zeros_like(down)


def carry(x, y, nearness, a, b):
    """The rays x, y [M, h, w] of cameras a [M, CAMERA] to what is so near [M, h, w], as rays [3, M, h, w] (right, down,
    forward) of cameras b; nearness divided by the last is theirs."""
    angle = lambda v: (v.cos()[:, None, None], v.sin()[:, None, None])  # noqa: E731
    (yc, ys), (ac, as_), (bc, bs) = angle(a[:, 0] - b[:, 0]), angle(a[:, 1]), angle(b[:, 1])
    cos, sin, dx, dz = b[:, 0].cos(), b[:, 0].sin(), a[:, 2] - b[:, 2], a[:, 3] - b[:, 3]
    right, forward, down = ((d[:, None, None]) for d in (dx * cos - dz * sin, dx * sin + dz * cos, height(b) - height(a)))
    # levelled, turned to where the other looks, moved to where it stands, and pitched as it is
    y, z = y * ac - as_, y * as_ + ac
    x, z = x * yc + z * ys, z * yc - x * ys
    x, y, z = x + right * nearness, y + down * nearness, z + forward * nearness
    return x, y * bc + z * bs, z * bc - y * bs


def moved(nearness, then, now):
    """Nearness [M, h, w] of cameras then [M, CAMERA] as cameras now see it, and how much of each cell is known [M, h, w].

    Every cell is handed to the four that it falls between, the nearer the more it counts (softmax splatting, Niklaus & Liu 2020,
    with a power for the exponential); then both are smoothed, to close the gaps that walking ahead opens.
    """
    m, h, w = nearness.shape
    x, y, focal = rays(h, w, nearness.device)
    x, y, z = carry(x, y, nearness, then, now)
    ahead = (z / NEAR - 1).clamp(0, 1)
    z = z.clamp(min=NEAR)
    near = nearness / z
    x, y = x / z * focal + w / 2 - 0.5, y / z * focal + h / 2 - 0.5
    left, top = x.floor(), y.floor()
    sums = torch.zeros(3, m, h * w, device=nearness.device)
    for column, across in ((left, left + 1 - x), (left + 1, x - left)):
        for line, down in ((top, top + 1 - y), (top + 1, y - top)):
            inside = (column >= 0) & (column < w) & (line >= 0) & (line < h)
            share = torch.where(inside, ahead * across * down, 0)
            weight = share * (near + FARTHEST).square()
            at = (line.clamp(0, h - 1) * w + column.clamp(0, w - 1)).long()
            for total, value in zip(sums, (weight * near, weight, share)):
                total.scatter_add_(1, at.flatten(1), value.flatten(1))
    kernel = 0.5 - 0.25 * torch.arange(-1.0, 2, device=nearness.device).abs()
    smooth = F.conv2d(sums.view(3 * m, 1, h, w), (kernel[:, None] * kernel)[None, None], padding=1)
    near, weight, share = smooth.view(3, m, h, w)
    return near / (weight + 1e-20), share


def reproject(images, nearness, then, now):
    """Images [M, 3, H, W] and their nearness [M, H/CELL, W/CELL] of cameras then [M, CAMERA], as cameras now see them; how near
    each pixel is [M, 1, H, W], and how far it is known, 0 to 1."""
    near, share = (F.interpolate(v[:, None], scale_factor=CELL, mode="bilinear")[:, 0] for v in moved(nearness, then, now))
    image, inside = look_up(images, near, then, now)
    return image, near.unsqueeze(1), ((share / KNOWN).clamp(max=1) * inside).unsqueeze(1)


def look_up(images, nearness, then, now):
    """Images [M, 3, H, W] of cameras then as cameras now see them, who see things of this nearness [M, H, W]; and how far each
    pixel was in view [M, H, W], 0 to 1: it begins within a pixel of the edge."""
    h, w = images.shape[-2:]
    x, y, focal = rays(h, w, images.device)
    x, y, z = carry(x, y, nearness, now, then)
    ahead = (z / NEAR - 1).clamp(0, 1)
    z = z.clamp(min=NEAR)
    x, y = x / z, y / z
    inside = (w / 2 - x.abs() * focal).clamp(0, 1) * (h / 2 - y.abs() * focal).clamp(0, 1)
    # bicubic, as frames are seen again and again: bilinear blurs them each time
    return sample_at(images, x, y, focal, "bicubic").clamp(-1, 1), inside * ahead


def edited(controls):
    """Whether a block is broken or placed in chunks of controls [..., F, 8]."""
    return (controls[..., 6:8] > 0).flatten(-2).any(-1)


def unedited(controls):
    """The same controls [..., F, actions] with no block broken or placed."""
    return torch.cat([controls[..., :6], torch.zeros_like(controls[..., 6:8]), controls[..., 8:]], -1)


class Views:
    """The frames that B worlds go on seeing: their last one, and key frames of other places, until they are left behind. Frames and
    their nearness are kept in half precision.
    """

    MOST = 6  # key frames
    TURN, WAY = math.radians(40), 1.0  # how far in radians or blocks from all others a key frame is taken
    FRESH, FAR = 1 / 8, 6  # of that: a frame so near to a key frame takes its place; one so far on foot forgets it
    GIVES_WAY = 10  # but only so many times in a row: each is drawn from the one before, and would wear for good where one stands still
    ASIDE = math.radians(70)  # when a block is broken or placed, key frames stay that were taken here and so far to the side
    DISTANT = 30  # what is further away than so many blocks may hide things, as fog does and hills do
    ABOVE, BELOW = 0.25, 0.12  # they come into view so far above the horizon, for one forward, or so far below
    DOUBT = 0.3  # how much of it is taken for unknown
    BARE = 0.01  # it is bare as far as neighbouring pixels differ by less than this, of -1..1

    def __init__(self, count, height, width, eye, device=None):
        self.eye = eye
        zeros = lambda *shape: torch.zeros(count, self.MOST + 1, *shape, device=device)  # noqa: E731
        # slot 0 is the last frame, the others are key frames
        self.frames, self.near, self.cameras = zeros(3, height, width), zeros(height // CELL, width // CELL), zeros(CAMERA)
        self.taken = torch.full((count, self.MOST), -1, device=device)  # when each key frame was, -1 if there is none
        self.worn = torch.zeros_like(self.taken)  # how many gave way to each, one to the other
        self.now = torch.zeros((), dtype=torch.long, device=device)

    def forget(self, rows):
        """Begins the worlds of these rows anew: grey."""
        for kept in (self.frames, self.near, self.cameras):
            kept[rows] = 0
        self.taken[rows] = -1

    def add(self, frames, nearness, cameras, edited):
        """The last frame [B, 3, H, W] of every world and its nearness [B, H/CELL, W/CELL], taken by cameras [B, CAMERA]. What was seen
        before of a place that was `edited` [B] since is forgotten."""
        view = frames.clamp(-1, 1).half().float(), nearness.clamp(min=0).half().float(), cameras
        turn, way = self._from(cameras)
        stale = torch.where(edited[:, None], (turn < self.ASIDE) | (way >= self.WAY), way > self.FAR * self.WAY)
        self.taken.masked_fill_(stale, -1)
        apart, nearest = self._apart(cameras).min(1)
        slots = torch.arange(self.MOST, device=nearest.device)
        worn = torch.where(apart < self.FRESH, self.worn.gather(1, nearest[:, None])[:, 0] + 1, 0)
        fresh = (apart < self.FRESH) & (worn <= self.GIVES_WAY)
        self.taken.masked_fill_((slots == nearest[:, None]) & fresh[:, None], -1)
        # into an empty slot, else the oldest's
        key = (slots == self.taken.argmin(1)[:, None]) & (fresh | (apart >= 1))[:, None]
        self.taken.copy_(torch.where(key, self.now, self.taken))
        self.worn.copy_(torch.where(key, worn[:, None], self.worn))
        self.now += 1
        put = F.pad(key, (1, 0), value=True)
        for kept, new in zip((self.frames, self.near, self.cameras), view):
            kept.copy_(torch.where(put.view(*put.shape, *[1] * (new.dim() - 1)), new[:, None], kept))

    def _from(self, cameras):
        """How far cameras [B, CAMERA] are from every key frame, each [B, MOST]: in radians and in blocks."""
        yaw, pitch, x, z, *_ = (cameras[:, None] - self.cameras[:, 1:]).unbind(-1)
        yaw = torch.remainder(yaw + math.pi, 2 * math.pi) - math.pi
        return torch.maximum(yaw.abs(), pitch.abs()), torch.hypot(x, z)

    def _apart(self, cameras):
        """How far cameras [B, CAMERA] are from every key frame [B, MOST], in TURN or WAY; infinitely if there is none."""
        turn, way = self._from(cameras)
        return torch.maximum(turn / self.TURN, way / self.WAY).masked_fill(self.taken < 0, math.inf)

    def see(self, cameras, most=MOST):
        """What cameras [B, F, CAMERA] see if nothing else moves [B, F, 3, H, W]: each pixel from the nearest key frame that knows it,
        else from the last frame, and where that does not, as it goes on at its edge, over flat ground; and of each cell of the last of
        them [B, 2, H/CELL, W/CELL] how much no view shows in its middle, and a part of what is far away, from which things come into
        view, and how much is far away and bare.

        A key frame comes before the last one, as that was drawn from it: what is drawn less often is sharper and nearer the truth. Each
        world has at most so many.
        """
        (b, f), now, seen, far, left = cameras.shape[:2], cameras.flatten(0, 1), 0, 0, 1
        apart, order = self._apart(cameras[:, -1]).sort(1)
        known = apart.isfinite()
        rows = torch.arange(b, device=now.device)
        pick = lambda slot: [kept[rows, slot].repeat_interleave(f, 0) for kept in (self.frames, self.near, self.cameras)]  # noqa: E731
        last = pick(torch.zeros_like(rows))
        if not now.is_cuda:  # nobody waits for the number
            most = known.sum(1).max().item()
        for i in range(most + 1):
            # a world's last frame follows its key frames
            use = i <= known.sum(1)
            slot = torch.where(known[:, i], order[:, i] + 1, 0) if i < self.MOST else torch.zeros_like(rows)
            image, near, share = reproject(*pick(slot), now)
            share = share * use.repeat_interleave(f)[:, None, None, None]
            far = far + left * share * (near * self.DISTANT < 1)
            seen, left = seen + left * share * image, left * (1 - share)
        edge, _ = look_up(last[0], ground(now[:, 1], *last[0].shape[-2:], self.eye), last[2], now)
        down = slope(now[:, 1], *last[0].shape[-2:])
        far = torch.where((down > -self.ABOVE) & (down < self.BELOW), 1, 0)[:, None] * far
        seen = (seen + left * edge).unflatten(0, (b, f))
        middle = slice(CELL // 2, None, CELL)
        left, far = (x.unflatten(0, (b, f))[:, -1, 0, middle, middle] for x in (left, far))
        cells = seen[:, -1].unflatten(-1, (-1, CELL)).unflatten(-3, (-1, CELL))  # B, 3, H/CELL, CELL, W/CELL, CELL
        relief = F.avg_pool1d(cells.diff(dim=-1).abs().mean((1, 3, 5)), 3, 1, 1, count_include_pad=False)
        return seen, torch.stack([left + self.DOUBT * far, far * torch.exp(-((relief / self.BARE) ** 2))], 1)


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
