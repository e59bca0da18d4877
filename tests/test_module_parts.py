"""Observations of several parts in modules: the network gets them by key, everywhere."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from quick import quick
from test_module import SMALL, fit, weights_of
from test_own_networks import Task
from test_resume import assert_equal
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fastrl import AgentTrainer, LightningAgentModule
from fastrl.ops.exploration import epsilon_greedy

VECTORS = spaces.Dict(
    own=spaces.Box(-1, 1, (3,)),
    others=spaces.Box(-1, 1, (4, 2)),
    kind=spaces.Discrete(3),
    inner=spaces.Dict(x=spaces.Box(-1, 1, (1,))),
)
IMAGES = spaces.Dict(view=spaces.Box(0, 255, (12, 10, 3), np.uint8), own=spaces.Box(-1, 1, (3,)))
SHAPES = {
    "vectors": {"own": (3,), "others": (4, 2), "kind": (3,), "inner.x": (1,)},
    "images": {"view": (3, 12, 10), "own": (3,)},
}
SPACES = {"vectors": VECTORS, "images": IMAGES}
REPLAY = {"num_steps": 4, "learning_starts": 32, "per_rank_batch_size": 8, "log_every": 0}


class ByKey(nn.Module):
    """Takes parts of these shapes and no others."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], num_outputs: int = 2) -> None:
        super().__init__()
        self.shapes = shapes
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layer = nn.Linear(sum(map(int, map(np.prod, shapes.values()))), num_outputs)
            self.critic = nn.Linear(self.layer.in_features, 1)

    def forward(self, obs: Any) -> Any:
        assert obs.keys() >= self.shapes.keys()
        parts = [obs[name] for name in self.shapes]
        dims = parts[0].dim() - len(next(iter(self.shapes.values())))
        for (name, shape), part in zip(self.shapes.items(), parts, strict=True):
            assert part.dtype == torch.float32 and part.shape[dims:] == shape, (name, part.shape)
        rows = torch.cat([x.flatten(dims) for x in parts], dims)
        return self.layer(rows), self.critic(rows)


class Policy(LightningAgentModule):
    """An actor and critic, of whole rollouts."""

    def __init__(self, network: nn.Module, **settings: Any) -> None:
        super().__init__(**settings)
        self.network = network

    def training_step(self, batch: Any) -> Tensor:
        log_probs, _, values = self.evaluate_actions(batch.obs, batch.actions)
        outputs, same = self.network(batch.obs)
        assert outputs.shape == (*log_probs.shape, 2) and values is not None
        assert self.value(batch.obs).shape == values.shape
        error = (same.squeeze(-1) - batch.returns) ** 2 + (values - batch.returns) ** 2
        return (batch.weights * (error - log_probs * batch.advantages)).sum()


class Shuffled(Policy):
    learns_from = "minibatches"


class PlaysItself(Policy):
    """Plays and samples in Python."""

    def rollout(self, total_steps: int) -> None:
        for _ in range(total_steps):
            outputs, _ = self.network(self.env.obs)
            obs, *_ = self.env.step((outputs + self.env.noise).argmax(1))
            assert obs.keys() == self.network.shapes.keys()

    def sample(self) -> Any:
        return super().sample()


class Values(LightningAgentModule):
    """Q-learning."""

    learns_from = "replay"

    def __init__(self, network: nn.Module, **settings: Any) -> None:
        super().__init__(**settings)
        self.network = network

    def act(self, obs: Any, noise: Tensor) -> Tensor:
        return epsilon_greedy(self.network(obs)[0], noise, torch.tensor(0.1))

    def training_step(self, batch: Any) -> Tensor:
        with torch.no_grad():
            targets = batch.rewards + batch.discounts * self.network(batch.next_obs)[0].amax(1)
        values = self.network(batch.obs)[0].gather(1, batch.actions.unsqueeze(1)).squeeze(1)
        return nn.functional.smooth_l1_loss(values, targets)


def module_of(kind: Any, parts: str, **settings: Any) -> Any:
    more = REPLAY if kind is Values else {}
    return kind(ByKey(SHAPES[parts]), **{**SMALL, "backend": "gymnasium", **more, **settings})


