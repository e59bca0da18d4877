"""Adam over all parameters of a module as one vector, in two halves: gradient and application.

Between the halves is the one place where many ranks average: a single all-reduce over `[P]`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastrl.models.layers import flatten_gradients, flatten_parameters
from fastrl.ops.adam import adam_step, clip_by_norm


class FlatAdam:
    """The parameters of a module become views of one vector `[P]`; so are Adam's moments.

    All state is in tensors that are changed in place, so a recorded or compiled step stays valid
    for the whole run, whatever a schedule does to `learning_rate`.
    """

    def __init__(self, module: nn.Module, learning_rate: float, eps: float, max_grad_norm: float):
        """Takes over the parameters of a module that stays on its device.

        Args:
            module: whose parameters are trained.
            learning_rate: initial step size.
            eps: Adam's epsilon.
            max_grad_norm: gradients are scaled down to this Euclidean norm; 0 leaves them alone.
        """
        self.parameters = list(module.parameters())
        self.flat = flatten_parameters(module)
        self.mean, self.square = torch.zeros_like(self.flat), torch.zeros_like(self.flat)
        self.steps = torch.zeros((), device=self.flat.device)
        self.learning_rate = torch.tensor(learning_rate, device=self.flat.device)
        self.eps, self.max_grad_norm = eps, max_grad_norm

    def gradient(self, loss: Tensor) -> Tensor:
        """Returns the gradient of a scalar loss, `[P]`; zero where it depends on nothing."""
        gradients = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
        with torch.no_grad():
            return flatten_gradients(gradients, self.parameters)

    @torch.no_grad()
    def apply(self, gradient: Tensor) -> Tensor:
        """Clips `gradient` `[P]` in place and takes one step; returns the norm before clipping."""
        norm = clip_by_norm(gradient, self.max_grad_norm) if self.max_grad_norm else gradient.norm()
        adam_step(
            self.flat,
            gradient,
            self.mean,
            self.square,
            self.steps,
            self.learning_rate,
            self.eps,
        )
        return norm

    def state_dict(self) -> dict[str, Tensor]:
        """Returns Adam's moments and its number of steps; schedules set the learning rate anew."""
        return {"mean": self.mean, "square": self.square, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes a state back."""
        self.mean.copy_(state["mean"])
        self.square.copy_(state["square"])
        self.steps.copy_(state["steps"])
