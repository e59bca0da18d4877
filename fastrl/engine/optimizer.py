"""Adam and RMSprop over all trained parameters of a module as one vector `[P]`.

A step is a gradient and its application. Between the two is the one place where many ranks exchange
anything: a single all-reduce over `[P]`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from operator import is_
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor, nn

from fastrl.kernels.adam import clip_by_norm, fused_adam_step
from fastrl.models.layers import check_float32, flatten_gradients, flatten_parameters
from fastrl.ops.rmsprop import rmsprop_step


class FlatParameters:
    """The trained parameters of a module as views of one vector `[P]`.

    A step of an optimiser, a norm or an all-reduce is then one operation.
    """

    def __init__(self, module: nn.Module, partner: Callable[[], nn.Module] | None = None) -> None:
        """Moves the parameters into one vector.

        Args:
            module: stays on its device.
            partner: returns a module of the same layers that is trained in its place, so that it
                follows by moving towards that one's vector; by default it is trained itself.
        """
        self._partner = partner
        self.parameters: list[nn.Parameter] = []
        self.flat = torch.empty(0)
        self._described: list[tuple[Any, ...]] = []
        self._trained: list[tuple[nn.Parameter, bool]] = []
        self.adopt(module)

    def adopt(self, module: nn.Module) -> bool:
        """Takes the parameters as they are now; layers and weights may have been replaced.

        Returns:
            Whether they are those of before, by name and shape, so that what is kept for each still
            fits: others may have been frozen.

        Raises:
            ValueError: one of them is not float32, as after `policy.double()`.
        """
        parameters, before = self._of(module), self._described
        names = {id(x): name for name, x in module.named_parameters()}
        check_float32(((names[id(x)], x) for x in parameters), "trained")
        for x in parameters:
            if getattr(x, "_post_accumulate_grad_hooks", None):
                raise ValueError(
                    f"the weights {names[id(x)]} have a post_accumulate_grad_hook, which nothing "
                    "calls: gradients are not accumulated here; register_hook works"
                )
        if not self.holds(module):
            like = next(module.parameters(), self.flat)
            self.parameters = parameters
            self.flat = flatten_parameters(parameters) if parameters else like.new_empty(0)
        self._described = [(names[id(x)], x.shape) for x in parameters]
        self._trained = [(x, x.requires_grad) for x in self._trained_as(module).parameters()]
        return before == self._described

    def holds(self, module: nn.Module) -> bool:
        """Tells whether the module's parameters still are those views."""
        parameters = self._of(module)
        are_same = len(parameters) == len(self.parameters) and all(
            map(is_, parameters, self.parameters)
        )
        return are_same and self.are_in_place()

    def are_in_place(self) -> bool:
        """Tells whether the parameters lie where `adopt` put them, and the same ones are trained.

        Whether they still are the module's, `holds` tells, and more quickly the engine's `Layout`.
        """
        if any(x.requires_grad is not is_trained for x, is_trained in self._trained):
            return False
        place, size = self.flat.data_ptr(), self.flat.element_size()
        for x in self.parameters:
            if x.data_ptr() != place or not x.is_contiguous():
                return False
            place += size * x.numel()
        return True

    def _trained_as(self, module: nn.Module) -> nn.Module:
        return module if self._partner is None else self._partner()

    def _of(self, module: nn.Module) -> list[nn.Parameter]:
        pairs = zip(module.parameters(), self._trained_as(module).parameters(), strict=True)
        return [mine for mine, theirs in pairs if theirs.requires_grad]

    def gradient(self, loss: Tensor) -> Tensor:
        """Returns the gradient of a scalar loss, `[P]`; zero where it depends on nothing."""
        if not loss.requires_grad or not self.parameters:
            return torch.zeros_like(self.flat)  # all that it depends on is frozen
        gradients = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
        with torch.no_grad():
            return flatten_gradients(gradients)

    def gradient_through(self, outputs: Sequence[Tensor], d_outputs: Sequence[Tensor]) -> Tensor:
        """Returns the gradient `[P]` of a loss whose gradient by `outputs` is `d_outputs`."""
        return self.gradient(_ScalarWithGradient.apply(d_outputs, *outputs))  # pyright: ignore


