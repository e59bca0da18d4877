"""What `AgentTrainer.fit` is given: what learns, and what it learns from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
from torch.utils.data import DataLoader, Dataset

from fastrl.training.records import TrainResult


class Asked(NamedTuple):
    """What a trainer was asked for, under Lightning's names; None where nothing was said."""

    max_steps: int | None
    devices: int | None
    precision: str | None
    accelerator: str | None

    @property
    def settings(self) -> dict[str, Any]:
        """What was asked for, as settings of a run."""
        given = {name: x for name, x in self._asdict().items() if x is not None}
        if "max_steps" in given:
            given["total_timesteps"] = given.pop("max_steps")
        return given


def only_target(target: Any, env: Any, dataset: Any) -> Any:
    """Returns the one that was given, under whichever name; ValueError if there are several."""
    given = [x for x in (target, env, dataset) if x is not None]
    if len(given) > 1:
        raise ValueError("fit takes one target: an environment, or data")
    return given[0] if given else None


def is_data(model: Any, target: Any) -> bool:
    """Tells whether a model is to learn from data: a loader, a data set, Lightning's data module.

    Raises:
        ValueError: the model learns from environments alone.
    """
    if isinstance(target, str | gymnasium.Env | gymnasium.vector.VectorEnv) or target is None:
        return False
    found = isinstance(target, DataLoader | Dataset) or _is_lightning(target, "LightningDataModule")
    if found and not _is_lightning(model, "LightningModule"):
        raise ValueError(
            f"{type(model).__name__} learns from environments; data are for a LightningModule"
        )
    return found


def agent_for(model: Any, target: Any, asked: Asked) -> tuple[Any, Any]:
    """Returns the agent that learns, and environments to give it in place of its own, or None.

    Raises:
        ValueError: the model does not learn from environments; or what was asked for would have no
            effect, because the agent is built already.
    """
    if hasattr(model, "make_agent") and not isinstance(model, type):
        if target is None:
            raise ValueError(
                f"fit({type(model).__name__}, env): an environment or data are missing"
            )
        return model.make_agent(target, asked.settings), None
    if _is_lightning(model, "LightningModule"):
        raise ValueError(
            f"{type(model).__name__} is a LightningModule, which learns from data; derive it from "
            "LightningAgentModule to learn from an environment"
        )
    if not hasattr(model, "devices"):
        what = " ".join(repr(model).split())
        raise ValueError(f"fit takes an agent, an object, or a LightningModule, not {what}")
    settings = asked.settings
    for name in settings.keys() - {"total_timesteps"}:
        if (built := getattr(model.config, name)) != settings[name]:
            raise ValueError(
                f"{name}={settings[name]} has no effect: the agent was built with {name}={built}"
            )
    if "total_timesteps" in settings:
        model.config = model.config.replace(total_timesteps=settings["total_timesteps"])
    return model, target


def fit_data(model: Any, data: Any, asked: Asked, loggers: Sequence[Any] = ()) -> TrainResult:
    """Trains a model on data by `lightning.Trainer`, with the same arguments and loggers.

    A data set comes in shuffled batches of 64; a loader says how itself.
    """
    import lightning

    if isinstance(data, Dataset):
        data = DataLoader(data, batch_size=64, shuffle=hasattr(data, "__len__"))
    given = {name: x for name, x in asked._asdict().items() if x is not None}
    if loggers:
        given["logger"] = list(loggers)
    trainer = lightning.Trainer(**given)
    trainer.fit(model, data)
    metrics = {name: float(x) for name, x in trainer.callback_metrics.items()}
    return TrainResult(Path(trainer.log_dir or ""), metrics, 0)


def _is_lightning(thing: Any, name: str) -> bool:
    """Tells whether something is of a class of Lightning's; imports nothing for that."""
    return any(
        kind.__name__ == name and kind.__module__.startswith(("lightning.", "pytorch_lightning."))
        for kind in type(thing).__mro__
    )
