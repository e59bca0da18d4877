"""A policy that acts on one step's observations in one call of the C++ extension.

Between two steps the environments have the caches to themselves: whatever acts then is fetched from
memory anew, its code too. A policy of 128-64-32 acts on 64 rows in 46 us when it is called again
and again, and took 160 us between the steps of HalfCheetah as nine operations of torch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastrl.kernels.networks import dense_kernel
from fastrl.models.actor_critic import ActorCritic, dense_network
from fastrl.models.distributions import CategoricalHead, GaussianHead


class FusedActing:
    """What `policy.act` draws and `policy.head.to_env` makes of it, for a number of rows.

    The policy's parameters and its normaliser keep their place in memory.
    """

    def __init__(self, policy: ActorCritic, num_rows: int) -> None:
        """Looks up where everything is; `suits` has said that this policy can act so."""
        head, num_inputs = policy.head, policy.reader.vector_size
        network = dense_network(policy.actor, [head.layer])
        layers = [*network.hidden, *network.heads]
        tensors = [*[weight for weight, _ in layers], *[bias for _, bias in layers]]
        addresses = [tensor.data_ptr() for tensor in tensors]
        shift, scale, limit = 0, 0, 0.0
        if (normalizer := policy.normalizer) is not None:
            tensors += [normalizer.shift, normalizer.scale]
            shift, scale = normalizer.shift.data_ptr(), normalizer.scale.data_ptr()
            limit = normalizer.clip
        self._kernel = dense_kernel(num_rows, num_inputs, network, policy.activation)
        self._kernel.set_policy(addresses, shift, scale, limit)
        self._bounds: list[int] = []
        if isinstance(head, GaussianHead):
            tensors += [head.log_std, head.low, head.high]
            self._bounds = [tensor.data_ptr() for tensor in tensors[-3:]]
        self._alive = tensors  # for the kernel knows addresses alone
        self._kinds = (
            (torch.float32, (num_rows, num_inputs)),
            (torch.float32, (num_rows, head.noise_size)),
            (head.action_dtype, (num_rows, *head.action_shape)),
        )

    @staticmethod
    def suits(policy: ActorCritic) -> bool:
        """Tells whether a policy acts so: on vectors, one choice or normals that are clipped."""
        head = policy.head
        if isinstance(head, CategoricalHead):
            is_plain = head.single and not head.shifted
        else:
            is_plain = isinstance(head, GaussianHead) and not head.squash
        is_vector = policy.reader.is_flat and policy.reader.space.dtype == "float32"
        is_own = type(policy) is ActorCritic  # and no class of somebody's, with its own `act`
        return is_own and policy.in_extension and policy.is_dense and is_plain and is_vector

    def __call__(self, obs: Tensor, noise: Tensor, stored: Tensor) -> Tensor:
        """Draws actions for `obs` `[n, O]`, with `noise` `[n, K]`, into `stored` `[n, *A]`.

        Returns what the environments take.
        """
        for tensor, (dtype, shape) in zip((obs, noise, stored), self._kinds, strict=True):
            assert tensor.dtype == dtype and tensor.shape == shape and tensor.is_contiguous(), shape
        places = obs.data_ptr(), noise.data_ptr(), stored.data_ptr()
        if not self._bounds:
            self._kernel.draw_choices(*places)
            return stored.clone()
        bounded = torch.empty_like(stored)
        self._kernel.draw_normals(*places, bounded.data_ptr(), *self._bounds)
        return bounded
