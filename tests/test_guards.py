"""What a function read from Python is remembered, and a change of it is seen and named."""

from __future__ import annotations

import cProfile
import ctypes
import datetime
import itertools
import multiprocessing
import operator
import os
import random
import sys
import time
from collections import ChainMap, Counter, deque
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from fastrl.engine.guards import PythonReads

SCALE = 1.0
TABLE = {"scale": 1.0}
SETTINGS = ModuleType("settings_of_tests")


class Model(nn.Module):
    """Has numbers in many places."""

    bias = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.beta = nn.Linear(2, 2), 0.1
        self.coefs, self.items, self.array = {"beta": 0.1}, [0.1], np.array([0.1])
        self.deep: Any = {"coefs": {"beta": 0.1}}
        self.schedule = SimpleNamespace(now=SimpleNamespace(beta=0.1))
        self.tensor, self.unused = torch.ones(()), 1.0
        self.register_buffer("weight", torch.ones(2))
        self.function: Callable[[float], float] = abs

    @property
    def twice(self) -> float:
        return 2 * self.beta

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x) * self.weight * self.tensor + self.helper()
        return y * self.coefs["beta"] * self.items[0] * float(self.array[0]) * self.bias

    def helper(self) -> float:
        return self.twice * SCALE * TABLE["scale"] * self.schedule.now.beta * self.function(1.0)


def watched(run: Callable[[], Any]) -> PythonReads:
    reads = PythonReads()
    with reads.watch(run):
        run()
    return reads


def model_and_reads() -> tuple[Model, PythonReads]:
    model = Model()
    return model, watched(lambda: model(torch.ones(1, 2)))


def test_nothing_changes_by_itself():
    assert model_and_reads()[1].changed() is None


