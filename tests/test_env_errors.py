"""Which backend takes an id, and what a wrong id, argument, space or env says."""

import sys
from importlib import import_module

import gymnasium
import numpy as np
import pytest
import toy_envs
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv

from fastrl.envs.foreign import call
from fastrl.envs.gym_env import GymEnv
from fastrl.envs.make import make_env, wrap_vector_env
from fastrl.envs.vector import EnvError
from fastrl.spaces.actions import check_action_space
from fastrl.spaces.observations import observation_rows


def toy(name: str) -> str:
    """Return the id of a toy env."""
    return f"{toy_envs.__name__}:{name}"


# Choice of the backend


def test_auto_prefers_envpool_and_takes_gymnasium_for_the_rest():
    for env_id, backend in (("CartPole-v1", "envpool"), (toy("CountingEnv"), "gymnasium")):
        env = make_env(env_id, 1)
        env.close()
        assert (env.env_id, env.backend) == (env_id, backend)


@pytest.mark.parametrize(
    ("env_id", "backend", "message"),
    [
        ("CartPol-v1", "auto", "CartPole-v1"),
        ("cartpole-v1", "auto", "CartPole-v1"),
        (
            "LunarLander-v2",
            "gymnasium",
            "backend 'envpool' has it; other versions:.* LunarLander-v3",
        ),
        ("LunarLander-v7", "auto", "LunarLander-v2, LunarLander-v3"),
        ("Pong-v4", "auto", "other versions: Pong-v5$"),
        ("ALE/Pong-v5", "auto", "EnvPool has the game as 'Pong-v5'; .* ale-py .*'ale_py:ALE/Pong-"),
        ("ALE/Pong-v5", "gymnasium", "EnvPool has the game as 'Pong-v5'"),
        ("MsPacman-ramNoFrameskip-v4", "envpool", "EnvPool has the game as 'MsPacman-v5'"),
        ("ALE/Pongg-v5", "auto", "nearest: Pong-v5"),
        (toy("NoSuchEnv"), "auto", "NoSuchEnv"),
        ("no_such_module:Env", "auto", "no_such_module"),
        ("tokens:Env", "envpool", "unknown env"),
    ],
)
def test_unknown_id_is_a_value_error_with_a_way_out(env_id, backend, message):
    with pytest.raises(ValueError, match=message):
        make_env(env_id, 1, backend=backend)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_envs": 0}, "num_envs=0"),
        ({"num_envs": 1, "num_threads": -1}, "num_threads=-1"),
        ({"num_envs": 1, "backend": "gym"}, "backend='gym'.*envpool"),
        ({"num_envs": 1, "env_kwargs": {"gravity": 1}}, "gravity.*max_episode_steps"),
        ({"num_envs": 1, "env_kwargs": {"seed": 1}}, "seed"),
    ],
)
def test_wrong_argument_is_a_value_error(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make_env("CartPole-v1", **kwargs)


@pytest.mark.parametrize("env_id", ["Go9x9-v1", "SearchAndRescue-v0"])
def test_unsupported_task_says_what_is_supported(env_id):
    with pytest.raises(ValueError, match="supported:"):
        make_env(env_id, 1)


BOX, DISCRETE = spaces.Box(-1, 1, (3,)), spaces.Discrete(2)


@pytest.mark.parametrize(
    ("space", "named"),
    [
        (spaces.Text(3), "Text"),
        (spaces.Box(0, 1, ()), r"\(\)"),
        (spaces.Sequence(BOX), "Sequence"),
        (spaces.Dict({"x": spaces.Text(3)}), "Text.*of 'x'"),
    ],
)
def test_unsupported_observation_space_is_named(space, named):
    with pytest.raises(ValueError, match=f"MyEnv: .*{named}.*supported: Box"):
        observation_rows("MyEnv", space, DISCRETE)


@pytest.mark.parametrize(
    "space",
    [spaces.Box(-1, 1, (0,)), spaces.Dict({}), spaces.Dict({"x": spaces.Box(0, 1, (2, 0))})],
)
def test_observation_space_without_numbers_is_refused(space):
    with pytest.raises(ValueError, match=r"MyEnv: observation space .* holds no numbers"):
        observation_rows("MyEnv", space, DISCRETE)


@pytest.mark.parametrize(
    ("space", "named"),
    [
        (spaces.MultiBinary((2, 2)), "MultiBinary"),
        (spaces.MultiDiscrete([[2, 2]]), "MultiDiscrete"),
        (spaces.Box(-1, 1, (2, 2)), r"\(2, 2\)"),
        (spaces.Box(-np.inf, np.inf, (2,)), "inf"),
        (spaces.Dict({"x": BOX}), "Dict"),
    ],
)
def test_unsupported_action_space_is_named(space, named):
    with pytest.raises(ValueError, match=f"MyEnv: .*{named}.*supported: Discrete"):
        check_action_space(space, "MyEnv")


def test_wrap_vector_env_refuses_a_single_env():
    with pytest.raises(ValueError, match="VectorEnv"):
        wrap_vector_env(gymnasium.make("CartPole-v1"))  # pyright: ignore[reportArgumentType]


# Errors inside an env


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_error_in_step_names_the_env_and_keeps_its_cause(is_wrapped):
    if is_wrapped:
        env = wrap_vector_env(SyncVectorEnv([toy_envs.RaisingEnv] * 3), seed=0)
    else:
        env = make_env(toy("RaisingEnv"), 3, env_kwargs={"bad_seed": 1})
    env.reset()
    with pytest.raises(
        EnvError, match="RaisingEnv.*the simulator exploded" if not is_wrapped else "exploded"
    ) as caught:
        for _ in range(3):
            env.step(np.zeros(3, np.int64))
    assert isinstance(caught.value.__cause__, ArithmeticError)
    assert is_wrapped or "env 1" in str(caught.value)


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_error_names_the_innermost_line_of_the_users_own_code(is_wrapped, tmp_path, monkeypatch):
    path = tmp_path / f"my_env_{is_wrapped}.py"
    path.write_text(
        "import gymnasium, json\n"
        "class MyEnv(gymnasium.Env):\n"
        "    observation_space = gymnasium.spaces.Box(-1, 1, (2,))\n"
        "    action_space = gymnasium.spaces.Discrete(2)\n"
        "    def reset(self, *, seed=None, options=None):\n"
        "        return self.read(), {}\n"
        "    def read(self):\n"
        "        return json.loads('[')\n"  # line 8; it is the standard library that raises
    )
    monkeypatch.syspath_prepend(tmp_path)
    if is_wrapped:
        env = wrap_vector_env(SyncVectorEnv([import_module(path.stem).MyEnv]), seed=0)
    else:
        env = make_env(f"{path.stem}:MyEnv", 1)
    with pytest.raises(EnvError) as caught:
        env.reset()
    assert str(caught.value).endswith(f" ({path}:8)")


def test_error_in_an_imported_module_names_its_line(tmp_path, monkeypatch):
    (tmp_path / "broken_env.py").write_text("import numpy\n\nnumpy.zeros(-1)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EnvError) as caught:
        make_env("broken_env:make", 1)
    assert str(caught.value).endswith(f"dimensions are not allowed ({tmp_path}/broken_env.py:3)")


def test_error_of_an_installed_package_alone_names_no_line():
    env = gymnasium.make("CartPole-v1", disable_env_checker=True)
    with pytest.raises(EnvError) as caught:
        call("CartPole-v1: step", env.step, 0)  # before its reset
    assert str(caught.value).startswith("CartPole-v1: step raised ResetNeeded")
    assert ".py" not in str(caught.value)


class LeavingEnv(toy_envs.ToyEnv):
    """Calls sys.exit, as a script that was made an environment may do."""

    def outcome(self, action):
        sys.exit(0)

    def reset(self, *, seed=None, options=None):
        if seed == 1:
            sys.exit(0)
        return super().reset(seed=seed, options=options)


def test_env_that_exits_is_an_error():
    with pytest.raises(EnvError, match="LeavingEnv: reset of env 1 raised SystemExit"):
        GymEnv("LeavingEnv", [LeavingEnv, LeavingEnv], [0, 1]).reset()
    env = GymEnv("LeavingEnv", [LeavingEnv], [0])
    env.reset()
    with pytest.raises(EnvError, match="LeavingEnv: step of env 0 raised SystemExit: 0"):
        env.step(np.zeros(1, np.int64))


class HugeEnv(toy_envs.ToyEnv):
    """Gives rewards that float32 cannot hold."""

    def outcome(self, action):
        return 1e300, False, False


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_reward_beyond_float32_is_infinite_without_a_warning(is_wrapped):
    if is_wrapped:
        env = wrap_vector_env(SyncVectorEnv([HugeEnv]), seed=0)
    else:
        env = GymEnv("HugeEnv", [HugeEnv], [0])
    env.reset()
    assert env.step(np.zeros(1, np.int64)).rewards == np.inf


def test_envpool_refuses_actions_of_a_wrong_shape():
    env = make_env("CartPole-v1", 2, backend="envpool")
    env.reset()
    with pytest.raises(ValueError, match=r"\(3,\)"):
        env.send(np.zeros(3, np.int64))
    env.close()
