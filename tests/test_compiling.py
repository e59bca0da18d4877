"""Recorded and compiled functions do what eager ones do, and recording leaves no trace."""

import itertools
import logging
import shutil
from typing import Any

import pytest
import torch
from quick import quick
from torch import Tensor
from toy_agents import WALKS, Loop, differing, make_agent, run, tensors_of

from fastrl.engine.compiling import build
from fastrl.engine.recording import Recording
from fastrl.engine.threads import num_threads, update_threads
from fastrl.ppo import PPO
from fastrl.processes.machine import available_cores

NORMALISERS = {"observation_normalization": True, "reward_scaling": True}
HARD = {"normalize_advantages": True, "clip_vloss": True, "ent_coef": 0.01, "anneal_lr": True}


@pytest.fixture
def no_warning(caplog):
    """Fail if the log holds a warning at the end: that TorchScript is not to be had, say."""
    with caplog.at_level(logging.WARNING, "fastrl"):
        yield
    assert not caplog.records


@pytest.mark.parametrize(
    "normalisers", quick([{}, NORMALISERS], NORMALISERS), ids=["plain", "normalised"]
)
@pytest.mark.parametrize(
    ("env", "shared"),
    quick(itertools.product(WALKS, [False, True]), ("box", False), ("multidiscrete", True)),
)
def test_recorded_training_equals_eager_to_the_bit(env, shared, normalisers, no_warning):
    eager, recorded = (
        make_agent(env, engine=mode, shared_network=shared, **HARD, **normalisers)
        for mode in ("eager", "recorded")
    )
    eager_metrics, recorded_metrics = run(eager), run(recorded)
    assert not differing(tensors_of(eager), tensors_of(recorded))
    assert eager_metrics == recorded_metrics


def test_recorded_training_equals_eager_with_squashed_actions(no_warning):
    eager, recorded = (
        make_agent("box", engine=mode, squash_actions=True, activation_function="elu", **HARD)
        for mode in ("eager", "recorded")
    )
    run(eager), run(recorded)
    assert not differing(tensors_of(eager), tensors_of(recorded))


def test_recorded_training_equals_eager_in_wide_layers(no_warning):
    wide = {"hidden_sizes": (64, 64), "num_steps": 64, "per_rank_batch_size": 128}
    wide["total_timesteps"] = 64 * 4 * 2
    eager, recorded = (make_agent(engine=mode, **wide) for mode in ("eager", "recorded"))
    run(eager, 2), run(recorded, 2)
    assert not differing(tensors_of(eager), tensors_of(recorded))


def scripts_of(function: Any) -> list[Any]:
    """Return the TorchScript functions that a built function calls."""
    if isinstance(function, torch.jit.ScriptFunction):
        return [function]
    cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    return [script for cell in cells for script in scripts_of(cell)]


def test_recorded_functions_run_in_torchscript(no_warning):
    agent = make_agent(engine="recorded")
    agent.make_buffer()
    assert len(agent.engine._built) >= 4  # acting, values, advantages, a step
    assert all(scripts_of(built.fast) for built in agent.engine._built)


def test_recorded_graph_takes_no_detour():
    agent = make_agent(engine="recorded")
    agent.make_buffer()
    scripts = [script for built in agent.engine._built for script in scripts_of(built.fast)]
    kinds = {node.kind() for script in scripts for node in script.graph.nodes()}
    assert not [kind for kind in kinds if "CallMethod" in kind or "Python" in kind]


@pytest.mark.parametrize("mode", ["auto", "recorded", "eager"])
def test_building_leaves_weights_optimiser_and_generators_alone(mode):
    agent = make_agent("box", engine=mode, **HARD, **NORMALISERS)
    before, state = tensors_of(agent), torch.get_rng_state()
    agent.make_buffer()
    assert not differing(before, tensors_of(agent))
    assert torch.equal(torch.get_rng_state(), state)


