"""The cached walk of `walk.py` against the sampler without a cache, and what both see: `python train/test_walk.py`."""

import torch

from geometry import CAMERA, CELL, Views, camera
from model import VCN, Config, DiT, TrunkConfig
from sampler import rollout
from walk import Walks, noised


def test_a_cached_walk_is_the_rollout():
    torch.manual_seed(0)
    small = dict(width=32, heads=2)
    c = Config(depth=True, latent=8, cond=16, stem=16, text=12, steps=2, first_steps=3, guidance=1.0,
               encoder=TrunkConfig(layers=1, temporal=[], offsets=[], **small),
               decoder=TrunkConfig(layers=2, temporal=[0, 1], offsets=[1], **small),
               dit=TrunkConfig(layers=3, temporal=[0, 1], offsets=[1, 2, 5, 9], **small))  # fmt: skip
    vcn, dit = VCN(c).requires_grad_(False), DiT(c)
    for p in [*vcn.parameters(), *dit.parameters()]:
        p.data += 0.05 * torch.randn_like(p)
    vcn.near_out.weight.data *= 0.1  # as wild as the pictures: rounding would grow with every chunk
    b, t, h, w = 2, 14, 2, 3
    controls, pitch, text = torch.randn(b, t, 2, 8), 0.1 * torch.randn(b, t), torch.randn(b, 1, 12).expand(b, t, 12)
    controls[..., 4:6] *= 15  # degrees: enough for key frames
    controls[..., 6:8] = 0  # a walk guides neither edits nor, so the guidance above, words
    noise, eps = torch.randn(2, b, t, h * w, c.latent)
    expected = rollout(dit, vcn, noise[:, :0], controls, pitch, text, noise, eps, h, w)
    foreseen = vcn.foreseen(expected, controls, pitch, h, w)
    drawn = vcn.decode(expected, controls, h, w)
    walks, cam = Walks(dit, vcn, b, h, w, "cpu"), camera(controls)
    level = 1 - c.context_noise
    for i in range(t):
        steering = controls[:, i], pitch[:, i], text[:, i], cam[:, i], walks.foresee(controls[:, i], pitch[:, i])
        torch.manual_seed(i)
        errors = walks.error(expected[:, i], *steering, 2)
        torch.manual_seed(i)
        tau = torch.where(torch.rand(2 * b) < 0.25, 0, torch.rand(2 * b) ** 1.3)
        noisy = noised(expected[:, i].repeat(2, 1, 1), tau)
        past = (level * expected + (1 - level) * eps)[:, : i + 1].repeat(2, 1, 1, 1)
        taus = torch.cat([torch.full((2 * b, i), level), tau[:, None]], 1)
        stream = torch.cat([past[:, :i], noisy[:, None]], 1)
        so_far = [s[:, : i + 1].repeat(2, *[1] * (s.dim() - 1)) for s in (foreseen, controls, pitch, text)]
        clean = dit(stream, torch.full((2 * b, i + 1), level), stream, taus, *so_far, h, w)[:, -1]
        assert (errors - (clean - expected[:, i].repeat(2, 1, 1)).square().mean((1, 2))).abs().max() < 1e-4, f"error of chunk {i}"
        lone = [s[:, i : i + 1].repeat(2, *[1] * (s.dim() - 1)) for s in (controls, pitch, text)]
        clean = dit(noisy[:, None], taus[:, :1], noisy[:, None], tau[:, None], torch.zeros_like(noisy)[:, None], *lone, h, w)[:, 0]
        assert (walks.predict(noisy, tau, *steering, alone=True) - clean).abs().max() < 1e-4, f"chunk {i} without its past"
        latents = walks.step(*steering, noise[:, i]) if i else walks.begin(*steering[:3], noise[:, i])
        assert (latents - expected[:, i]).abs().max() < 5e-4, f"chunk {i}"  # rounding grows as frames are seen again
        if i:
            latents.sum().backward()  # the last step has a gradient
            assert dit.patch_in.weight.grad.abs().sum() > 0
        frames = walks.commit(latents.detach(), *steering, eps[:, i])
        assert (frames - drawn[:, i]).abs().max() < 1e-3, f"frames of chunk {i}"


def test_a_place_is_seen_as_it_was_last():
    views, size = Views(1, 32, 32, eye=0.0), 32

    def at(yaw, forward=0.0):
        cam = torch.zeros(1, CAMERA)
        cam[0, 0], cam[0, 3] = yaw, forward
        return cam

    def add(shade, cam, edited=False):
        views.add(torch.full((1, 3, size, size), shade), torch.zeros(1, size // CELL, size // CELL), cam, torch.tensor([edited]))
        return (views.taken >= 0).sum().item()

    assert add(0.1, at(0.0)) == 1
    assert add(0.5, at(1.0)) == 2, "another direction is another key frame"
    assert add(0.6, at(0.7)) == 2, "one between two is none"
    assert add(0.9, at(0.02)) == 2, "a frame beside a key frame takes its place"
    middle = slice(size // 4, -size // 4)
    assert (views.see(at(0.0)[:, None])[0][..., middle, middle] - 0.9).abs().max() < 0.01
    between = views.see(at(0.51)[:, None])[0][0, 0, 0, size // 2]
    assert (between[[2, -3]] - torch.tensor([0.9, 0.5])).abs().max() < 0.01, "each part from the key frame that knows it"
    assert add(0.2, at(0.3), edited=True) == 1, "what was seen of a place before it was edited is forgotten"
    assert add(0.5, at(1.8)) == 2 and add(0.2, at(0.3), edited=True) == 2, "but not what lies aside"
    assert add(0.3, at(0.0, forward=7.0)) == 1, "what is far behind is forgotten"
    views.forget([0])
    assert (views.see(at(0.0)[:, None])[0] == 0).all()
    for passes in range(30):
        assert add(passes / 30, at(3.0)) == 1
    assert (views.see(at(3.0)[:, None])[0][..., middle, middle] - views.GIVES_WAY / 30).abs().max() < 0.01, "where one stands still, it stays as it was"


if __name__ == "__main__":
    test_a_place_is_seen_as_it_was_last()
    test_a_cached_walk_is_the_rollout()
