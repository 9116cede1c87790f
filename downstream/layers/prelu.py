"""PReLU with one slope (arXiv 1502.01852), by the kernels that are several times as fast on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class PReLU(nn.PReLU):
    """torch's PReLU with one slope: the same values and gradients, (\\*) -> (\\*).

    On a CPU torch's own backward pass takes longer than the linear layer before it.
    """

    def forward(self, x: Tensor) -> Tensor:
        return _OnCPU.apply(x, self.weight) if x.is_cpu else super().forward(x)


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """Values, without a gradient for the slope (1,)."""
    return nn.functional.leaky_relu(x, slope.item())


def prelu_backward(gradient: Tensor, x: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the slope (a scalar), from that of the values."""
    of_slope = torch.dot(gradient.flatten(), x.clamp(max=0).flatten())
    return torch.ops.aten.leaky_relu_backward(gradient, x, slope.item(), False), of_slope


class _OnCPU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x, slope)
        return prelu(x, slope)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, slope = ctx.saved_tensors
        of_x, of_slope = prelu_backward(gradient, x, slope)
        return of_x, of_slope.view_as(slope)
