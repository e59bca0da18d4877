"""Distributions over actions whose parameters a network of the user's makes, head and all."""

from __future__ import annotations

from typing import Any

from gymnasium import Space
from torch import nn

from fastrl.models.distributions import CategoricalHead
from fastrl.models.heads import make_action_head


def head_over(space: Space) -> Any:
    """Returns the distribution over a space's actions, with no layer of its own.

    Of a Box it has the logarithm of the standard deviation, which learns.

    Raises:
        ValueError: the space is not supported.
    """
    head = make_action_head(space, 1, False, 0.0, None)
    if isinstance(head, CategoricalHead):
        head.logits = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    else:
        head.means = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    return head