CHANGES: dict[str, Callable[[Model], Any]] = {
    "beta": lambda x: setattr(x, "beta", 0.2),
    "coefs": lambda x: x.coefs.update(beta=0.2),
    "items": lambda x: x.items.__setitem__(0, 0.2),
    "array": lambda x: x.array.fill(0.2),
    "now.beta": lambda x: setattr(x.schedule.now, "beta", 0.2),
    "schedule": lambda x: setattr(x, "schedule", SimpleNamespace(now=SimpleNamespace(beta=0.2))),
    "tensor": lambda x: setattr(x, "tensor", torch.ones(())),
    "weight": lambda x: setattr(x, "weight", torch.ones(2)),
    "function": lambda x: setattr(x, "function", round),
    "layer": lambda x: setattr(x, "layer", nn.Linear(2, 2)),
    "helper": lambda x: x.__dict__.update(helper=lambda: 3.0),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_what_was_read_is_seen_and_named(name):
    model, reads = model_and_reads()
    CHANGES[name](model)
    change = reads.changed()
    assert change is not None and name in change


def test_a_plain_number_is_told_with_its_old_and_its_new_value():
    model, reads = model_and_reads()
    model.beta = 0.25
    change = reads.changed()
    assert change is not None and change == "self.beta changed from 0.1 to 0.25"


@pytest.mark.parametrize(
    ("name", "value"), [("SCALE", 2.0), ("TABLE", {"scale": 2.0}), ("helper_of_tests", None)]
)
def test_a_change_of_a_global_variable_is_seen(name, value, monkeypatch):
    _, reads = model_and_reads()
    monkeypatch.setitem(globals(), name, value)
    change = reads.changed()
    assert (change is not None) == (name != "helper_of_tests")


def test_a_change_of_a_class_is_seen(monkeypatch):
    _, reads = model_and_reads()
    monkeypatch.setattr(Model, "bias", 1.0)
    assert reads.changed() is not None


def test_a_method_replaced_in_its_class_is_seen(monkeypatch):
    _, reads = model_and_reads()
    monkeypatch.setattr(Model, "helper", lambda self: 3.0)
    assert reads.changed() is not None


def test_what_was_not_read_may_change():
    model, reads = model_and_reads()
    model.unused = 2.0
    model.other = 3.0  # pyright: ignore[reportAttributeAccessIssue]
    assert reads.changed() is None


def test_values_of_tensors_may_change():
    model, reads = model_and_reads()
    with torch.no_grad():
        model.tensor.fill_(5.0)
        model.layer.weight.mul_(2)
        model.weight.zero_()
    assert reads.changed() is None


def test_the_same_number_put_in_place_is_no_change():
    model, reads = model_and_reads()
    model.beta, model.coefs, model.items = 0.1, {"beta": 0.1}, [0.1]
    assert reads.changed() is None


def test_a_nested_container_is_looked_into():
    model = Model()
    reads = watched(lambda: model.deep["coefs"]["beta"])
    model.deep["coefs"]["beta"] = 0.2
    assert reads.changed() is not None


class Owner:
    """Has an attribute of the same name as its part has."""

    def __init__(self) -> None:
        self.part, self.step = SimpleNamespace(step=1), 1

    @property
    def itself(self) -> Owner:
        return self


def test_an_attribute_of_a_part_is_not_taken_for_its_owner_s():
    owner = Owner()
    reads = watched(lambda: owner.part.step)
    owner.step = 2
    assert reads.changed() is None
    owner.part.step = 2
    change = reads.changed()
    assert change is not None and "part.step" in change


@pytest.mark.parametrize(
    "read",
    [
        lambda owner: owner.part.step + owner.step,
        lambda owner: owner.part.step + getattr(owner, "step"),  # noqa: B009
        lambda owner: owner.part.step + owner.itself.step,
    ],
)
def test_an_attribute_that_owner_and_part_have_is_looked_up_in_both(read):
    owner = Owner()
    reads = watched(lambda: read(owner))
    owner.step = 2
    assert reads.changed() is not None


def test_a_name_in_a_string_is_looked_up():
    model = Model()
    reads = watched(lambda: getattr(model, "beta"))  # noqa: B009
    model.beta = 0.2
    assert reads.changed() is not None


def test_a_module_s_variable_is_looked_up(monkeypatch):
    monkeypatch.setattr(SETTINGS, "beta", 0.1, raising=False)
    reads = watched(lambda: SETTINGS.beta)
    SETTINGS.beta = 0.2
    assert reads.changed() is not None


def test_a_closure_s_variable_is_looked_up():
    beta = 0.1

    def function() -> float:
        return beta

    reads = watched(function)
    beta = 0.2
    change = reads.changed()
    assert change is not None and "beta" in change


def test_a_closure_s_variable_in_a_function_that_is_called_is_looked_up():
    beta = 0.1

    def inner() -> float:
        return beta

    reads = watched(lambda: inner())  # the outer one only names `inner`
    beta = 0.2
    assert reads.changed() is not None


class Slotted:
    __slots__ = ("beta",)

    def __init__(self) -> None:
        self.beta = 0.1


class Namespace:
    beta = 0.1

    class Inner:
        beta = 0.1


def scale() -> float:
    return scale.beta  # type: ignore[attr-defined]


class Held:
    """Has numbers where no instance's dict shows them."""

    parts, queue = [Slotted()], deque([0.1])
    part, table = SimpleNamespace(beta=0.1), {"beta": 0.1}
    many, array = [0.1] * 100, np.full(100, 0.1)

    def __init__(self) -> None:
        self.slotted = Slotted()
        vars(scale)["beta"] = Namespace.beta = Namespace.Inner.beta = 0.1

    def run(self) -> float:
        numbers = self.queue[0], self.many[0], self.array[0], len(self.table), scale()
        objects = self.parts[0].beta, self.part.beta, self.slotted.beta
        return sum(numbers) + sum(objects) + Namespace.beta + Namespace.Inner.beta


@pytest.mark.parametrize(
    "change",
    [
        lambda held: held.queue.appendleft(held.queue[0] + 1),
        lambda held: held.many.__setitem__(0, held.many[0] + 1),
        lambda held: held.array.__iadd__(1),
        lambda held: held.table.update(more=1.0),
        lambda held: setattr(held.parts[0], "beta", 0.2),
        lambda held: setattr(held.part, "beta", 0.2),
        lambda held: setattr(held.slotted, "beta", 0.2),
        lambda held: setattr(Namespace, "beta", 0.2),
        lambda held: setattr(Namespace.Inner, "beta", 0.2),
        lambda held: vars(scale).update(beta=0.2),
    ],
)
def test_a_change_in_a_class_slot_container_or_function_is_seen(change):
    held = Held()
    held.parts[0].beta = held.part.beta = 0.1
    held.table.pop("more", None)
    reads = watched(held.run)
    assert reads.changed() is None
    change(held)
    assert reads.changed() is not None


class Source:
    def __init__(self, numbers: Any) -> None:
        self.numbers = numbers


@pytest.mark.parametrize(
    ("numbers", "draw"),
    [
        (np.random.default_rng(0), lambda numbers: numbers.random()),
        (np.random.RandomState(0), lambda numbers: numbers.rand()),
        (random.Random(0), lambda numbers: numbers.random()),
        (itertools.cycle([1.0, 2.0]), next),
        (iter([1.0, 2.0, 3.0]), next),
    ],
    ids=["Generator", "RandomState", "Random", "cycle", "iter"],
)
def test_what_gives_another_number_each_time_changes_while_the_function_runs(numbers, draw):
    source = Source(numbers)
    reads = watched(lambda: draw(source.numbers))
    assert "source.numbers changed" in str(reads.changed())
    reads.restore()
    assert source.numbers is numbers


@pytest.mark.parametrize(
    "draw",
    [random.random, random.gauss, np.random.rand, np.random.normal],
    ids=["random", "gauss", "rand", "normal"],
)
def test_drawing_from_a_global_generator_is_a_change_and_is_taken_back(draw):
    random.seed(1)
    np.random.seed(1)
    first = draw()
    random.seed(1)
    np.random.seed(1)
    reads = watched(lambda: draw())
    assert "generator changed" in str(reads.changed())
    reads.restore()
    assert draw() == first


@pytest.mark.parametrize(
    "read", [lambda: os.environ["BETA"], lambda: os.getenv("BETA"), lambda: os.environ.get("BETA")]
)
def test_a_change_of_the_environment_is_seen(read, monkeypatch):
    monkeypatch.setenv("BETA", "0.1")
    reads = watched(read)
    assert reads.changed() is None
    monkeypatch.setenv("BETA", "0.2")
    assert reads.changed() == "os.environ['BETA'] changed from '0.1' to '0.2'"


def test_a_change_of_a_context_variable_is_seen():
    beta = ContextVar("beta", default=0.1)
    reads = watched(lambda: beta.get())
    assert reads.changed() is None
    beta.set(0.2)
    assert reads.changed() == "beta changed from 0.1 to 0.2"


def test_a_change_of_a_default_argument_is_seen():
    def function(state: dict[str, float] = {"beta": 0.1}) -> float:  # noqa: B006
        return state["beta"]

    reads = watched(function)
    assert reads.changed() is None
    cast(Any, function).__defaults__[0]["beta"] = 0.2
    assert reads.changed() == "state changed"


def test_a_container_that_is_handed_over_may_change():
    def function(metrics: dict[str, float]) -> None:
        metrics["loss"] = 1.0

    assert watched(lambda: function({})).changed() is None


def test_the_clock_changes_while_the_function_runs():
    assert watched(lambda: time.perf_counter()).changed() == "time.perf_counter() changed"


def test_a_counter_is_a_change_while_the_function_runs():
    model: Any = SimpleNamespace(calls=0)

    def function() -> None:
        model.calls += 1

    assert watched(function).changed() is not None


def test_watching_ends_though_the_function_raises():
    def function() -> None:
        raise KeyError

    reads = PythonReads()
    with pytest.raises(KeyError), reads.watch(function):
        function()
    assert sys.getprofile() is None


def test_a_profiler_of_somebody_else_stands_back_while_python_is_watched():
    seen: list[str] = []

    def profile(frame: Any, event: str, _: Any) -> None:
        seen.append(event)

    sys.setprofile(profile)
    try:
        model, reads = model_and_reads()
        assert sys.getprofile() is profile
    finally:
        sys.setprofile(None)
    assert seen
    model.beta = 0.2
    assert reads.changed() == "self.beta changed from 0.1 to 0.2"


def test_a_change_is_seen_under_cprofile_too():
    with cProfile.Profile() as profiler:
        model, reads = model_and_reads()
        model.beta = 0.2
        assert reads.changed() is not None
    profiler.create_stats()
    assert any(name == "changed" for _, _, name in profiler.stats)  # it went on measuring


class Wrapped:
    """Made anew at each call, around what lasts."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.sum = inner, 0.0

    def read(self) -> float:
        self.sum += self.inner.beta
        return self.sum


def test_what_two_objects_hold_that_lived_in_the_same_place_is_seen():
    first, second = SimpleNamespace(beta=0.1), SimpleNamespace(beta=0.1)
    reads = watched(lambda: Wrapped(first).read() + Wrapped(second).read())
    assert reads.changed() is None
    second.beta = 0.2
    assert "beta changed from 0.1 to 0.2" in (reads.changed() or "")


def test_an_object_that_the_function_makes_is_no_change_while_it_runs():
    @dataclass
    class Plain:
        loss: float
        kl: float | None = None

    @dataclass(slots=True)
    class Slots:
        loss: float

    def run() -> float:
        out, other = Plain(1.0), Slots(2.0)
        out.kl = other.loss
        return out.kl

    assert watched(run).changed() is None


def test_modules_of_the_same_text_have_variables_of_their_own():
    text = "def scaled(x):\n    return x * FACTOR\n"
    first: Any = ModuleType("first")
    second: Any = ModuleType("second")
    for module in (first, second):
        module.__dict__["FACTOR"] = 1.0
        exec(compile(text, f"{module.__name__}.py", "exec"), module.__dict__)
    reads = watched(lambda: first.scaled(1.0) + second.scaled(1.0))
    second.FACTOR = 2.0
    assert reads.changed() == "FACTOR changed from 1.0 to 2.0"


def test_an_argument_that_is_deleted_before_a_generator_goes_on_is_nothing():
    def rows(x: Any) -> Any:
        y = [x]
        del x
        yield y[0]
        z = [1.0]
        yield y[0] + z[0]

    assert watched(lambda: list(rows(1.0))).changed() is None


def test_what_the_function_changed_is_put_back_in_place():
    def count(n: dict[str, int] = {}) -> None:  # noqa: B006
        n["n"] = n.get("n", 0) + 1

    shared: dict[str, Any] = {"list": [], "set": {1}, "deque": deque([1]), "array": np.zeros(2)}
    holder = SimpleNamespace(**shared, dict={"n": 1})

    def run() -> None:
        count()
        holder.list.append(1)
        holder.set.add(2)
        holder.deque.append(2)
        holder.array += 1
        holder.dict = {"n": 2}

    reads, given = PythonReads(), holder.dict
    for _ in range(2):  # it may be tried several times
        with reads.watch(run):
            run()
    assert reads.changed() is not None
    reads.restore()
    assert holder.list is shared["list"] and holder.list == []
    assert shared["set"] == {1} and shared["deque"] == deque([1]) and holder.dict is given
    assert shared["array"].tolist() == [0, 0] and holder.array is shared["array"]
    assert count.__defaults__ == ({},)
    assert reads.changed() is None


def test_counters_shared_numbers_and_arrays_of_objects_are_put_back():
    calls, shared, number = Counter({str: 1}), multiprocessing.Value("i", 3), ctypes.c_double(1)
    parts = np.array([torch.ones(2), [0]], object)
    holder = SimpleNamespace(calls=calls, shared=shared, number=number, parts=parts)

    def run() -> None:
        holder.calls[int] += 1
        holder.shared.value += 1
        holder.number.value *= 2
        holder.parts[1] = torch.zeros(1)

    reads = watched(run)
    assert reads.changed() is not None
    reads.restore()
    assert calls == Counter({str: 1}) and shared.value == 3 and number.value == 1.0
    assert parts[1] == [0] and reads.changed() is None


def scaled(x: float, by: float = 1.0, *, plus: float = 0.0) -> float:
    return x * by + plus


class Scaling:
    """Has a function of each kind."""

    def own(self, by: float = 1.0) -> float:
        return by

    @classmethod
    def of_class(cls, by: float = 1.0) -> float:
        return by


def doubled(x: float, by: float = 1.0, *, plus: float = 0.0) -> float:
    return 2 * x * by + plus


@pytest.mark.parametrize(
    ("function", "name", "value"),
    [
        (scaled, "__defaults__", (2.0,)),
        (scaled, "__kwdefaults__", {"plus": 1.0}),
        (scaled, "__code__", doubled.__code__),
        (Scaling.own, "__defaults__", (2.0,)),
        (Scaling.of_class.__func__, "__defaults__", (2.0,)),
    ],
)
def test_other_defaults_and_other_code_of_a_function_are_seen_and_put_back(function, name, value):
    def run() -> float:
        return scaled(1.0) + Scaling().own() + Scaling.of_class()

    reads, before = watched(run), getattr(function, name)
    assert reads.changed() is None
    setattr(function, name, value)
    try:
        assert reads.changed() == f"{function.__name__}.{name} changed"
        reads.restore()
        assert getattr(function, name) == before
        assert reads.changed() is None
    finally:
        setattr(function, name, before)


def test_containers_of_tensors_are_put_back_in_place_and_whole():
    first, inner = torch.zeros(()), {"a": torch.ones(())}
    shared: dict[str, Any] = {"dict": {"first": first}, "list": [first, [inner]], "set": {first}}
    holder = SimpleNamespace(**shared, pair=(first, inner))

    def run() -> None:
        holder.dict["second"] = first + 1
        holder.list[1].append(first)
        del inner["a"]
        holder.set.add(first + 1)
        holder.pair[1]["b"] = first

    reads = PythonReads()
    with reads.watch(run):
        run()
    assert reads.changed() is not None
    reads.restore()
    assert reads.changed() is None
    assert holder.dict is shared["dict"] and holder.dict == {"first": first}
    assert holder.list[0] is first and holder.list[1] == [inner] and [*inner] == ["a"]
    assert holder.set == {first} and holder.pair[1] is inner


@pytest.mark.parametrize("size", [5_000, 1 << 20])
def test_a_large_array_that_changes_in_place_is_seen(size: int):
    holder = SimpleNamespace(table=np.zeros(size))
    reads = watched(lambda: holder.table[0])
    assert reads.changed() is None
    holder.table[-1] = 1
    assert reads.changed() == "holder.table changed"


@pytest.mark.parametrize("table", [np.zeros((1 << 20) + 1), [0] * 5_000], ids=["array", "list"])
def test_what_is_too_large_to_be_compared_is_not_taken_for_unchanged(table: Any):
    holder = SimpleNamespace(table=table)
    told = watched(lambda: holder.table[0]).changed()
    assert told == f"holder.table has {len(table):,} items, too many to be compared"


def test_an_array_with_a_nan_is_no_change_and_neither_is_a_pause():
    holder = SimpleNamespace(table=np.array([1, np.nan]))
    reads = watched(lambda: (time.sleep(0), holder.table[0]))
    assert reads.changed() is None
    holder.table[1] = 2
    assert reads.changed() is not None


def test_what_a_chain_of_mappings_holds_is_not_taken_for_unchanged():
    holder = SimpleNamespace(table=ChainMap({}, {"a": 1}))
    assert watched(lambda: holder.table["a"]).changed() is not None


class Losses:
    """Has what libraries' code reads, and changes it."""

    def __init__(self) -> None:
        self.huber, self.layers = nn.HuberLoss(), nn.ModuleList([nn.Linear(1, 1)])
        self.teacher = nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.5))
        self.weights = nn.ParameterList([torch.ones(1)])
        optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], 1.0)
        self.fading = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        self.normal = torch.distributions.Normal(torch.zeros(1), 1.0)
        self.shared, self.number = multiprocessing.Value("d", 1.0), ctypes.c_double(1.0)
        self.many = [SimpleNamespace(beta=1.0) for _ in range(300)]

    def read(self) -> Any:
        x = self.teacher(torch.ones(1)) + sum(layer.weight[0, 0] for layer in self.layers)
        x = x * self.fading.get_last_lr()[0] * self.shared.value * self.number.value
        x = x + self.normal.log_prob(x) + self.weights[0] + getattr(self, "later", 0.0)
        return self.huber(x, x) + (1 if hasattr(self, "warm") else 0)


