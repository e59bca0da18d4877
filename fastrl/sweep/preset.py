"""The preset file of a sweep: settings for `--config` and `--preset`, and where they are from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fastrl.cli import parse
from fastrl.config.trust import signature_of
from fastrl.config.values import ConfigDumper
from fastrl.presets import load_presets
from fastrl.runs.folder import replaced_file

_NOT_OF_A_PRESET = frozenset(
    {
        *("seed", "exp_name", "log_dir", "logger", "callback", "capture_video", "target_return"),
        *("eval_every", "eval_episodes", "checkpoint_every", "keep_checkpoints", "info_metrics"),
        *("num_threads", "num_env_threads", "num_workers", "devices", "num_nodes", "accelerator"),
    }
)


def preset_of(algo: str, words: Sequence[str]) -> dict[str, Any]:
    """Returns the settings that a command line trains with, as a preset of its task.

    These are all that differ from the defaults for a reason: given by flags or files, or by the
    preset. What the task's own preset sets is there as well, so that the file means the same
    whether that preset lies under it or not. What has no effect on learning is left out.

    Args:
        algo: module name of the algorithm.
        words: its command line, with the files of a trial.
    """
    command = parse(algo, list(words))
    config = command.config.to_dict()
    names = {
        *command.preset_settings,
        *command.explicit,
        *load_presets(algo).get(config["env_id"], {}),
        "env_id",
        "total_timesteps",
    }
    settings = {name: config[name] for name in config if name in names - _NOT_OF_A_PRESET}
    return {"algo": algo, **settings}


def write_preset(path: Path, settings: Mapping[str, Any], remarks: Sequence[str]) -> None:
    """Writes a preset file, atomically; signed, as a run's `config.yaml`, if it names code.

    Args:
        path: the file.
        settings: as of `preset_of`.
        remarks: lines about them, which become comments.
    """
    signed = {**settings, **signature_of(settings)}
    text = yaml.dump(signed, Dumper=ConfigDumper, sort_keys=False, allow_unicode=True)
    comments = "".join(f"# {' '.join(remark.split())}\n" for remark in remarks)
    with replaced_file(path) as file:
        file.write((comments + text).encode())