class _ScalarWithGradient(torch.autograd.Function):
    """A scalar whose gradient by some tensors is known; its value is 0.

    `torch.autograd.grad` takes gradients of outputs too, but at the first of them it imports a
    library for symbolic shapes, which takes a third of a second.
    """

    @staticmethod
    def forward(ctx: Any, gradients: Sequence[Tensor], *outputs: Tensor) -> Tensor:
        ctx.gradients = gradients
        return outputs[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        return None, *ctx.gradients


class FlatOptimizer(FlatParameters):
    """Base of the optimisers: the gradient, clipped, and one step along it.

    All state is in tensors that are changed in place, so a recorded or compiled step stays valid
    for the whole run, whatever a schedule does to `learning_rate`.
    """

    is_static: ClassVar[bool] = True
    """Whether a step is the same tensor operations each time, so that it can be recorded."""
    weight_decay = 0.0
    """Share of the weights that a step takes off before the gradient's, times the learning rate."""

    def __init__(
        self, module: nn.Module, learning_rate: float, eps: float, max_grad_norm: float
    ) -> None:
        """Takes over the trained parameters of a module.

        Args:
            module: whose parameters are trained; it stays on its device.
            learning_rate: initial step size.
            eps: the optimiser's epsilon.
            max_grad_norm: gradients are scaled down to this Euclidean norm; 0 leaves them alone.
        """
        super().__init__(module)
        self._learning_rate = torch.tensor(learning_rate, device=self.flat.device)
        self.eps, self.max_grad_norm = eps, max_grad_norm
        self.reset()

    @property
    def learning_rate(self) -> Tensor:
        """A scalar; a number or a tensor assigned to it is written into it."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, rate: float | Tensor) -> None:
        self._learning_rate.fill_(rate)

    @property
    def param_groups(self) -> NoReturn:
        """Is what torch's optimisers have; these have one learning rate for all parameters."""
        raise AttributeError(
            "fastrl's optimisers have one learning rate for all parameters: assign to "
            "optimizer.learning_rate, in place of param_groups"
        )

    def adopt(self, module: nn.Module) -> bool:
        """As `FlatParameters.adopt`.

        If parameters were only frozen, the others keep their state; otherwise it begins anew.
        """
        before, fits = self._places(), super().adopt(module)
        if not fits and hasattr(self, "eps"):
            kept = {name: tensor.clone() for name, tensor in self.state_dict().items()}
            now = self._places()
            self.reset()
            if now.keys() <= before.keys():
                self._take_pieces(kept, [(now[x], before[x]) for x in now])
        return fits

    def _places(self) -> dict[Any, slice]:
        """Returns where each parameter is in the vector, by what it was described as."""
        ends = list(accumulate(math.prod(shape) for _, shape in self._described))
        places = pairwise([0, *ends])
        return {x: slice(*place) for x, place in zip(self._described, places, strict=True)}

    def _take_pieces(self, kept: dict[str, Tensor], places: list[tuple[slice, slice]]) -> None:
        """Takes of an earlier state what it says of some parameters, and its numbers."""
        for name, tensor in self.state_dict().items():
            if tensor.dim():
                for mine, theirs in places:
                    tensor[mine] = kept[name][theirs]
            else:
                tensor.copy_(kept[name])

    def reset(self) -> None:
        """Makes the state in which training begins; in the middle of a run too."""
        raise NotImplementedError

    def _begin_state(self, name: str, value: float, like: Tensor) -> None:
        """Fills a part of the state, in place where it fits: what is built goes on with it."""
        held = getattr(self, name, None)
        if held is not None and held.shape == like.shape and held.device == like.device:
            held.fill_(value)
        else:
            setattr(self, name, torch.full_like(like, value))

    @torch.no_grad()
    def apply(self, gradient: Tensor) -> Tensor:
        """Clips `gradient` `[P]` in place and takes one step; returns the norm before clipping."""
        norm = clip_by_norm(gradient, self.max_grad_norm) if self.max_grad_norm else gradient.norm()
        if self.weight_decay:
            self.flat.mul_(1 - self.learning_rate * self.weight_decay)
        self._step(gradient)
        return norm

    def _step(self, gradient: Tensor) -> None:
        raise NotImplementedError

    def state_dict(self) -> dict[str, Tensor]:
        """Returns what steps leave behind; schedules set the learning rate anew."""
        raise NotImplementedError

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes a state back, of these shapes."""
        for name, tensor in self.state_dict().items():
            tensor.copy_(state[name])


def checked_flat(optimizer: Any) -> Any:
    """Returns one of these optimisers; ValueError if it is another one.

    Args:
        optimizer: as an agent has it, from `make_optimizer` or as an attribute.
    """
    if not isinstance(optimizer, FlatParameters):
        raise ValueError(
            f"an optimiser must be FlatAdam or FlatRMSprop of fastrl.engine.optimizer, or derived "
            f"from FlatOptimizer, not {type(optimizer).__name__}; a LightningAgentModule takes "
            "torch's from configure_optimizers"
        )
    return optimizer


class FlatAdam(FlatOptimizer):
    """Adam (Kingma and Ba 2015, arXiv 1412.6980); its moments start at zero."""

    mean: Tensor
    square: Tensor
    steps: Tensor

    def __init__(
        self,
        module: nn.Module,
        learning_rate: float,
        eps: float,
        max_grad_norm: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
    ) -> None:
        """Takes over the parameters.

        Args:
            module: whose parameters are trained.
            learning_rate: initial step size.
            eps: added to the root of the mean square.
            max_grad_norm: gradients are scaled down to this Euclidean norm; 0 leaves them alone.
            betas: decay rates of the running means of the gradient and of its square.
            weight_decay: share of the weights that a step takes off, times the learning rate, apart
                from the gradient (AdamW: Loshchilov and Hutter 2019, arXiv 1711.05101).
        """
        super().__init__(module, learning_rate, eps, max_grad_norm)
        self.betas, self.weight_decay = betas, weight_decay

    def reset(self) -> None:
        """Sets moments and the number of steps to zero."""
        self._begin_state("mean", 0.0, self.flat)
        self._begin_state("square", 0.0, self.flat)
        self._begin_state("steps", 0.0, self.learning_rate)

    def _step(self, gradient: Tensor) -> None:
        state = self.mean, self.square, self.steps
        fused_adam_step(self.flat, gradient, *state, self.learning_rate, self.eps, *self.betas)

    def unreached(self) -> list[tuple[str, int]]:
        """Returns names and sizes of parameters whose gradient was 0 in all steps."""
        places = self._places().items()
        idle = [(name, part) for (name, _), part in places if not self.square[part].any()]
        return [(name, part.stop - part.start) for name, part in idle]

    def state_dict(self) -> dict[str, Tensor]:
        """Returns Adam's moments and its number of steps."""
        return {"mean": self.mean, "square": self.square, "steps": self.steps}


class FlatRMSprop(FlatOptimizer):
    """RMSprop as TensorFlow writes it; its running square starts at one."""

    square: Tensor

    def __init__(
        self,
        module: nn.Module,
        learning_rate: float,
        eps: float,
        max_grad_norm: float,
        decay: float,
        weight_decay: float = 0.0,
    ) -> None:
        """Takes over the parameters.

        Args:
            module: whose parameters are trained.
            learning_rate: initial step size.
            eps: added to the mean square under the root.
            max_grad_norm: gradients are scaled down to this Euclidean norm; 0 leaves them alone.
            decay: share of the running square that stays.
            weight_decay: share of the weights that a step takes off, times the learning rate, apart
                from the gradient.
        """
        super().__init__(module, learning_rate, eps, max_grad_norm)
        self.decay, self.weight_decay = decay, weight_decay

    def reset(self) -> None:
        """Sets the running square to one."""
        self._begin_state("square", 1.0, self.flat)

    def _step(self, gradient: Tensor) -> None:
        rmsprop_step(self.flat, gradient, self.square, self.learning_rate, self.eps, self.decay)

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the running mean of the gradient's square."""
        return {"square": self.square}
