"""Acting as one call of the C++ extension, as a twin of `draw_actions`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fastrl.engine.native import activation_of, network_of
from fastrl.kernels.networks import dense_kernel
from fastrl.models.actor_critic import ActorCritic
from fastrl.models.distributions import CategoricalHead, GaussianHead


class NativeActing:
    """Acts on one step's observations in one call: networks, draw and bounds.

    Between two steps the environments have the caches to themselves: whatever acts then is fetched
    from memory anew, its code too. A policy of 128-64-32 acts on 64 rows in 46 us when it is called
    again and again, and took 160 us between the steps of HalfCheetah as nine operations of torch.
    """

    def __init__(self, policy: ActorCritic, num_rows: int) -> None:
        """Looks up where everything is; parameters and normaliser keep their place in memory."""
        head, num_inputs = policy.head, policy.reader.vector_size
        network = network_of(policy.actor, [head.layer])
        layers = [*network.hidden, *network.heads]
        tensors = [*[weight for weight, _ in layers], *[bias for _, bias in layers]]
        addresses = [tensor.data_ptr() for tensor in tensors]
        shift, scale, limit = 0, 0, 0.0
        if (normalizer := policy.normalizer) is not None:
            tensors += [normalizer.shift, normalizer.scale]
            shift, scale = normalizer.shift.data_ptr(), normalizer.scale.data_ptr()
            limit = normalizer.clip
        self.sources = tensors
        """Where they lie in memory is all that the kernel knows of them."""
        self._kernel = dense_kernel(num_rows, num_inputs, network, activation_of(policy.actor))
        self._kernel.set_policy(addresses, shift, scale, limit)
        self._bounds: list[int] = []
        if isinstance(head, GaussianHead):
            tensors += [head.log_std, head.low, head.high]
            self._bounds = [tensor.data_ptr() for tensor in tensors[-3:]]
        self._kinds = (
            (torch.float32, (num_rows, num_inputs)),
            (torch.float32, (num_rows, head.noise_size)),
            (head.action_dtype, (num_rows, *head.action_shape)),
        )

    @staticmethod
    def why_not(policy: Any) -> list[str]:
        """Says why there is no kernel that draws this policy's actions."""
        if not isinstance(policy, ActorCritic):
            return ["no kernel acts with such networks"]
        head, reader = policy.head, policy.reader
        is_choice = isinstance(head, CategoricalHead) and head.single and not head.shifted
        is_normal = isinstance(head, GaussianHead) and head.log_std is not None
        if not is_choice and not (is_normal and not head.squash):
            return ["no kernel draws such actions"]
        if not reader.is_flat or reader.space.dtype != "float32":
            return ["a kernel acts on vectors of float32 alone"]
        # The kernel would read and write beyond tensors of other sizes.
        width = head.layer.out_features
        if isinstance(head, GaussianHead):
            sizes = head.noise_size, math.prod(head.action_shape)
            rows = head.log_std, head.low, head.high
            fits = {width} == {*sizes} and all(_is_row(x, width) for x in rows)
        else:
            fits = head.num_choices == [width] == [head.noise_size]
        return [] if fits else ["no kernel draws from a head of such sizes"]

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


def _is_row(tensor: Any, width: int) -> bool:
    is_plain = isinstance(tensor, Tensor) and tensor.dtype == torch.float32
    return is_plain and tensor.shape == (width,) and tensor.is_contiguous()
