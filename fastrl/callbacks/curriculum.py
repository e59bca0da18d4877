"""A callback that makes the task harder as the policy gets better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastrl.callbacks.base import Callback
from fastrl.callbacks.trainer import Trainer, is_settled


class Curriculum(Callback):
    """Changes the training environments stage by stage.

    The next stage begins once the mean return of 100 training episodes, all of them begun and ended
    in this stage, reaches a return. Gymnasium environments get the new values as attributes, at
    once, in the middle of their episodes. EnvPool's have none: they are made anew, with the values
    as arguments. Greedy tests, videos and the best policy are those of the task of the settings,
    whatever the stage.

    Args:
        stages: names and values for each stage, the first one for the beginning of the run.
        at_return: what ends a stage: one for all, or one for each stage but the last.
        method: calls this method of the environments with the values as keyword arguments, in place
            of setting attributes.
        reopen: makes environments anew also where they have attributes.
    """

    def __init__(
        self,
        stages: Sequence[Mapping[str, Any]],
        at_return: float | Sequence[float],
        method: str = "",
        reopen: bool = False,
    ) -> None:
        if len(stages) < 2:
            raise ValueError(f"a curriculum has two stages or more, not {len(stages)}")
        if not isinstance(at_return, Sequence):
            at_return = [at_return] * (len(stages) - 1)
        if len(at_return) != len(stages) - 1:
            raise ValueError(
                f"at_return has {len(at_return)} returns for {len(stages)} stages; it must have "
                f"{len(stages) - 1}, one for each but the last"
            )
        if method and reopen:
            raise ValueError("method and reopen exclude each other")
        self.stages, self.at_return = [dict(stage) for stage in stages], list(at_return)
        self.method, self.must_reopen = method, reopen
        self.stage = 0
        """Number of the current stage, from 0."""
        self._episodes_before = 0  # that ended before the first episode that begins in this stage

    def on_fit_start(self, trainer: Trainer) -> None:
        """Sets the stage, of a resumed run the one it was in."""
        self._apply(trainer)

    def on_update_end(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Goes on to the next stage if it is time."""
        if self.stage < len(self.at_return) and is_settled(trainer, self._episodes_before):
            reached, needed = trainer.mean_return, self.at_return[self.stage]
            if reached >= needed:
                self.stage += 1
                # Each environment is in the middle of an episode that began in the stage before.
                self._episodes_before = trainer.episodes + trainer.config.num_envs * (
                    trainer.num_ranks
                )
                self._apply(trainer)
        trainer.log("Curriculum/stage", self.stage)

    def _apply(self, trainer: Trainer) -> None:
        values = self.stages[self.stage]
        if self.must_reopen or trainer.envs[0].backend == "envpool":
            trainer.reopen(**values)
        elif self.method:
            trainer.call(self.method, **values)
        else:
            for name, value in values.items():
                trainer.set_attr(name, value)

    def state_dict(self) -> dict[str, Any]:
        """Returns the stage, and which episodes are from before it."""
        return {"stage": self.stage, "episodes_before": self._episodes_before}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on in that stage; ValueError if there are fewer stages now."""
        if not 0 <= state["stage"] < len(self.stages):
            raise ValueError(
                f"the run was in stage {state['stage']}; there are {len(self.stages)} stages now"
            )
        self.stage, self._episodes_before = state["stage"], state["episodes_before"]