WAYS = [
    *[(Policy, "vectors"), (Policy, "images"), (Shuffled, "vectors"), (Shuffled, "images")],
    *[(PlaysItself, "vectors"), (PlaysItself, "images"), (Values, "vectors")],
]
of_all = pytest.mark.parametrize(
    ("kind", "parts"),
    quick(
        WAYS,
        (Shuffled, "images"),
        (Values, "vectors"),
    ),
    ids=[f"{kind.__name__}-{parts}" for kind, parts in WAYS],
)


@of_all
def test_a_network_gets_parts_by_key_in_acting_learning_predicting_and_exports(
    kind, parts, tmp_path
):
    module = module_of(kind, parts)
    before = weights_of(module)
    fit(module, partial(Task, SPACES[parts], False), tmp_path)
    assert not module.network.layer.weight.equal(before["network.layer.weight"])
    shown = SPACES[parts].sample()
    assert module.predict(shown) in (0, 1)
    raw = {name: torch.as_tensor(np.array(x)[None]) for name, x in flat(shown).items()}
    with torch.no_grad():
        outputs, _ = module(raw)  # as the environment shows it, with whole numbers and bytes
    assert outputs.argmax(1).item() == module.predict(shown)
    module.agent.export(tmp_path / "policy.pt")
    exported = torch.jit.load(tmp_path / "policy.pt")
    assert exported(raw).item() == module.predict(shown)


def flat(observation: Any, prefix: str = "") -> dict[str, Any]:
    parts: dict[str, Any] = {}
    for name, x in observation.items():
        inner = isinstance(x, dict)
        parts |= flat(x, f"{prefix}{name}.") if inner else {f"{prefix}{name}": x}
    return parts


@pytest.mark.parametrize("kind", quick([Shuffled, Values], Shuffled))
def test_steps_by_key_are_recorded_to_the_bit(kind, tmp_path, caplog):
    runs = []
    for engine in ("eager", "recorded"):
        module = module_of(kind, "vectors", engine=engine)
        fit(module, partial(Task, VECTORS, False), tmp_path)
        runs.append(weights_of(module))
    assert_equal(*runs)


class Masked(gymnasium.Env):
    """Allows one of three actions, which the mask says; pays for it."""

    action_space = spaces.Discrete(3)

    def __init__(self, keys: tuple[str, ...]) -> None:
        parts = {name: spaces.Box(-1, 1, (2,)) for name in keys}
        self.observation_space = spaces.Dict(parts, action_mask=spaces.MultiBinary(3))
        self.steps = self.allowed = 0

    def shown(self) -> Any:
        self.allowed = self.steps % 3
        mask = np.eye(3, dtype=np.int8)[self.allowed]
        parts = {name: np.zeros(2, np.float32) for name in self.observation_space if name[0] != "a"}
        return {**parts, "action_mask": mask}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.steps = 0
        return self.shown(), {}

    def step(self, action: Any) -> Any:
        assert action == self.allowed
        self.steps += 1
        return self.shown(), 1.0, False, self.steps == 8, {}


def test_a_mask_is_obeyed_and_not_shown_to_the_network(tmp_path):
    class Three(Policy):
        def training_step(self, batch: Any) -> Tensor:
            assert batch.obs["action_mask"].shape == (*batch.actions.shape, 3)
            log_probs, entropy, _ = self.evaluate_actions(batch.obs, batch.actions)
            assert self(batch.obs)[0].shape == (*batch.actions.shape, 3)
            return (batch.weights * (entropy - log_probs * batch.returns)).sum()

    class Sees(ByKey):
        def forward(self, obs: Any) -> Any:
            assert list(obs) == ["own", "x"]
            return super().forward(obs)

    network = Sees({"own": (2,), "x": (2,)}, 3)
    module = Three(network, **{**SMALL, "backend": "gymnasium"})
    fit(module, partial(Masked, ("own", "x")), tmp_path)
    shown = {"own": np.zeros(2), "x": np.zeros(2), "action_mask": np.array([0, 0, 1])}
    assert module.predict(shown) == 2


