"""Damage to the folder of a run: to its checkpoints, its settings and its other files."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

CANARY = "hostile-code-ran"  # a file of this name in the working folder: code of a file has run
# Parts of Python that run what they are given, with settings of an environment that do harm.
COMMANDS = {
    "os:system": {"command": f"touch {CANARY}"},
    "os:popen": {"cmd": f"touch {CANARY}"},
    "subprocess:getoutput": {"cmd": f"touch {CANARY}"},
    "subprocess:run": {"args": ["touch", CANARY]},
    "pathlib:Path.touch": {"self": CANARY},
    "os:mkdir": {"path": CANARY},
    "builtins:open": {"file": CANARY, "mode": "w"},
}


class Code:
    """Unpickles to a call of os.system."""

    def __reduce__(self) -> Any:
        return os.system, (f"touch {CANARY}",)


_OTHER_VALUES: list[Any] = [
    *(
        None,
        True,
        -1,
        0,
        2**62,
        2**200,
        1.5,
        -0.0,
        float("nan"),
        float("inf"),
        "",
        "x",
        "x" * 100_000,
    ),
    *([], [None], {}, {"x": 1}, {1: 2}, (1, 2), [[[]]], "os:system", "../../x", "\x1b[31m\n\n\n\n"),
]


def leaves(state: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the path of every value in nested dicts and lists, containers included."""
    if at:
        yield at
    pairs = state.items() if isinstance(state, dict) else ()
    if isinstance(state, list):
        pairs = enumerate(state)
    for name, value in pairs:
        yield from leaves(value, (*at, name))


def another(value: Any, chance: random.Random) -> Any:
    """Returns a value in place of another: of the wrong kind, shape or size."""
    if isinstance(value, torch.Tensor) and chance.random() < 0.7:
        changed: list[Callable[[], Any]] = [
            lambda: value.double() if value.is_floating_point() else value.float(),
            lambda: value.new_zeros(0),
            lambda: value.reshape(-1)[:1],
            lambda: value[None],
            lambda: torch.cat([value.reshape(-1)] * 2),
            lambda: value.to(torch.complex64),
            lambda: value.to(torch.bool),
            lambda: torch.zeros(value.shape, device="meta"),
            lambda: value.reshape(-1).to_sparse(),
            lambda: torch.full(value.shape, float("nan")),
            lambda: torch.full(value.shape, float("inf")),
            lambda: torch.full_like(value, -1) if value.dtype != torch.bool else ~value,
        ]
        return chance.choice(changed)()
    return chance.choice(_OTHER_VALUES)


def change_one_value(path: Path, chance: random.Random) -> str:
    """Replaces, removes or adds one value of a checkpoint."""
    state = torch.load(path, weights_only=True)
    where = chance.choice(list(leaves(state)))
    holder = state
    for name in where[:-1]:
        holder = holder[name]
    way = chance.random()
    if way < 0.8:
        holder[where[-1]] = another(holder[where[-1]], chance)
        words = f"{holder[where[-1]]!r:.60}"
    elif way < 0.9:
        del holder[where[-1]]
        words = "gone"
    else:
        if isinstance(holder, dict):
            holder["surplus"] = chance.choice(_OTHER_VALUES)
        else:
            holder.append(chance.choice(_OTHER_VALUES))
        words = "with one more beside it"
    torch.save(state, path)
    return f"{'.'.join(map(str, where))} = {words}"


def change_bytes(path: Path, chance: random.Random) -> str:
    """Cuts a file, flips bytes in it, blanks a part, or adds to it."""
    data = bytearray(path.read_bytes())
    at = chance.randrange(max(1, len(data)))
    way = chance.choice(["cut", "flip", "blank", "swap", "add", "empty", "double"])
    if way == "cut":
        data = data[:at]
    elif way == "flip" and data:
        for _ in range(chance.choice([1, 1, 8])):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif way == "blank":
        data[at : at + 64] = bytes(len(data[at : at + 64]))
    elif way == "swap":
        data = data[at:] + data[:at]
    elif way == "add":
        data += b"x" * chance.choice([1, 1000])
    elif way == "empty":
        data = bytearray()
    elif way == "double":
        data += bytes(data)
    path.write_bytes(data)
    return f"{way} at {at}"


def replace_file(path: Path, chance: random.Random) -> str:
    """Puts something else in the place of a file."""
    way = chance.choice(["none", "folder", "loop", "pipe", "dangling", "null", "text", "random"])
    data = path.read_bytes()
    path.unlink()
    if way == "folder":
        path.mkdir()
    elif way == "loop":
        path.symlink_to(path)
    elif way == "pipe":
        os.mkfifo(path)
    elif way == "dangling":
        path.symlink_to("absent")
    elif way == "null":
        path.symlink_to("/dev/null")
    elif way == "text":
        path.write_text("seed: 1\n")
    elif way == "random":
        path.write_bytes(chance.randbytes(len(data)))
    return way


