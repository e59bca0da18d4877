"""The command line of all algorithms: merges flags, presets, files and saved runs to a config.

Later sources override earlier ones: defaults, preset of the task, `--config` files, flags. With
`--resume RUN` the saved settings replace the first three. torch is imported only after the settings
are validated, so that `--help` and user errors are answered at once.
"""

from __future__ import annotations

from fastrl.processes.signals import leaving_at_once

with leaving_at_once():  # Ctrl-C may already come during these imports
    import atexit
    import contextlib
    import dataclasses
    import gc
    import json
    import os
    import sys
    from collections.abc import Sequence
    from importlib import import_module
    from importlib.util import find_spec, module_from_spec, spec_from_file_location
    from typing import Any

    from fastrl.config.checks import check_length
    from fastrl.config.command import Command, Settings, plan_of
    from fastrl.config.describing import config_class_of, title_of
    from fastrl.config.effects import check_effects
    from fastrl.config.finding import check_named_code
    from fastrl.config.flags import flag_of, print_flags, read_flags
    from fastrl.config.resume import resumed
    from fastrl.config.run import RunConfig
    from fastrl.config.schedules import check_found, check_given_together, without_overridden
    from fastrl.config.trust import check_named
    from fastrl.presets import (
        lack_of_preset,
        load_presets,
        merge,
        naming_preset,
        preset_for,
    )
    from fastrl.presets.layers import Layers, is_file, naming_files, read_layers, read_preset
    from fastrl.processes.errors import exit_status
    from fastrl.processes.launch import launched_settings, spelled_out, start_ranks
    from fastrl.processes.memory import check_memory
    from fastrl.processes.start import seconds_since_process_start
    from fastrl.runs.folder import CONFIG_NAME, LABELS, config_text, open_run_folder


def main(algo: str, argv: Sequence[str] | None = None, file: str | None = None) -> int:
    """Runs an algorithm from the command line.

    A user error is reported in one line on stderr, after a traceback if FASTRL_TRACEBACK=1.

    Args:
        algo: name of the algorithm's config module under `fastrl.config`.
        argv: arguments after the program's name; those of this process if None.
        file: the file that defines the algorithm's `main(command: Command) -> int`: that in
            `fastrl` (default), or a modified copy of it.

    Returns:
        Exit status: that of the algorithm, 2 after a user error, 130 after Ctrl-C.
    """
    began_at = 0.0 if argv is None else seconds_since_process_start()

    def work() -> int:
        # A script finds its neighbours first: our `config`, say, and not yours. `fabric run`
        # starts us as one; the working folder comes first then, as with `python -m`.
        if os.path.realpath(sys.path[0]) == os.path.dirname(os.path.realpath(__file__)):
            sys.path[0] = os.getcwd()
        with leaving_at_once():
            command = parse(algo, argv)  # reports user errors before torch is imported
            if command.is_dry:
                print(plan_of(command))
                return 0
            if command.prints_config:
                labels = {"algo": algo} | ({"agent": command.agent} if command.agent else {})
                config = {**labels, **command.config.to_dict()}
                print(config_text(config, is_ascii=True), end="")
                return 0
            # OpenMP's threads spin while they wait for each other. By default they spin for so long
            # that an update on two threads takes ten times as long, or more, once another process
            # needs a core. This shorter time costs 7 % on an idle machine. It is read when torch is
            # imported.
            os.environ.setdefault("GOMP_SPINCOUNT", "1000")
            start_ranks(command.config.devices, command.config.num_nodes)
            # Imported objects are never freed. The garbage collector would traverse them 700 times
            # during the imports, and once more at exit: two thirds of a second.
            gc.set_threshold(100_000)
            atexit.register(gc.freeze)
            algorithm = _algorithm(algo, file)
        return algorithm.main(dataclasses.replace(command, began_at=began_at))

    return exit_status(work)