def test_building_leaves_the_buffer_alone():
    agent = make_agent(engine="recorded")
    buffer = agent.make_buffer()
    names = ("obs", "actions", "log_probs", "values", "advantages", "returns")
    assert not any(getattr(buffer, name).any() for name in names)


def test_fall_back_without_torchscript_gives_the_same_and_is_logged(monkeypatch, caplog):
    eager = make_agent(engine="eager")
    run(eager)

    def gone(*arguments: Any, **settings: Any) -> None:
        raise RuntimeError("no more TorchScript")

    monkeypatch.setattr(torch._C, "_create_function_from_graph", gone)
    recorded = make_agent(engine="recorded")
    with caplog.at_level(logging.WARNING, "fastrl"):
        run(recorded)
    assert "no more TorchScript" in caplog.text
    assert not differing(tensors_of(eager), tensors_of(recorded))


@pytest.fixture
def compiled_graphs(monkeypatch):
    """Return a list that grows with every graph that is compiled."""
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("torch.compile needs a C++ compiler on the CPU")
    import torch._inductor

    graphs: list[Any] = []
    compile_one = torch._inductor.standalone_compile

    def noted(graph: Any, *given: Any, **settings: Any) -> Any:
        graphs.append(graph)
        return compile_one(graph, *given, **settings)

    monkeypatch.setattr(torch._inductor, "standalone_compile", noted)
    return graphs


@pytest.mark.slow
@pytest.mark.parametrize("env", ["discrete", "multidiscrete", "box"])
def test_compiled_training_equals_eager_and_compiles_once(env, compiled_graphs):
    settings = {"learning_rate": 1e-3, "update_epochs": 1, **HARD}
    eager = make_agent(env, engine="eager", **settings)
    compiled = make_agent(env, engine="compile", **settings)
    eager_loop, compiled_loop = Loop(eager), Loop(compiled)
    for loop in (eager_loop, compiled_loop):
        loop.run(1)
    for name, value in tensors_of(eager).items():
        other = tensors_of(compiled)[name]
        assert torch.allclose(other.double(), value.double(), rtol=1e-3, atol=1e-5), name
    compiled_loop.run(2)
    assert len(compiled_graphs) == len(compiled.engine._built) > 1


def test_recorded_function_reads_what_it_closes_over_anew():
    weight = torch.ones(3)
    call = build(lambda x: x * weight.t() + weight.view(1, 3), (torch.zeros(2, 3),), "recorded")
    weight.fill_(5.0)
    assert call(torch.ones(2, 3)).tolist() == [[10.0] * 3] * 2


def test_recorded_function_changes_what_it_closes_over():
    total = torch.zeros(3)
    call = build(lambda x: total.add_(x), (torch.ones(3),), "recorded")
    assert total.tolist() == [0] * 3
    call(torch.tensor([1.0, 2.0, 3.0])), call(torch.ones(3))
    assert total.tolist() == [2, 3, 4]


def test_recorded_function_leaves_its_example_alone():
    example = torch.ones(3)
    build(lambda x: x.mul_(2), (example,), "recorded")
    assert example.tolist() == [1] * 3


def test_recorded_function_may_return_several_tensors(no_warning):
    call = build(lambda x, y: (x + y, (x * y).sum()), (torch.ones(2), torch.ones(2)), "recorded")
    total, product = call(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]))
    assert total.tolist() == [4, 6] and product.item() == 11


def test_recorded_function_may_return_nothing(no_warning):
    total = torch.zeros(3)

    def add(x: Tensor) -> None:
        total.add_(x)

    call = build(add, (torch.ones(3),), "recorded")
    assert call(torch.ones(3)) is None and total.tolist() == [1] * 3


def test_views_of_one_storage_are_all_put_back():
    memory = torch.arange(6.0)
    front, back, middle = memory[:3], memory[3:], memory[2:5]

    def change(x: Tensor) -> Tensor:
        total = back.sum() + middle.sum()
        front.add_(x)
        back.mul_(2)
        return total + middle.add_(1).sum() + memory.sum()

    call = build(change, (torch.ones(3),), "recorded")
    assert memory.tolist() == [0, 1, 2, 3, 4, 5]
    first = call(torch.ones(3)).item()
    recorded = memory.clone()
    memory.copy_(torch.arange(6.0))
    assert change(torch.ones(3)).item() == first
    assert torch.equal(memory, recorded)


