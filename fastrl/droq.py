"""DroQ (Hiraoka et al. 2021, arXiv 2110.02034): SAC that learns from far fewer steps.

    python -m fastrl.droq --env-id Hopper-v4

The critics have dropout and layer norm, which keeps them from overestimating, so that they can
take many gradient steps per environment step, each on fresh transitions. After every
`policy_frequency` of them the actor takes one, on a batch of its own, towards the mean of the
critics.
"""

from __future__ import annotations

if __name__ == "__main__":  # before torch is imported, so that --help and mistakes answer at once
    from fastrl.cli import main as command_line

    raise SystemExit(command_line("droq", file=__file__))

from typing import Any, Unpack

import torch
from torch import Tensor

from fastrl.agents.signatures import DroQSettings
from fastrl.buffers.replay import Transitions
from fastrl.config.droq import DroQConfig
from fastrl.models.critics import Critics
from fastrl.ops.dropout import draw_dropout
from fastrl.sac import MOST_DRAWN, SAC


class DroQ(SAC):
    """A DroQ agent: `DroQ("Hopper-v4", seed=1).learn(100_000)`."""

    algo = "droq"
    config_class = DroQConfig
    config: DroQConfig

    def __init__(
        self, env: Any, config: DroQConfig | None = None, **settings: Unpack[DroQSettings]
    ) -> None:
        """Makes environments, networks and optimiser; arguments as of `BaseAgent`."""
        super().__init__(env, config, **settings)

    def _make_critics(self, **more: Any) -> Critics:
        return super()._make_critics(layer_norm=self.config.layer_norm, **more)

    def build(self, minibatch: Transitions) -> None:
        """Has the engine build the gradient steps of the critics and of the actor, apart."""
        batch_size, num_actions = self.config.per_rank_batch_size, self.policy.num_actions
        self._noise = torch.zeros(MOST_DRAWN, batch_size, num_actions, device=self.device)
        num_values = self.critics.num_mask_values(batch_size)
        self._masks = torch.ones(2 * num_values, device=self.device)
        masks = self._target_masks, self._online_masks = self._masks.split(num_values)
        example = (*minibatch, self._noise[0], self._noise[0], *masks)
        build = self.engine.build  # methods are found anew each time: a callback may replace one
        self._take_critic_step = build(lambda *fields: self.learn_critics(*fields), example)
        self._take_actor_step = build(lambda *fields: self.learn_actor(*fields), example)

    def _learn(self, num_steps: int) -> None:
        """Takes gradient steps, each on transitions of its own, those of the actor too."""
        assert self.replay is not None
        batch_size, rate = self.config.per_rank_batch_size, self.config.dropout_rate
        generator, masks = self._step_generator, (self._target_masks, self._online_masks)
        for rows, noise in self._rows_and_noise(num_steps):
            draw_dropout(self._masks, rate, generator)
            has_actor_step = self._begin_step()
            self._take_critic_step(*self.replay.gather(rows), noise, noise, *masks)
            if has_actor_step:
                (own_rows,) = self.replay.draw(1, batch_size, self._row_generator)
                draw_dropout(self._online_masks, rate, generator)
                noise.normal_(generator=generator)
                self._take_actor_step(*self.replay.gather(own_rows), noise, noise, *masks)

    def _combine(self, values: Tensor) -> Tensor:
        """Returns the mean over the critics, `[B]` (algorithm 2, line 9)."""
        return values.mean(0)


# What `python -m fastrl.droq`, and what `evaluate` and `export` call.
main, load_agent = DroQ.run, DroQ.load_anywhere
