"""Adam and RMSprop over all parameters of a module as one vector, in two halves.

A step is a gradient and its application. Between the halves is the one place where many ranks
average: a single all-reduce over `[P]`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastrl.kernels.adam import clip_by_norm, fused_adam_step
from fastrl.models.layers import flatten_gradients, flatten_parameters
from fastrl.ops.rmsprop import rmsprop_step


class FlatOptimizer:
    """The parameters of a module become views of one vector `[P]`; so is the optimiser's state.

    All state is in tensors that are changed in place, so a recorded or compiled step stays valid
    for the whole run, whatever a schedule does to `learning_rate`.
    """

    def __init__(
        self, module: nn.Module, learning_rate: float, eps: float, max_grad_norm: float
    ) -> None:
        """Takes over the parameters of a module that stays on its device.

        Args:
            module: whose parameters are trained.
            learning_rate: initial step size.
            eps: the optimiser's epsilon.
            max_grad_norm: gradients are scaled down to this Euclidean norm; 0 leaves them alone.
        """
        self.parameters = list(module.parameters())
        self.flat = flatten_parameters(module)
        self.learning_rate = torch.tensor(learning_rate, device=self.flat.device)
        self.eps, self.max_grad_norm = eps, max_grad_norm

    def gradient(self, loss: Tensor) -> Tensor:
        """Returns the gradient of a scalar loss, `[P]`; zero where it depends on nothing."""
        return self.gradient_through([loss], None)

    def gradient_through(
        self, outputs: Sequence[Tensor], d_outputs: Sequence[Tensor] | None
    ) -> Tensor:
        """Returns the gradient `[P]` of a loss whose gradient by `outputs` is `d_outputs`."""
        gradients = torch.autograd.grad(outputs, self.parameters, d_outputs, materialize_grads=True)
        with torch.no_grad():
            return flatten_gradients(gradients, self.parameters)

    @torch.no_grad()
    def apply(self, gradient: Tensor) -> Tensor:
        """Clips `gradient` `[P]` in place and takes one step; returns the norm before clipping."""
        norm = clip_by_norm(gradient, self.max_grad_norm) if self.max_grad_norm else gradient.norm()
        self._step(gradient)
        return norm

    def _step(self, gradient: Tensor) -> None:
        raise NotImplementedError

    def state_dict(self) -> dict[str, Tensor]:
        """Returns what steps leave behind; schedules set the learning rate anew."""
        raise NotImplementedError

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes a state back; ValueError for another shape, which copying may fill with numbers."""
        for name, tensor in self.state_dict().items():
            saved = state[name]
            if not isinstance(saved, Tensor) or saved.shape != tensor.shape:
                found = tuple(saved.shape) if isinstance(saved, Tensor) else repr(saved)
                raise ValueError(
                    f"the optimizer's {name} must have shape {tuple(tensor.shape)}, not {found}"
                )
            tensor.copy_(saved)


class FlatAdam(FlatOptimizer):
    """Adam; its moments start at zero."""

    def __init__(
        self, module: nn.Module, learning_rate: float, eps: float, max_grad_norm: float
    ) -> None:
        """Takes over the parameters; arguments as of `FlatOptimizer`."""
        super().__init__(module, learning_rate, eps, max_grad_norm)
        self.mean, self.square = torch.zeros_like(self.flat), torch.zeros_like(self.flat)
        self.steps = torch.zeros((), device=self.flat.device)

    def _step(self, gradient: Tensor) -> None:
        fused_adam_step(
            self.flat,
            gradient,
            self.mean,
            self.square,
            self.steps,
            self.learning_rate,
            self.eps,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Returns Adam's moments and its number of steps."""
        return {"mean": self.mean, "square": self.square, "steps": self.steps}


class FlatRMSprop(FlatOptimizer):
    """RMSprop as TensorFlow writes it; its running square starts at one."""

    def __init__(
        self,
        module: nn.Module,
        learning_rate: float,
        eps: float,
        max_grad_norm: float,
        decay: float,
    ) -> None:
        """Takes over the parameters; `decay` is the share of the running square that stays."""
        super().__init__(module, learning_rate, eps, max_grad_norm)
        self.decay = decay
        self.square = torch.ones_like(self.flat)

    def _step(self, gradient: Tensor) -> None:
        rmsprop_step(self.flat, gradient, self.square, self.learning_rate, self.eps, self.decay)

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the running mean of the gradient's square."""
        return {"square": self.square}
