"""Checkpoints: whole at every moment, plain, and loaded without running code."""

import collections
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import torch

from fastrl.runs import checkpoint as checkpoint_module
from fastrl.runs.checkpoint import Checkpoints, load_checkpoint, save_checkpoint
from fastrl.runs.folder import create_run_folder, open_run_folder, write_config


def state_at(env_steps):
    return {"counters": {"env_steps": env_steps}, "weights": torch.full((8,), float(env_steps))}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def cut(path, fraction=0.5):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])


def flip_a_weight(path):
    """Changes one byte of a tensor, which torch.load does not notice."""
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        (entry,) = [info for info in archive.infolist() if info.filename.endswith("data/0")]
        content = archive.read(entry)
    position = data.find(content, entry.header_offset)
    data[position] ^= 0xFF
    path.write_bytes(data)


class WritesAFile:
    """Unpickling this creates a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_what_was_saved_is_what_is_loaded(tmp_path):
    state = {
        "int": 2**120,
        "float": 1e-300,
        "nan_free": -0.0,
        "flags": [True, None, "text"],
        "tuple": (1, (2.5, "x")),
        "by_index": {0: {"step": torch.tensor(3.0)}, 1: {}},
        "python": random.getstate(),
        "torch": torch.get_rng_state(),
        "numpy": np.random.default_rng(0).bit_generator.state,
        "bf16": torch.ones(2, 3, dtype=torch.bfloat16),
        "counts": torch.arange(4),
    }
    save_checkpoint(tmp_path / "a.pt", state)
    loaded = load_checkpoint(tmp_path / "a.pt")
    assert loaded.keys() == state.keys()
    for name in ("int", "float", "flags", "tuple", "by_index", "python", "numpy"):
        assert loaded[name] == state[name]
    for name in ("torch", "bf16", "counts"):
        assert loaded[name].dtype == state[name].dtype
        assert torch.equal(loaded[name], state[name])


def test_a_module_and_its_optimiser_survive(tmp_path):
    model = torch.nn.Linear(3, 2)
    optimiser = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    state = {"model": model.state_dict(), "optimiser": optimiser.state_dict()}
    save_checkpoint(tmp_path / "a.pt", state)
    loaded = load_checkpoint(tmp_path / "a.pt")
    other = torch.nn.Linear(3, 2)
    other.load_state_dict(loaded["model"])
    assert torch.equal(other.weight, model.weight)
    torch.optim.Adam(other.parameters()).load_state_dict(loaded["optimiser"])


def test_a_loaded_state_can_be_saved_again(tmp_path):
    save_checkpoint(tmp_path / "a.pt", state_at(3))
    save_checkpoint(tmp_path / "b.pt", load_checkpoint(tmp_path / "a.pt"))
    assert load_checkpoint(tmp_path / "b.pt")["counters"] == {"env_steps": 3}


def test_a_part_of_a_buffer_is_saved_without_the_rest(tmp_path):
    save_checkpoint(tmp_path / "a.pt", {"row": torch.zeros(1000, 1000)[3]})
    assert (tmp_path / "a.pt").stat().st_size < 10_000


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (np.float64(1.0), "float64"),
        (np.zeros(2), "ndarray"),
        ({1, 2}, "set"),
        (torch.nn.Linear(1, 1), "Linear"),
        (collections.namedtuple("Pair", "a")(1), "Pair"),
        (b"bytes", "bytes"),
        (torch.eye(2).to_sparse(), "sparse"),
    ],
)
def test_a_value_that_is_not_plain_is_refused_by_its_key(tmp_path, value, kind):
    with pytest.raises(TypeError, match=rf"\['model'\]\['x'\]\[1\].*{kind}"):
        save_checkpoint(tmp_path / "a.pt", {"model": {"x": [0, value]}})
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["_orig_mod.weight", "actor._orig_mod.weight", "module.weight"])
def test_a_wrapper_prefix_is_refused(tmp_path, name):
    with pytest.raises(AssertionError, match="raw module"):
        save_checkpoint(tmp_path / "a.pt", {"model": {name: torch.zeros(1)}})


def test_a_submodule_may_be_called_module(tmp_path):
    save_checkpoint(tmp_path / "a.pt", {"model": {"encoder.module.weight": torch.zeros(1)}})


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_cut_file_is_refused_in_one_line(tmp_path, fraction):
    path = tmp_path / "a.pt"
    save_checkpoint(path, state_at(1))
    cut(path, fraction)
    with pytest.raises(ValueError, match=r"a\.pt is cut short") as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)


def test_a_flipped_bit_is_refused(tmp_path):
    save_checkpoint(tmp_path / "a.pt", state_at(1))
    flip_a_weight(tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt is damaged"):
        load_checkpoint(tmp_path / "a.pt")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.pt does not exist"):
        load_checkpoint(tmp_path / "a.pt")


def test_code_in_a_plain_pickle_never_runs(tmp_path):
    (tmp_path / "a.pt").write_bytes(pickle.dumps(WritesAFile(tmp_path / "ran")))
    with pytest.raises(ValueError, match=r"a\.pt is .*not a fastrl checkpoint"):
        load_checkpoint(tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("is_zip", [True, False])
def test_code_in_a_torch_file_never_runs(tmp_path, is_zip):
    state = {"format": "fastrl", "format_version": 1, "x": WritesAFile(tmp_path / "ran")}
    torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(ValueError, match=r"a\.pt is .*not a fastrl checkpoint") as error:
        load_checkpoint(tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()
    assert "\n" not in str(error.value)
    assert "weights_only" not in str(error.value)


@pytest.mark.parametrize("state", [{"model": 1}, {"format": "other"}, [1, 2]])
def test_a_torch_file_of_others_is_no_fastrl_checkpoint(tmp_path, state):
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="is not a fastrl checkpoint"):
        load_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize("mmap", [True, False])
def test_a_compressed_file_is_refused_before_it_is_inflated(tmp_path, mmap):
    torch.save({"format": "fastrl", "format_version": 1, "x": torch.zeros(10**7)}, tmp_path / "a")
    whole = zipfile.ZipFile(tmp_path / "a")
    with whole, zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as bomb:
        for part in whole.namelist():
            bomb.writestr(part, whole.read(part))
    assert (tmp_path / "b.pt").stat().st_size < 10**6
    with pytest.raises(ValueError, match=r"b\.pt is not a fastrl checkpoint: it is compressed"):
        checkpoint_module._read(tmp_path / "b.pt", mmap)


def test_a_file_whose_parts_are_larger_than_it_is_refused(tmp_path):
    path = tmp_path / "a.pt"
    save_checkpoint(path, state_at(1))
    data = bytearray(path.read_bytes())
    entry = data.rfind(b"PK\x01\x02")  # of the directory: size, compressed and not
    data[entry + 20 : entry + 28] = (10**9).to_bytes(4, "little") * 2
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.pt is not a fastrl checkpoint: its parts overlap"):
        load_checkpoint(path)


def holds_itself():
    value = [0] * 10
    for _ in range(20):
        value = [value] * 10
    return value


def is_cyclic():
    value = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "value",
    [
        holds_itself(),
        is_cyclic(),
        {1, 2},
        3j,
        b"bytes",
        {(1, 2): 3},
        torch.zeros(1).expand(10**12),
        torch.eye(3).to_sparse(),
        torch.nn.Parameter(torch.zeros(3)),
        torch.empty(10**9, device="meta"),
    ],
    ids=range(10),
)
def test_values_that_are_not_plain_or_more_than_the_file_holds_are_refused(tmp_path, value):
    torch.save({"format": "fastrl", "format_version": 1, "x": value}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt is .*not a fastrl checkpoint"):
        load_checkpoint(tmp_path / "a.pt")


def test_optimizers_of_the_first_format_begin_anew(tmp_path, caplog):
    moments = {"mean": torch.ones(3), "square": torch.ones(3), "steps": torch.tensor(7.0)}
    agent = {
        "policy": {"weight": torch.ones(3)},
        "adam": moments,
        "rms": {"square": torch.zeros(3)},
    }
    torch.save({"format": "fastrl", "format_version": 1, "agent": agent}, tmp_path / "a.pt")
    found = load_checkpoint(tmp_path / "a.pt")["agent"]
    assert not any(tensor.any() for tensor in found["adam"].values())
    assert found["rms"]["square"].tolist() == found["policy"]["weight"].tolist() == [1, 1, 1]
    assert "begin anew" in caplog.text


def test_a_newer_format_is_refused(tmp_path):
    torch.save({"format": "fastrl", "format_version": 3}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="format_version 3; this fastrl reads up to 2"):
        load_checkpoint(tmp_path / "a.pt")


def test_a_zip_of_others_is_no_fastrl_checkpoint(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("readme", "hello")
    with pytest.raises(ValueError, match=r"a\.pt"):
        load_checkpoint(tmp_path / "a.pt")


def test_a_failure_before_the_rename_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save_last(state_at(1))

    def fail(*_):
        raise OSError("killed here")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="killed here"):
        checkpoints.save_last(state_at(2))
    assert load_checkpoint(tmp_path / "last.pt")["counters"] == {"env_steps": 1}
    assert names(tmp_path) == ["last.pt"]


def test_a_failed_periodic_save_removes_no_old_one(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, keep=1)
    old = checkpoints.save_periodic(state_at(1), 1)

    def fail(*_):
        raise OSError("killed here")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="killed here"):
        checkpoints.save_periodic(state_at(2), 2)
    assert checkpoints.newest() == old


@pytest.mark.parametrize("num_kills", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_process_killed_at_any_moment_leaves_a_whole_checkpoint(tmp_path, num_kills):
    code = (
        "import sys, torch\nfrom fastrl.runs.checkpoint import Checkpoints\n"
        "checkpoints = Checkpoints(sys.argv[1])\n"
        "step = int(sys.argv[2])\n"
        "while True:\n"
        "    step += 1\n"
        "    weights = torch.full((300_000,), float(step))\n"
        "    checkpoints.save_last({'counters': {'env_steps': step}, 'weights': weights})\n"
        "    print(step, flush=True)\n"
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    last_told = 0
    for attempt in range(num_kills):
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), str(last_told)],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.0137 * (attempt + 1))
        os.kill(child.pid, signal.SIGKILL)
        told = child.stdout.read().split()
        child.wait()
        last_told = int(told[-1]) if told else last_told + 1
        state = load_checkpoint(Checkpoints(tmp_path).newest())
        env_steps = state["counters"]["env_steps"]
        # The child may have been killed after the rename and before it told.
        assert env_steps in (last_told, last_told + 1)
        assert torch.equal(state["weights"], torch.full((300_000,), float(env_steps)))
        last_told = env_steps


def test_what_a_killed_save_left_is_never_picked_up_and_is_cleaned(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save_last(state_at(1))
    leftover = tmp_path / ".step_000000000009.pt.123.fastrl-tmp"
    leftover.write_bytes((tmp_path / "last.pt").read_bytes())
    assert checkpoints.newest().name == "last.pt"
    checkpoints.save_last(state_at(2))
    assert names(tmp_path) == ["last.pt"]


def test_only_the_newest_periodic_ones_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save_best(state_at(1))
    for env_steps in (5, 20, 100, 3000):
        checkpoints.save_periodic(state_at(env_steps), env_steps)
    assert names(tmp_path) == ["best.pt", "step_000000000100.pt", "step_000000003000.pt"]


def test_a_run_resumed_from_before_replaces_what_lay_beyond(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save_periodic(state_at(2000), 2000)
    saved = checkpoints.save_periodic(state_at(1500), 1500)
    assert checkpoints.newest() == saved
    assert names(tmp_path) == ["step_000000001500.pt"]


def test_a_full_disk_is_an_os_error_that_names_the_file(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save_last(state_at(1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16384, before[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: .*last\.pt"):
            checkpoints.save_last({"weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == ["last.pt"]
    assert load_checkpoint(tmp_path / "last.pt")["counters"] == {"env_steps": 1}


@pytest.mark.parametrize("keep", [0, -1])
def test_keeping_none_is_refused(tmp_path, keep):
    with pytest.raises(ValueError, match=f"keep is {keep}"):
        Checkpoints(tmp_path, keep)


def test_the_newest_is_found_by_the_counter_inside(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=3)
    checkpoints.save_last(state_at(150))
    checkpoints.save_periodic(state_at(200), 200)
    checkpoints.save_best(state_at(170))
    os.utime(tmp_path / "last.pt")
    assert checkpoints.newest().name == "step_000000000200.pt"
    checkpoints.save_last(state_at(200))
    assert checkpoints.newest().name == "last.pt"
    checkpoints.save_best(state_at(999))  # killed between the best and the next periodic one
    assert checkpoints.newest().name == "best.pt"
    checkpoints.save_periodic(state_at(999), 999)
    assert checkpoints.newest().name == "step_000000000999.pt"


@pytest.mark.parametrize("damage", [cut, flip_a_weight])
def test_a_damaged_newest_falls_back_to_the_one_before(tmp_path, damage, caplog):
    checkpoints = Checkpoints(tmp_path, keep=3)
    for env_steps in (1, 2):
        checkpoints.save_periodic(state_at(env_steps), env_steps)
    checkpoints.save_last(state_at(3))
    damage(tmp_path / "last.pt")
    assert checkpoints.newest().name == "step_000000000002.pt"
    assert "last.pt" in caplog.text


def test_only_damaged_ones_is_an_error_that_names_them(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save_last(state_at(3))
    cut(tmp_path / "last.pt")
    with pytest.raises(ValueError, match=r"no whole checkpoint .*last\.pt is cut short"):
        checkpoints.newest()


def test_no_checkpoints_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no whole checkpoint"):
        Checkpoints(tmp_path / "nowhere").newest()


def test_a_run_folder_finds_its_newest_checkpoint(tmp_path):
    folder = create_run_folder(tmp_path, "ppo", "E-v0", "x", 1)
    write_config(folder / "config.yaml", {})
    run = open_run_folder(folder)
    saved = Checkpoints(run.checkpoints).save_last(state_at(7))
    assert Checkpoints(run.checkpoints).newest() == saved
