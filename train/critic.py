"""A critic of pictures, for a stage that learns from one."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class Critic(nn.Module):
    """How true each patch of some 30 pixels looks: frames [B, 3, H, W] -> [B, 1, H/8, W/8], higher is truer."""

    def __init__(self, width=48):
        super().__init__()
        sizes = [3, width, 2 * width, 4 * width]
        self.convs = nn.ModuleList([nn.Conv2d(i, o, 4, stride=2, padding=1) for i, o in zip(sizes, sizes[1:])])
        self.judge = nn.Sequential(nn.LeakyReLU(0.2), nn.Conv2d(sizes[-1], 2 * width, 1), nn.LeakyReLU(0.2), nn.Conv2d(2 * width, 1, 1))

    def forward(self, x):
        x = self.convs[0](x)
        for conv in self.convs[1:]:
            x = conv(F.leaky_relu(x, 0.2))
        return self.judge(x).float()

    def lesson(self, true, drawn, probe=0.05, penalty=0.05):
        """The loss that teaches it to put true frames above drawn ones, and what of it is not the penalty.

        Each patch is paired with the one at its place (RpGAN); the slope is held down by finite differences (R1, Huang et al. 2024,
        Lin et al. 2025) of length `probe`."""
        shown = torch.cat([true, drawn.detach(), true + probe * torch.randn_like(true)])
        real, made, near = self(shown).chunk(3)
        told = F.softplus(made - real).mean()
        return told + penalty / probe**2 * (near - real).square().mean(), told

    def verdict(self, true, drawn):
        """The loss that teaches whoever draws to leave nothing to tell by, frame by frame [B]."""
        real, made = self(torch.cat([true, drawn])).chunk(2)
        return F.softplus(real - made).mean((1, 2, 3))
