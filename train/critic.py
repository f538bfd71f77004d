"""A critic of pictures, for the stages that learn from one."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class Critic(nn.Module):
    """How true each patch of some 30 pixels looks: frames [B, 3, H, W], and what was asked for [B, text] if it is to judge that
    too -> [B, 1, H/8, W/8], higher is truer."""

    def __init__(self, text=0, width=48):
        super().__init__()
        sizes = [3, width, 2 * width, 4 * width]
        self.convs = nn.ModuleList([nn.Conv2d(i, o, 4, stride=2, padding=1) for i, o in zip(sizes, sizes[1:])])
        self.words = nn.Linear(text, sizes[-1]) if text else None
        self.judge = nn.Sequential(nn.LeakyReLU(0.2), nn.Conv2d(sizes[-1], 2 * width, 1), nn.LeakyReLU(0.2), nn.Conv2d(2 * width, 1, 1))

    def forward(self, x, text=None):
        x = self.convs[0](x)
        for conv in self.convs[1:]:
            x = conv(F.leaky_relu(x, 0.2))
        if self.words is not None:
            x = x + self.words(text)[:, :, None, None]
        return self.judge(x).float()

    def lesson(self, true, drawn, text=None, probe=0.05, penalty=0.05):
        """The loss that teaches it to put true frames above drawn ones, and what of it is not the penalty.

        Each patch is paired with the one at its place (RpGAN); the slope is held down by finite differences (R1, Huang et al. 2024,
        Lin et al. 2025) of length `probe`."""
        shown = torch.cat([true, drawn.detach(), true + probe * torch.randn_like(true)])
        real, made, near = self(shown, None if text is None else torch.cat([text] * 3)).chunk(3)
        told = F.softplus(made - real).mean()
        return told + penalty / probe**2 * (near - real).square().mean(), told

    def verdict(self, true, drawn, text=None):
        """The loss that teaches whoever draws to leave nothing to tell by, frame by frame [B]."""
        real, made = self(torch.cat([true, drawn]), None if text is None else torch.cat([text] * 2)).chunk(2)
        return F.softplus(real - made).mean((1, 2, 3))