def repack(path: Path, chance: random.Random) -> str:
    """Plays tricks with the zip archive that a checkpoint is."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    root = next(iter(parts)).partition("/")[0]
    pickled = f"{root}/data.pkl"
    way = chance.choice(
        ["compressed", "bomb", "twice", "without", "renamed", "upwards", "code", "deep", "huge"]
    )
    method = zipfile.ZIP_DEFLATED if way in ("compressed", "bomb") else zipfile.ZIP_STORED
    if way == "bomb":
        data = max(parts, key=lambda name: len(parts[name]))
        parts[data] = bytes(400_000_000)
    elif way == "without":
        del parts[chance.choice(list(parts))]
    elif way == "renamed":
        name = chance.choice(list(parts))
        parts[f"{name}x"] = parts.pop(name)
    elif way == "upwards":
        parts[f"{root}/../../../../tmp/{CANARY}"] = b"x"
    elif way == "code":
        parts[pickled] = pickle.dumps({"format": "fastrl", "format_version": 1, "agent": Code()}, 2)
    elif way == "deep":
        parts[pickled] = b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    elif way == "huge":
        state = {"format": "fastrl", "format_version": 1, "counters": {"env_steps": 10**4000}}
        parts[pickled] = pickle.dumps(state, 2)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
            if way == "twice" and name == pickled:
                archive.writestr(name, content[::-1])
    return way


def change_settings(folder: Path, chance: random.Random) -> str:
    """Damages config.yaml: a line gone, changed, twice; the rest gone."""
    path = folder / "config.yaml"
    lines = path.read_text().splitlines(keepends=True)
    index = chance.randrange(len(lines))
    way = chance.choice(
        ["gone", "changed", "twice", "cut", "empty", "another", "bytes", "replaced"]
    )
    if way == "gone":
        del lines[index]
    elif way == "changed":
        name = lines[index].partition(":")[0]
        values = ["null", "x", "-1", "[1]", "{a: 1}", "1e400", "!!bool x", "os:system", "7", "true"]
        lines[index] = f"{name}: {chance.choice(values)}\n"
    elif way == "twice":
        name = lines[index].partition(":")[0]
        lines.append(f"{name}: 7\n")
    elif way == "cut":
        lines = lines[:index]
    elif way == "empty":
        lines = []
    elif way == "another":
        lines = [line.replace("algo: ppo", "algo: sac") for line in lines]
    words = f"{way}: {lines[index].strip()[:60] if index < len(lines) else ''}"
    if way == "bytes":
        return f"config.yaml {change_bytes(path, chance)}"
    if way == "replaced":
        return f"config.yaml {replace_file(path, chance)}"
    path.write_text("".join(lines))
    return f"config.yaml {words}"


def name_code(folder: Path, chance: random.Random) -> str:
    """Puts a part of Python in the place of the task, in the checkpoints and config.yaml."""
    task = chance.choice(list(COMMANDS))
    kwargs = [f"{name}={value}" for name, value in COMMANDS[task].items()]
    for path in (folder / "checkpoints").glob("*.pt"):
        state = torch.load(path, weights_only=True)
        state["agent"]["config"].update(env_id=task, env_kwargs=kwargs, backend="auto")
        torch.save(state, path)
    path = folder / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**settings, "env_id": task, "env_kwargs": kwargs}))
    return f"task {task}"


def damage(folder: Path, chance: random.Random) -> str:
    """Damages one thing in the folder of a run; returns it in words."""
    checkpoint = folder / "checkpoints" / "last.pt"
    if chance.random() < 0.8:  # else another one serves in its place
        for other in checkpoint.parent.iterdir():
            if other != checkpoint:
                other.unlink()
    ways = ["value", "value", "value", "bytes", "zip", "file", "settings", "beside", "code"]
    way = chance.choice(ways)
    if way == "code":
        return name_code(folder, chance)
    if way == "value":
        return f"last.pt {change_one_value(checkpoint, chance)}"
    if way == "bytes":
        return f"last.pt {change_bytes(checkpoint, chance)}"
    if way == "zip":
        return f"last.pt zip {repack(checkpoint, chance)}"
    if way == "file":
        return f"last.pt {replace_file(checkpoint, chance)}"
    if way == "settings":
        return change_settings(folder, chance)
    beside = sorted(path for path in folder.iterdir() if path.name != "config.yaml")
    path = chance.choice(beside)
    if path.is_dir():
        shutil.rmtree(path)
        path.touch()
        return f"{path.name}/ a file"
    make = chance.choice([change_bytes, replace_file])
    return f"{path.name} {make(path, chance)}"
