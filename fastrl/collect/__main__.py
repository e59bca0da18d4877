"""Collects whole episodes of a trained, random or mixed policy into a dataset.

python -m fastrl.collect RUN --steps 1e6 --out DIR
python -m fastrl.collect --env-id CartPole-v1 --policy random --steps 1e5 --out DIR
"""

from __future__ import annotations

from fastrl.processes.signals import StopSignals, leaving_at_once

with leaving_at_once():  # user errors are reported before torch is imported
    import argparse
    import sys
    from collections.abc import Sequence
    from typing import Any

    from fastrl.agents.load import find_saved, load_agent, named_again, parser_of
    from fastrl.config.values import number_of_flag
    from fastrl.data.metadata import is_empty, read_metadata
    from fastrl.data.packages import check_packages
    from fastrl.processes.errors import exit_status
    from fastrl.runs.folder import expanded
    from fastrl.runs.progress import Progress

_MOST_ENVS = 4096


def main(argv: Sequence[str] | None = None) -> int:
    """Collects episodes; returns 0, 2 after a user error, 130 after Ctrl-C."""
    return exit_status(lambda: _run(_parse(argv)))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    description = "Plays whole episodes with a policy and writes them as a dataset for Minari."
    parser = parser_of("python -m fastrl.collect", description, "task to play", needs_run=False)
    parser.add_argument("--out", metavar="DIR", help="folder of the dataset, which must be new")
    parser.add_argument(
        "--append", action="store_true", help="add to the dataset in DIR, if there is one"
    )
    parser.add_argument(
        "--steps", help="steps to collect, such as 1e6; the last episodes are played to their ends"
    )
    parser.add_argument("--episodes", help="episodes to collect, in place of --steps")
    parser.add_argument(
        "--policy",
        choices=("trained", "random", "mixed"),
        help="what acts (default: trained, or random without RUN)",
    )
    parser.add_argument(
        "--epsilon", help="mixed: probability of a random action at each step (default: 0.1)"
    )
    parser.add_argument(
        "--stochastic", action="store_true", help="draw actions of the trained policy"
    )
    parser.add_argument(
        "--num-envs",
        help="environments side by side (default: one for every 1,000 steps or every episode, at "
        "most 64)",
    )
    parser.add_argument("--seed", help="seed of environments and actions (default: the run's; 0)")
    parser.add_argument(
        "--env-kwargs", nargs="+", metavar="NAME=VALUE", help="arguments of the environments"
    )
    arguments = parser.parse_args(argv)
    arguments.steps = number_of_flag("--steps", arguments.steps, int, 1, 10**12)
    arguments.episodes = number_of_flag("--episodes", arguments.episodes, int, 1, 10**9)
    arguments.num_envs = number_of_flag("--num-envs", arguments.num_envs, int, 1, _MOST_ENVS)
    arguments.seed = number_of_flag("--seed", arguments.seed, int, 0, 2**63 - 1)
    arguments.epsilon = number_of_flag("--epsilon", arguments.epsilon, float, 0, 1)
    _check(arguments)
    return arguments


def _check(arguments: argparse.Namespace) -> None:
    """Fills in the policy; raises ValueError for flags that lack something or have no effect."""
    if arguments.out is None:
        raise ValueError("--out is missing: the folder of the dataset")
    if (arguments.steps is None) == (arguments.episodes is None):
        raise ValueError("give --steps or --episodes, one of them")
    if arguments.run is None:
        arguments.policy = arguments.policy or "random"
        if arguments.policy != "random":
            raise ValueError(f"--policy {arguments.policy} needs a RUN whose agent acts")
        if arguments.env_id is None:
            raise ValueError("give a RUN or --env-id")
        for name in ("checkpoint", "agent", "network", "trust"):
            if getattr(arguments, name):
                raise ValueError(f"--{name} has no effect without a RUN")
    arguments.policy = arguments.policy or "trained"
    if arguments.policy != "mixed" and arguments.epsilon is not None:
        raise ValueError("--epsilon has no effect without --policy mixed")
    if arguments.policy == "random" and arguments.stochastic:
        raise ValueError("--stochastic has no effect with --policy random")
    folder = expanded(arguments.out)
    if arguments.append and not is_empty(folder):
        read_metadata(folder)
    elif not is_empty(folder):
        raise ValueError(f"{folder} exists already; give another folder, or --append")
    check_packages()