def _algorithm(algo: str, file: str | None) -> Any:
    """Returns the module of an algorithm, loaded from `file` wherever that is."""
    ours = find_spec(f"fastrl.{algo}")
    assert ours is not None and ours.origin is not None
    if file is None or os.path.samefile(file, ours.origin):
        return import_module(f"fastrl.{algo}")
    name = os.path.splitext(os.path.basename(file))[0]
    spec = spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parse(algo: str, argv: Sequence[str] | None = None) -> Command:
    """Parses and validates a command line.

    Args:
        algo: name of the algorithm's config module under `fastrl.config`.
        argv: arguments after the program's name; those of this process if None.

    Raises:
        ValueError: a user error.
        OSError: a file cannot be read.
        SystemExit: with code 0, after `--help` and `--describe`.
    """
    argv = sys.argv[1:] if argv is None else argv
    config_class = config_class_of(algo)
    if "--help" in argv or "-h" in argv:
        _print_help(algo, config_class, [word for word in argv if word not in ("--help", "-h")])
        raise SystemExit(0)
    source, flags = read_flags(config_class, argv)
    check_given_together(flags)
    if source.get("describe"):
        _print_description(algo, source, flags)
        raise SystemExit(0)
    preset_name = source.get("preset", "auto")
    has_files = "config" in source or is_file(preset_name)
    if source.get("trust") and not has_files and "resume" not in source:
        raise ValueError("--trust has no effect without --resume, --config or --preset FILE.yaml")
    for name, value in launched_settings().items():
        if spelled_out(flags.setdefault(name, value)) != value:
            raise ValueError(f"{flag_of(name)} is {flags[name]}, but the launcher was told {value}")
    if "resume" in source:
        return _resume(algo, config_class, source, flags)
    preset, files = _settings_under_flags(algo, config_class, source, flags)
    from_file = without_overridden(files.settings, flags)
    explicit = {**from_file, **flags, **_trainers({**from_file, **flags})}
    from_preset = {name: x for name, x in preset.settings.items() if name not in explicit}
    from_preset = without_overridden(from_preset, explicit)
    agent = source.get("agent", files.agent)
    with naming_files(files, from_file.keys() - flags.keys()), naming_files(preset, from_preset):
        command = merge(config_class, from_preset, explicit, "flags", "--preset none")
        with naming_preset(from_preset, "--preset none"):
            check_length(command.config)
        _check(command.config, agent, source)
    origins = {name: preset.origins[name] for name in from_preset if name in preset.origins}
    origins |= {name: files.origins[name] for name in from_file if name not in flags}
    command = dataclasses.replace(command, agent=agent, preset=preset_name, origins=origins)
    command = _printing(command, source)
    if "preset" in source:
        return command
    lack = lack_of_preset(algo, command.config.env_id)
    return dataclasses.replace(command, lack_of_preset=lack)


def _trainers(given: Settings) -> Settings:
    """Returns how many trainers a decoupled run has: all processes that do not play."""
    sizes = [given.get(name, 1) for name in ("devices", "num_nodes", "num_players")]
    if not given.get("decoupled") or "num_trainers" in given:
        return {}
    if not all(isinstance(size, int) for size in sizes):  # refused later, by name
        return {}
    num_trainers = sizes[0] * sizes[1] - sizes[2]
    return {"num_trainers": num_trainers} if num_trainers > 0 else {}


def _settings_under_flags(
    algo: str, config_class: type[RunConfig], source: Settings, flags: Settings
) -> tuple[Layers, Layers]:
    """Returns the settings of the preset and those of the `--config` files."""
    trust, again = source.get("trust", False), {*flags, *source}
    files = read_layers(source.get("config", ()), algo, trust=trust, named_again=again)
    env_id = flags.get("env_id", files.settings.get("env_id", config_class.env_id))
    preset = source.get("preset", "auto")
    if is_file(preset):
        again |= files.settings.keys()
        return read_preset(preset, algo, trust=trust, named_again=again), files
    try:
        return Layers(preset_for(algo, env_id, preset)), files
    except ValueError as error:
        raise ValueError(f"--{error}") from error


def _resume(algo: str, config_class: type[RunConfig], source: Settings, flags: Settings) -> Command:
    """Merges the settings of a saved run with the flags that may change in it."""
    run = source["resume"]
    for name in ("config", "preset"):
        if name in source:
            raise ValueError(f"{flag_of(name)} has no effect: --resume takes the settings of {run}")
    saved, labels = _saved_config(algo, config_class, run)
    if labels.get("handed_over"):
        raise ValueError(
            f"{run} played environments of {saved.env_id} that were handed over; go on from "
            f"Python: AgentTrainer(resume={run!r}).fit(agent), of an agent with such environments"
        )
    agent = labels.get("agent", "")
    if source.get("agent", agent) != agent:
        raise ValueError(
            f"--agent cannot change in a resumed run, where it is {agent or 'not set'}"
        )
    named = {**saved.to_dict(), "agent": agent}
    again = {*flags, *source}
    check_named(named, labels.get("signature"), run, source.get("trust", False), again)
    config = resumed(saved, flags, run)
    check_effects(config, flags)
    _check(config, agent, source)
    return _printing(Command(config=config, resume=run, explicit=flags, agent=agent), source)


