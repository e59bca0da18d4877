"""`evaluate` of all agents: whole episodes in environments that no training sees."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from fastrl.config.calls import names_checked
from fastrl.config.run import MOST_EPISODES
from fastrl.config.values import number_of
from fastrl.envs.rebuild import task_to_play
from fastrl.envs.vector import EnvError
from fastrl.processes.generators import generators_seeded
from fastrl.training.evaluation import Evaluation
from fastrl.training.greedy import MAX_ENVS, Show, fresh_env, play
from fastrl.training.infos import missing


@names_checked
def evaluate(
    agent: Any,
    episodes: int = 100,
    env: Any = None,
    *,
    deterministic: bool = True,
    env_kwargs: Mapping[str, Any] | Sequence[str] | None = None,
    seed: int | None = None,
    info_metrics: Sequence[str] | None = None,
    show: Show = lambda done, total, step: None,
) -> Evaluation:
    """Plays whole episodes and returns what came of them: `model.evaluate(100).mean`.

    They are played in new environments, at most 128 at a time. Neither the environments that are
    trained on nor any random state of the training is touched: it goes on as if nothing had been
    evaluated. The same seed plays the same episodes.

    Args:
        agent: the agent that plays.
        episodes: how many.
        env: an id, a function that returns a `gymnasium.Env`, or an environment, which is reset and
            left open. By default `eval_env`, or else the task that is trained on.
        deterministic: take the likeliest actions in place of drawing some.
        env_kwargs: keyword arguments of the environment to change, a mapping or texts
            `name=value`; others stay as they are.
        seed: of environments and drawn actions; by default the run's.
        info_metrics: numbers of the infos whose means are in the result's `info_means`; by default
            the setting of that name.
        show: called at every step with the number of episodes that ended, `episodes` and the step's
            number.

    Returns:
        `returns`, `lengths` and `infos` of the episodes, with `mean`, `std` and `ci95` of the
        returns.

    Raises:
        ValueError: an argument is out of range; the environments cannot be made, have other spaces
            or fail; an episode does not end; or no info has a name of `info_metrics`.
    """
    if isinstance(episodes, tuple):
        raise ValueError("evaluate plays episodes; for a minibatch call evaluate_actions(batch)")
    episodes = number_of("episodes", episodes, int, 1, MOST_EPISODES)
    seed = int(agent.config.seed if seed is None else number_of("seed", seed, int, 0, 2**63 - 1))
    config = (
        agent.config if info_metrics is None else agent.config.replace(info_metrics=info_metrics)
    )
    if env_kwargs is not None and not isinstance(env_kwargs, Mapping):
        env_kwargs = config.replace(env_kwargs=env_kwargs).env_settings["env_kwargs"]
    claim = agent.engine.claim
    with claim.not_beside_learning(), generators_seeded(seed), _drawing(agent, seed):
        if env is None:
            agent.task = agent.task.checked()
        task = agent.task if env is None else task_to_play(env, agent.envs, config)
        how: Any = {"env_kwargs": env_kwargs, "task": task}
        played = fresh_env(agent, min(episodes, MAX_ENVS), "eval", seed, **how)
        how = {"deterministic": deterministic, "with_infos": True}
        result = play(agent, played, episodes, show=show, info_names=config.info_metrics, **how)
    if words := missing(result.infos, config.info_metrics):
        raise EnvError(f"{result.env_id}: info_metrics: {words}")
    return result


@contextmanager
def _drawing(agent: Any, seed: int) -> Iterator[None]:
    """Context in which `predict` draws from this seed on; after it, it goes on where it was."""
    generator = agent._predict_generator
    before = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(before)
