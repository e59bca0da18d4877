"""Schedules as settings: a word with options, a function of Python, or the name of one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fastrl.config.callables import callable_in, imported
from fastrl.ops.schedules import SHAPES, factor

SCHEDULE_OF = {
    "learning_rate": "lr_schedule",
    "clip_coef": "clip_schedule",
    "ent_coef": "ent_schedule",
}
"""The setting that has the schedule of a coefficient."""
SHORT_FOR_LINEAR = {
    "lr_schedule": "anneal_lr",
    "clip_schedule": "anneal_clip_coef",
    "ent_schedule": "anneal_ent_coef",
}
SCHEDULES = tuple(SHORT_FOR_LINEAR)
NAMELESS = "python"
"""What is saved of a function that nobody finds by a name, such as a lambda."""

Function = Callable[[float], float]


class Schedule(NamedTuple):
    """A schedule as it was read."""

    shape: str
    options: dict[str, float]

    def __call__(self, progress: float) -> float:
        """Returns the factor at a progress in [0, 1]."""
        return factor(self.shape, progress, **self.options)


class Adaptive(NamedTuple):
    """What an adaptive learning rate goes by; see `ops.schedules.adapted_to_kl`."""

    kl: float = 0.01
    low: float = 1e-5
    high: float = 1e-2


def read_schedule(text: str) -> Schedule | Adaptive:
    """Reads `cosine,floor=0.1,warmup=0.05`, or `adaptive,kl=0.01`.

    Raises:
        ValueError: an unknown shape or option, or a number out of range.
    """
    shape, *words = [word.strip() for word in text.split(",")]
    if shape not in (*SHAPES, "adaptive"):
        raise ValueError(
            f"must be constant, linear, cosine or adaptive, with options such as "
            f"cosine,floor=0.1,warmup=0.05, or module:callable, not {text!r}"
        )
    known = Adaptive._fields if shape == "adaptive" else ("floor", "warmup")
    options: dict[str, float] = {}
    for word in words:
        name, _, number = word.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        is_share = shape != "adaptive"
        if name not in known or name in options or not 0 <= value < (1 if is_share else 3e38):
            bounds = "from 0 to below 1" if is_share else "above 0"
            raise ValueError(f"{shape} takes {', '.join(known)}, {bounds}, not {word!r}")
        options[name] = value
    if shape != "adaptive":
        if shape == "constant" and options.get("floor"):
            raise ValueError("floor has no effect on constant, which does not fall")
        return Schedule(shape, options)
    adaptive = Adaptive(**options)
    if not adaptive.kl > 0 or not 0 < adaptive.low < adaptive.high:
        raise ValueError(f"adaptive needs kl above 0 and 0 < low < high, not {text!r}")
    return adaptive


def name_of(schedule: Any) -> str:
    """Returns what is saved of a schedule: its text, a function's module:name, or `NAMELESS`."""
    if isinstance(schedule, str):
        return schedule
    module, name = getattr(schedule, "__module__", ""), getattr(schedule, "__qualname__", "")
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return f"{module}:{name}" if found is schedule and module != "__main__" else NAMELESS


def function_of(schedule: str | Function, setting: str) -> Function | Adaptive:
    """Returns a schedule as a function of progress, unless it is adaptive.

    Raises:
        ValueError: it cannot be read, or imported, or is a function that was not given again.
    """
    given: Any = schedule
    if not isinstance(schedule, str):
        return given
    if schedule == NAMELESS:
        raise ValueError(
            f"{setting} is a function of Python's that no name leads to (a lambda, or of a "
            f"script); give it again from Python: {setting}=..."
        )
    if ":" not in schedule:
        return read_schedule(schedule)
    module_name, _, name = schedule.partition(":")
    said = f"{setting}={schedule}"
    return callable_in(imported(module_name, said), name, said)


def schedule_of(config: Any, coefficient: str) -> str | Function:
    """Returns the schedule of a coefficient of a config."""
    setting = SCHEDULE_OF[coefficient]
    is_linear = getattr(config, SHORT_FOR_LINEAR[setting], False)
    return "linear" if is_linear else getattr(config, setting)


def moves(config: Any, coefficient: str) -> bool:
    """Returns whether a schedule sets a coefficient at each update; one that adapts does not."""
    is_adaptive = coefficient == "learning_rate" and adaptive_of(config) is not None
    return not is_adaptive and schedule_of(config, coefficient) != "constant"


def adaptive_of(config: Any) -> Adaptive | None:
    """Returns what the learning rate adapts to; None if it does not."""
    text = config.lr_schedule
    is_adaptive = isinstance(text, str) and text.partition(",")[0] == "adaptive"
    rule = read_schedule(text) if is_adaptive else None
    return rule if isinstance(rule, Adaptive) else None