def change_number(losses: Losses) -> None:
    losses.number.value = 2.0


def change_shared(losses: Losses) -> None:
    losses.shared.value = 2.0


CHANGES_OF_LIBRARIES: dict[str, Callable[[Losses], Any]] = {
    "setting of a layer": lambda x: setattr(x.huber, "delta", 0.5),
    "mode of a layer": lambda x: x.teacher.eval(),
    "layer": lambda x: x.teacher.__setitem__(0, nn.Linear(1, 1)),
    "weight": lambda x: setattr(cast(Any, x.teacher[0]), "weight", nn.Parameter(torch.ones(1, 1))),
    "weights assigned": lambda x: x.teacher.load_state_dict(
        {name: y + 1 for name, y in x.teacher.state_dict().items()}, assign=True
    ),
    "another layer": lambda x: x.layers.append(nn.Linear(1, 1)),
    "item of a list": lambda x: x.weights.__setitem__(0, nn.Parameter(torch.zeros(1))),
    "scheduler": lambda x: (x.fading.optimizer.step(), x.fading.step()),
    "distribution": lambda x: setattr(x.normal, "loc", torch.ones(1)),
    "number of processes": change_shared,
    "number of C": change_number,
    "asked for": lambda x: setattr(x, "later", 1.0),
    "asked whether": lambda x: setattr(x, "warm", True),
}


