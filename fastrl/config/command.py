"""A parsed command line, and the lines that a run prints about it at the start."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field, replace
from typing import Any, Self

from fastrl.config.resume import spell

Settings = dict[str, Any]


@dataclass(frozen=True)
class Command:
    """A parsed command line, as passed to the algorithm's `main(command)`."""

    config: Any
    """The algorithm's config, complete and validated."""
    resume: str | None = None
    """Run folder to resume."""
    preset: str = "auto"
    """auto: that of the task. none. Or the name of one that goes for any task."""
    preset_settings: Settings = field(default_factory=dict)
    """Settings that the preset contributed and nothing overrode."""
    explicit: Settings = field(default_factory=dict)
    """Settings from the user's flags and `--config` file."""
    lack_of_preset: str = ""
    """Words to print if a preset was allowed, but the task has none."""
    agent: str = ""
    """Class that trains in place of the algorithm's own, as module:Class."""
    origin: str = ""
    """Line on the file that the agent was loaded from, in place of that on the preset."""
    is_dry: bool = False
    """Whether the settings are printed, and nothing else is done."""
    prints_config: bool = False
    """Whether the settings are printed as YAML, and nothing else is done."""
    origins: dict[str, str] = field(default_factory=dict)
    """Where settings in files are from, by name: "optimizer/adam.yaml, named in base.yaml"."""
    is_quiet: bool = False
    """Whether only the last line of a run is printed, which names its folder."""
    cut_of_preset: str = ""
    """Line to print if a preset was adjusted to fit the other settings."""
    began_at: float | None = field(default=None, compare=False)
    """Seconds from the start of the process to that of the run: 0 of its own command line."""

    def with_config(self, config: Any) -> Self:
        """Returns a copy for a config in which the user changed some settings."""
        changed = {
            name: value
            for name, value in vars(config).items()
            if value != getattr(self.config, name)
        }
        preset = {name: x for name, x in self.preset_settings.items() if name not in changed}
        explicit = {**self.explicit, **changed}
        return replace(self, config=config, preset_settings=preset, explicit=explicit)

    @property
    def algo(self) -> str:
        """Name of the algorithm's module, which is also that of its config's module."""
        return type(self.config).__module__.rpartition(".")[2]


def describe(command: Command) -> str:
    """Returns the lines that a run starts with: task, length, settings of preset and user."""
    config = command.config
    of_class = f" ({command.agent})" if command.agent else ""
    lines = [f"{command.algo}{of_class} on {config.env_id}, seed {config.seed}"]
    num_steps = config.num_updates * config.steps_per_update
    if num_steps != config.total_timesteps:
        lines[0] += f", {num_steps:,} steps in rollouts of {config.steps_per_update:,}"
    if command.resume is not None:
        lines.append(f"resume {command.resume}")
    elif command.origin:
        lines.append(command.origin)
    elif command.preset_settings:
        name = config.env_id if command.preset == "auto" else command.preset
        lines.append(f"preset {name}: {_assignments(command.preset_settings)}")
    else:
        lines.append(f"preset: none{command.lack_of_preset}")
    if command.cut_of_preset:
        lines.append(command.cut_of_preset)
    if (ranks := config.devices * config.num_nodes) > 1:
        lines.append(f"{ranks} ranks, over all: {config.global_sizes()}")
    # The first line already shows these two.
    yours = {key: value for key, value in command.explicit.items() if key not in ("env_id", "seed")}
    if yours:
        lines.append(f"you set: {_assignments(yours)}")
    return "\n".join(
        textwrap.fill(line, 100, subsequent_indent="    ", break_on_hyphens=False) for line in lines
    )


def plan_of(command: Command) -> str:
    """Returns what a run would start with: `describe`, then each setting and where it is from."""
    lines = [describe(command), "", "settings:"]
    for name, value in vars(command.config).items():
        origin = "default"
        if name in command.preset_settings:
            origin = " ".join(filter(None, ("preset", command.origins.get(name))))
        elif name in command.explicit:
            origin = command.origins.get(name, "yours")
        elif command.resume is not None:
            origin = "the resumed run"
        lines.append(f"  {name}={spell(value)}  ({origin})")
    return "\n".join([*lines, "", "dry run: nothing was written, and nothing trained"])


def _assignments(settings: Settings) -> str:
    return " ".join(f"{name}={spell(value)}" for name, value in settings.items())