def value_at(config: Any, coefficient: str, progress: float, start: float | None = None) -> float:
    """Returns a coefficient at a progress in [0, 1]; the start of one that adapts.

    Args:
        config: that has the schedule.
        coefficient: a name in `SCHEDULE_OF`.
        progress: share of the run that is over.
        start: the value that the schedule multiplies, by default that of the coefficient's setting.

    Raises:
        ValueError: a function returned no number, or one that cannot be.
    """
    setting, first = SCHEDULE_OF[coefficient], start
    if first is None:
        first = float(getattr(config, coefficient))
    function = function_of(schedule_of(config, coefficient), setting)
    if isinstance(function, Adaptive):
        return first
    try:
        share: Any = function(progress)
    except Exception as error:  # foreign code may raise anything
        words = " ".join(str(error).split())
        raise ValueError(
            f"{setting} raised {type(error).__name__} at progress {progress:.4g}: {words}"
        ) from error
    is_number = hasattr(share, "__float__") and getattr(share, "ndim", 0) == 0
    value = first * float(share) if is_number else -1.0
    is_right = 0 <= value < 3e38 and (value > 0 or coefficient != "clip_coef")
    if not is_right:
        low = "above 0" if coefficient == "clip_coef" else "at least 0"
        raise ValueError(
            f"{setting} gave {share!r} at progress {progress:.4g}; it must give a number {low}, "
            f"which {coefficient} is multiplied by"
        )
    return value


def check_schedules(config: Any, *, has_kl: bool = False) -> None:
    """Raises ValueError for schedules that cannot be read, contradict others or have no effect.

    Args:
        config: all settings of a run.
        has_kl: whether an update of this run measures how far the policy moved.
    """
    for coefficient, setting in SCHEDULE_OF.items():
        schedule, short = getattr(config, setting, "constant"), SHORT_FOR_LINEAR[setting]
        if getattr(config, short, False):
            if schedule not in ("constant", "linear"):
                raise ValueError(_contradiction(setting, schedule))
            schedule = "linear"
        if not isinstance(schedule, str) or schedule == NAMELESS or ":" in schedule:
            continue
        try:
            rule = read_schedule(schedule)
        except ValueError as error:
            raise ValueError(f"{setting} {error}") from error
        start = getattr(config, coefficient, None)
        if isinstance(rule, Adaptive):
            if coefficient != "learning_rate" or not has_kl:
                raise ValueError(
                    f"{setting}={schedule} has no effect here: it is for PPO's learning rate, and "
                    "updates of at least two gradient steps, between which the policy moves"
                )
            if not rule.low <= config.learning_rate <= rule.high:
                raise ValueError(
                    f"learning_rate={config.learning_rate} is not between the low={rule.low:g} and "
                    f"high={rule.high:g} of {setting}={schedule}"
                )
        elif start == 0 and schedule != "constant":
            given = short if getattr(config, short) else setting
            raise ValueError(f"{given} has no effect while {coefficient} is 0")


def check_given_together(given: Mapping[str, Any]) -> None:
    """Raises ValueError if a user gave both names of a schedule, in contradiction.

    Of a file with all settings this cannot be asked: it has `constant` beside `anneal_lr`, the
    default of the name that was not given.

    Args:
        given: the flags of a command line, or the arguments of a call.
    """
    for setting, short in SHORT_FOR_LINEAR.items():
        if setting in given and short in given:
            schedule, is_linear = given[setting], bool(given[short])
            if is_linear != (schedule == "linear"):
                raise ValueError(_contradiction(setting, schedule, is_linear))


def _contradiction(setting: str, schedule: Any, is_linear: bool = True) -> str:
    short, given = SHORT_FOR_LINEAR[setting], f"{setting}={name_of(schedule)}"
    if not is_linear:
        return f"{short}=false contradicts {given}; give one of them"
    return f"{short} is short for {setting}=linear, which {given} contradicts; give one of them"


def check_found(config: Any) -> None:
    """Raises ValueError if a command line is to follow a function that no name leads to."""
    for setting in SCHEDULES:
        if getattr(config, setting, "") == NAMELESS:
            raise ValueError(
                f"{setting} of this run is a function of Python's that no name leads to (a lambda, "
                "or of a script); go on from Python: AgentTrainer(resume=RUN).fit(agent), of an "
                f"agent with {setting}=..."
            )


def without_overridden(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings without those that others override by the other of their two names.

    `anneal_lr` is short for `lr_schedule=linear`: who gives one of the two means both.

    Args:
        lower: of a preset or a file.
        upper: what goes before them, such as flags.
    """
    pairs = [*SHORT_FOR_LINEAR.items(), *((b, a) for a, b in SHORT_FOR_LINEAR.items())]
    gone = {name for name, other in pairs if other in upper}
    return {name: value for name, value in lower.items() if name not in gone}