@pytest.mark.parametrize("change", CHANGES_OF_LIBRARIES)
def test_a_change_of_what_a_library_s_code_reads_is_seen(change: str):
    losses, reads = Losses(), PythonReads([])
    with reads.watch(losses.read):
        losses.read()
    assert reads.changed() is None
    CHANGES_OF_LIBRARIES[change](losses)
    assert reads.changed() is not None


def test_layers_that_somebody_else_looks_after_may_change_their_mode():
    losses = Losses()
    reads = PythonReads([losses.teacher])
    with reads.watch(losses.read):
        losses.read()
    losses.teacher.eval()
    assert reads.changed() is None


def test_more_objects_than_are_looked_into_are_not_taken_for_unchanged():
    losses = Losses()
    told = watched(lambda: sum(x.beta for x in losses.many)).changed()
    assert told == "losses.many has 300 items, too many to be compared"


@pytest.mark.parametrize("now", [datetime.datetime.now, datetime.date.today], ids=["now", "today"])
def test_the_date_changes_while_the_function_runs(now: Callable[[], Any]):
    assert watched(lambda: now().year).changed() is not None


def named(how: str) -> Callable[[Any, str], Any]:
    return {
        "constant": lambda x, _: getattr(x, "beta"),  # noqa: B009
        "constant with default": lambda x, _: getattr(x, "beta", 0.5),
        "variable": lambda x, name: getattr(x, name),
        "variable with default": lambda x, name: getattr(x, name, "beta"),
        "f-string": lambda x, name: getattr(x, f"{name[:2]}ta"),
        "sum": lambda x, name: getattr(x, "be" + name[2:]),
        "vars": lambda x, name: vars(x)[name],
        "__dict__": lambda x, name: x.__dict__[name],
        "attrgetter": lambda x, name: operator.attrgetter(name)(x),
        "getattr by another name": lambda x, name: next(g(x, name) for g in (getattr,)),
    }[how]


@pytest.mark.parametrize(
    "how",
    [
        *("constant", "constant with default", "variable", "variable with default", "f-string"),
        *("sum", "vars", "__dict__", "attrgetter", "getattr by another name"),
    ],
)
def test_a_number_is_seen_whose_name_is_put_together(how: str):
    model, read = SimpleNamespace(beta=0.1, unused=1.0), named(how)
    reads = watched(lambda: read(model, "beta"))
    assert reads.changed() is None
    model.beta = 0.2
    assert "beta changed from 0.1 to 0.2" in (reads.changed() or "")
    model.beta, model.unused = 0.1, 2.0
    assert (reads.changed() is None) == how.startswith("constant")
