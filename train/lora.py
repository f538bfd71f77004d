"""Low-rank changes of a DiT's weights (LoRA, Hu et al. 2021): trained beside weights that stay, and written as PEFT names them."""

import copy

import torch
import torch.nn as nn
from torch.nn.utils.parametrize import register_parametrization

from model import DiT


class LowRank(nn.Module):
    """A weight [out, in] and a change of it that is a product of two thin matrices (LoRA, Hu et al. 2021); none to begin with."""

    def __init__(self, outputs, inputs, rank):
        super().__init__()
        self.lora_A = nn.Parameter(torch.randn(rank, inputs) / inputs**0.5)
        self.lora_B = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, weight):
        return weight + self.lora_B @ self.lora_A


def adapted(dit: DiT, rank):
    """A copy of a DiT of which low-rank changes of every layer's weight can be trained, and nothing else."""
    dit = copy.deepcopy(dit).requires_grad_(False)
    for layer in [m for m in dit.modules() if isinstance(m, nn.Linear)]:
        register_parametrization(layer, "weight", LowRank(*layer.weight.shape, rank))
    return dit


LEARNED = ".parametrizations.weight.0."  # between the name of a layer of such a copy and those of its factors


def factors(state):
    """The changes in the state dict of an adapted DiT, named as PEFT does."""
    return {f"{name.replace(LEARNED, '.')}.weight": value for name, value in state.items() if LEARNED in name}


def changed(dit: DiT, changes):
    """A copy of a DiT with the changes that `factors` tells."""
    state = dict(dit.state_dict())
    for down in [name for name in changes if name.endswith(".lora_A.weight")]:
        layer = down.removesuffix(".lora_A.weight")
        state[f"{layer}.weight"] = state[f"{layer}.weight"] + changes[f"{layer}.lora_B.weight"] @ changes[down]
    copied = copy.deepcopy(dit)
    copied.load_state_dict(state)
    return copied