def test_gradients_are_part_of_the_recording():
    weight = torch.tensor([2.0], requires_grad=True)

    def slope(x: Tensor) -> Tensor:
        return torch.autograd.grad((weight * x) ** 2, weight)[0]

    call = build(slope, (torch.ones(1),), "recorded")
    assert call(torch.tensor([3.0])).item() == 2 * 2 * 9


def test_random_state_of_a_recorded_function_is_not_asked_for():
    """Acting draws no random number of its own: equal noise, equal actions."""
    agent: PPO = make_agent("box", engine="recorded")
    buffer = agent.make_buffer()
    agent.begin_rollout(buffer)
    first = agent.act(0, 0).copy()
    assert (agent.act(0, 0) == first).all()


def test_thread_count_holds_for_the_block_only():
    before = torch.get_num_threads()
    with num_threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
    with pytest.raises(KeyError), num_threads(before + 1):
        raise KeyError
    assert torch.get_num_threads() == before


def test_small_updates_get_one_thread():
    assert update_threads(64, 64) == 1
    assert update_threads(4096, 64) == available_cores() >= 1


def test_recording_drops_operations_that_nothing_needs():
    def function(x: Tensor) -> Tensor:
        x.exp()
        return x + 1

    graph = Recording(function, (torch.ones(2),))._graph
    names = [str(node.target) for node in graph.nodes if node.op == "call_function"]
    assert len(names) == 1 and "aten.add" in names[0]


def test_what_depends_on_no_tensor_from_outside_is_worked_out_once():
    def function(x: Tensor) -> Tensor:
        return x * (torch.ones_like(x) / 2).expand(3, -1)

    recording = Recording(function, (torch.ones(2),))
    names = [str(node.target) for node in recording._graph.nodes if node.op == "call_function"]
    assert names == ["aten.mul.Tensor"]
    assert torch.equal(recording.scripted()(torch.ones(2)), torch.full((3, 2), 0.5))


def test_what_is_changed_or_drawn_is_made_anew_at_every_call():
    def function(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        total = torch.zeros_like(x)
        total[:1].add_(x[:1])
        zeros = torch.zeros_like(x)
        return total * 2, torch.bernoulli(torch.ones_like(x) / 2) * x, zeros

    call = build(function, (torch.ones(100),), "recorded")
    results = [call(torch.ones(100)) for _ in range(3)]
    assert [total[0].item() for total, _, _ in results] == [2, 2, 2]
    assert not torch.equal(results[0][1], results[1][1])
    results[0][2].add_(1)  # the caller's own
    assert call(torch.ones(100))[2].sum() == 0


def test_what_is_changed_through_another_name_is_made_anew_at_every_call():
    def function(x: Tensor) -> Tensor:
        total = x.new_ones(2, 3, 5) @ x.new_ones(5, 1)  # a view, though it does not say so
        return total.add_(x[0]) * 2

    call = build(function, (torch.ones(2),), "recorded")
    assert [call(torch.ones(2)).max().item() for _ in range(3)] == [12, 12, 12]


def test_constants_keep_their_layout():
    """An operation takes the layout of its result from its operands; a view relies on it."""

    def function(x: Tensor) -> Tensor:
        product = torch.ones_like(x.sum()).expand(5, 3) * x.t()
        return product.as_strided((15,), (1,)) * product.t().view(15)

    x = torch.arange(15.0).view(3, 5)
    assert torch.equal(build(function, (x,), "recorded")(x), function(x))


def test_a_view_met_again_is_recorded_once():
    def twice(x: Tensor) -> Tensor:
        return x.view(2, 3).t() + x.view(2, 3).t()

    graph = Recording(twice, (torch.randn(6),))._graph
    assert sum(node.op == "call_function" for node in graph.nodes) == 3