def _run(arguments: argparse.Namespace) -> int:
    with leaving_at_once():  # torch is imported
        from fastrl.data.describing import seed_of_session, writer_of
        from fastrl.data.playing import default_num_envs, record_episodes

    out = expanded(arguments.out).absolute()  # now: an environment may change the current folder
    num_envs = arguments.num_envs or default_num_envs(arguments.steps, arguments.episodes)
    if arguments.episodes is not None:
        num_envs = min(num_envs, arguments.episodes)

    def session(seed: int) -> int:
        return seed_of_session(
            out, seed if arguments.seed is None else arguments.seed, arguments.append
        )

    prepare = _of_run if arguments.run else _of_id
    with leaving_at_once():  # nothing is written yet
        env, policy, facts, agent = prepare(arguments, num_envs, session)
    try:
        seed, algorithm, kwargs = facts.pop("seed"), facts.pop("algorithm"), facts.pop("kwargs")
        writer = writer_of(
            env, out, arguments.policy, algorithm, seed, kwargs, arguments.append, **facts
        )
        goal = {"num_steps": arguments.steps, "num_episodes": arguments.episodes}
        unit = "steps" if arguments.episodes is None else "episodes"
        signals, progress = StopSignals(speaks=True, is_alone=True), Progress(None)
        with signals, writer, progress, progress.stage("collecting", unit) as show:
            signals.hold()
            record_episodes(env, policy, writer, **goal, should_stop=signals.came, show=show)
    finally:
        for pool in (env, *(agent.envs if agent is not None else ())):
            pool.close()
    if not writer.num_episodes:
        print("no episode has ended: nothing was written")
    else:
        cut = " until it was interrupted" if signals.came() else ""
        episodes, steps, place = writer.num_new_episodes, writer.num_new_steps, arguments.out
        episodes_word = "episode" if episodes == 1 else "episodes"
        print(
            f"{episodes:,} {episodes_word}, {steps:,} steps{cut}; read them by "
            f"fastrl.TrajectoryDataset({place!r}) or minari.MinariDataset({place!r})",
            flush=True,
        )
    return 128 + signals.number if signals.came() else 0


def _of_id(arguments: argparse.Namespace, num_envs: int, session: Any) -> tuple[Any, ...]:
    """Returns environments of an id, the random policy and what the metadata say of both."""
    from fastrl.data.playing import Policy
    from fastrl.data.random_trajectory import open_task
    from fastrl.spaces.random_actions import RandomActions

    seed = session(0)
    kwargs = {"env_kwargs": tuple(arguments.env_kwargs or ())}
    given = {"env_id": arguments.env_id, "num_envs": num_envs}
    env, config = open_task(arguments.env_id, given, kwargs, seed)
    draw = RandomActions(env.single_observation_space, env.single_action_space, seed)
    facts = {"algorithm": "random", "kwargs": config.env_settings["env_kwargs"], "seed": seed}
    return env, Policy(draw), facts, None


def _of_run(arguments: argparse.Namespace, num_envs: int, session: Any) -> tuple[Any, ...]:
    """Returns new environments of a run's task, the policy, metadata of both, and the agent."""
    from fastrl.collect.policies import mixed_policy
    from fastrl.data.playing import Policy
    from fastrl.spaces.random_actions import RandomActions
    from fastrl.training.greedy import fresh_env, policy_of

    named = named_again(arguments)
    saved = find_saved(arguments.run, arguments.checkpoint)
    if arguments.env_kwargs:
        named["env_kwargs"] = tuple(arguments.env_kwargs)
    agent = load_agent(saved, arguments.env_id, **named)
    try:
        seed = session(agent.config.seed)
        env = fresh_env(agent, num_envs, "collect", seed)
    except BaseException:
        for opened in agent.envs:
            opened.close()
        raise
    draw = RandomActions(env.single_observation_space, env.single_action_space, seed)
    agent._predict_generator.manual_seed(seed)
    policy = Policy(*policy_of(agent, num_envs, deterministic=not arguments.stochastic))
    facts = {
        "seed": seed,
        "algorithm": "random" if arguments.policy == "random" else agent.algo,
        "kwargs": agent.config.env_settings["env_kwargs"],
    }
    if arguments.policy == "random":
        return env, Policy(draw), facts, agent
    facts |= {"checkpoint": str(saved.checkpoint), "is_stochastic": arguments.stochastic}
    if arguments.policy == "mixed":
        facts["epsilon"] = epsilon = 0.1 if arguments.epsilon is None else arguments.epsilon
        policy = mixed_policy(policy, draw, epsilon, seed)
    return env, policy, facts, agent


if __name__ == "__main__":
    sys.exit(main())