def _check(config: RunConfig, agent: str, source: Settings) -> None:
    """Raises ValueError for settings that can be seen not to work before anything is imported."""
    check_found(config)
    check_memory(config)
    if source.get("dry_run"):
        check_named_code({**config.to_dict(), "agent": agent})


def _printing(command: Command, source: Settings) -> Command:
    """Returns a command that prints what was asked for: all settings, or as little as can be."""
    is_dry, is_quiet = source.get("dry_run", False), source.get("quiet", False)
    prints_config = source.get("print_config", False)
    for is_asked, flag in ((is_dry, "--dry-run"), (prints_config, "--print-config")):
        if is_asked and is_quiet:
            raise ValueError(f"--quiet has no effect with {flag}, which prints the settings")
    if is_dry and prints_config:
        raise ValueError("--dry-run has no effect with --print-config, which trains nothing")
    return dataclasses.replace(
        command, is_dry=is_dry, is_quiet=is_quiet, prints_config=prints_config
    )


def _saved_config(algo: str, config_class: type[RunConfig], run: str) -> tuple[RunConfig, Settings]:
    """Returns the settings that a run was started with, and what else its config says of it."""
    folder, source = open_run_folder(run), f"{run}/{CONFIG_NAME}"
    settings = dict(folder.config)
    labels = {name: settings.pop(name) for name in LABELS & settings.keys()}
    saved_algo = labels.get("algo", algo)
    if saved_algo != algo:
        raise ValueError(f"{run} is a run of {saved_algo}, not {algo}")
    known = config_class.typed(settings, source)
    lacking = [entry.name for entry in dataclasses.fields(config_class) if entry.name not in known]
    if lacking or folder.is_cut:
        # Or of a version with fewer settings. The checkpoint knows all, but needs torch.
        from fastrl.runs.checkpoint import settings_in_newest

        try:
            known, labels, source = settings_in_newest(folder.checkpoints, algo)
        except ValueError as error:
            raise ValueError(f"{source} is incomplete, and {error}") from error
    return config_class.from_dict(known, source), labels


def _print_description(algo: str, source: Settings, flags: Settings) -> None:
    """Prints the answer to `--describe`."""
    from fastrl.presets.describing import describe

    for name in (*source, *flags):
        if name not in ("describe", "env_id", "preset"):
            raise ValueError(f"--describe goes with --env-id and --preset, not {flag_of(name)}")
    try:
        described = describe(algo, flags.get("env_id", ""), source.get("preset", "auto"))
    except ValueError as error:
        raise ValueError(f"--{error}") from error
    print(json.dumps(described, indent=1))


def _print_help(algo: str, config_class: type[RunConfig], argv: Sequence[str]) -> None:
    """Prints all flags; the defaults reflect `--env-id`, `--config` and `--resume`."""
    shown = config_class()
    note = f"Tuned settings, shown by --env-id TASK --help: {', '.join(load_presets(algo))}."
    # Help must be printed whatever else is on the command line.
    with contextlib.suppress(ValueError, OSError):
        source, flags = read_flags(config_class, argv)
        if "resume" in source:
            shown, _ = _saved_config(algo, config_class, source["resume"])
            note = f"The defaults below are those of {source['resume']}."
        elif source or "env_id" in flags:
            preset, files = _settings_under_flags(algo, config_class, source, flags)
            task = {"env_id": flags["env_id"]} if "env_id" in flags else {}
            shown = config_class.from_dict({**preset.settings, **files.settings, **task})
            name = source.get("preset", "auto")
            name = f"of {shown.env_id}" if name == "auto" else name
            origins = [f"the preset {name}"] if preset.settings else []
            origins += source.get("config", ())
            note = f"The defaults below include {' and '.join(origins) or 'no preset'}."
    values = {entry.name: getattr(shown, entry.name) for entry in dataclasses.fields(config_class)}
    description = f"{title_of(config_class)}\n\n{note}"
    print_flags(config_class, values, f"python -m fastrl.{algo}", description)