@pytest.mark.parametrize("rolls_out", [False, True])
def test_a_mask_is_obeyed_while_a_replay_warms_up(rolls_out, tmp_path):
    class Chooses(Values):
        def act(self, obs: Any, noise: Tensor) -> Tensor:
            return LightningAgentModule.act(self, obs, noise)

    class RollsOut(Chooses):
        def rollout(self, total_steps: int) -> None:
            super().rollout(total_steps)

    network = ByKey({"own": (2,), "x": (2,)}, 3)
    module = (RollsOut if rolls_out else Chooses)(network, **{**SMALL, **REPLAY})
    fit(module, partial(Masked, ("own", "x")), tmp_path)  # which refuses what is forbidden
    assert module.agent.num_gradient_steps > 0


class BoxWithMask(Masked):
    """Has the mask in its info."""

    def __init__(self) -> None:
        super().__init__(("own",))
        self.observation_space = spaces.Box(-1, 1, (2,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.steps = self.allowed = 0
        return np.zeros(2, np.float32), {"action_mask": np.eye(3)[0]}

    def step(self, action: Any) -> Any:
        assert action == self.allowed
        self.steps += 1
        self.allowed = self.steps % 3
        info = {"action_mask": np.eye(3)[self.allowed]}
        return np.zeros(2, np.float32), 1.0, False, self.steps == 8, info


def test_an_array_beside_a_mask_is_an_array_to_the_network(tmp_path):
    class Array(LightningAgentModule):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            self.network = nn.Linear(2, 3)

        def training_step(self, batch: Any) -> Tensor:
            assert set(batch.obs) == {"observations", "action_mask"}
            log_probs, _, _ = self.evaluate_actions(batch.obs, batch.actions)
            return -(batch.weights * log_probs * batch.returns).sum()

    module = Array(**{**SMALL, "backend": "gymnasium"}, info_action_mask=True)
    fit(module, BoxWithMask, tmp_path)
    shown, mask = np.zeros(2, np.float32), np.array([0, 1, 0])
    for deterministic in (True, False):
        assert module.predict(shown, deterministic, action_mask=mask) == 1
    with pytest.raises(ValueError, match=r"needs an action mask: predict\(obs, action_mask=mask\)"):
        module.predict(shown)


class Clones(Policy):
    """Learns from data, with the network that plays."""

    def training_step(self, batch: Any) -> Tensor:
        log_probs, _, _ = self.evaluate_actions(batch["obs"], batch["action"])
        return -log_probs.mean()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("parts", quick(SPACES, "vectors"))
def test_the_same_network_learns_from_data_by_key(parts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space = deepcopy(SPACES[parts])
    space.seed(0)
    shown = [flat(space.sample()) for _ in range(64)]
    data: Any = [{"obs": x, "action": int(x["own"][0] > 0)} for x in shown]
    module = Clones(ByKey(SHAPES[parts]), learning_rate=0.05)
    module.bind_spaces(space, spaces.Discrete(2))
    AgentTrainer(max_steps=60, accelerator="cpu").fit(module, DataLoader(data, batch_size=64))
    batch = torch.utils.data.default_collate(shown)
    chosen = module(batch)[0].argmax(1)
    assert (chosen == (batch["own"][:, 0] > 0)).float().mean() > 0.9


def test_float_images_that_are_not_scaled_come_with_the_channels_first(tmp_path):
    space = spaces.Dict(view=spaces.Box(0, 9, (12, 10, 3)), own=spaces.Box(-1, 1, (3,)))
    module = module_of(Policy, "images", obs_kind="pixels", scale_images=False)
    fit(module, partial(Task, space, False), tmp_path)
    shown = space.sample()
    raw = {name: torch.from_numpy(x[None]) for name, x in shown.items()}
    with torch.no_grad():
        assert module(raw)[0].argmax(1).item() == module.predict(shown)


def test_what_is_not_bound_is_said(tmp_path: Path):
    with pytest.raises(ValueError, match="before fit or bind_spaces"):
        Policy(ByKey({"own": (3,)})).outputs_and_values({"own": torch.zeros(1, 3)})
