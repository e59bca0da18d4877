"""RMSprop on one flat vector of all parameters, in place."""

from __future__ import annotations

from torch import Tensor


def rmsprop_step(
    parameters: Tensor,
    gradient: Tensor,
    square: Tensor,
    learning_rate: Tensor,
    eps: float,
    decay: float,
) -> None:
    """One step of RMSprop (Tieleman and Hinton 2012, lecture 6.5) as TensorFlow writes it.

        square <- decay square + (1 - decay) g^2
        parameters <- parameters - learning_rate g / sqrt(square + eps)

    A2C was tuned with this form: epsilon inside the root, and `square` starting at one, so that the
    first steps are small. `torch.optim.RMSprop` has epsilon outside and starts at zero.

    Args:
        parameters: float `[P]`, changed.
        gradient: float `[P]`.
        square: running mean of the gradient's square, float `[P]`, changed.
        learning_rate: a scalar.
        eps: added to `square` under the root.
        decay: share of `square` that stays.
    """
    square.mul_(decay).addcmul_(gradient, gradient, value=1 - decay)
    parameters.sub_(learning_rate * gradient * (square + eps).rsqrt())
