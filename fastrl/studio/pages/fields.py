"""The fields of a form, one for each setting of an algorithm, made from its description."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache, partial
from typing import Any

from nicegui import ui  # pyright: ignore[reportMissingImports]

from fastrl.presets.describing import describe
from fastrl.studio.drafts import shown

_HIDDEN = frozenset(
    {"seed", "log_dir"}
)  # seeds have a field of their own; the studio has its folder
_OPEN = frozenset({"task", "algorithm"})
_UNSET = ""


@lru_cache(maxsize=32)
def described(algo: str, env_id: str, preset: str) -> dict[str, Any]:
    """Returns the description of an algorithm's settings; of defaults if a preset is unknown."""
    try:
        return describe(algo, env_id, preset)
    except ValueError:
        return describe(algo, env_id, "none")


class Fields:
    """Fields of all settings, in groups. An empty field leaves its setting to preset or default.

    Args:
        description: as of `describe`.
        typed: called after each change.
        other_task: called when another task was chosen.
        tell_help: called with the help of the setting whose field has the focus.
    """

    def __init__(
        self,
        description: Mapping[str, Any],
        typed: Callable[[], None],
        other_task: Callable[[], Awaitable[None]],
        tell_help: Callable[[str], None],
    ) -> None:
        self._description = description
        self._typed, self._other_task, self._tell_help = typed, other_task, tell_help
        self._settings = {x["name"]: x for x in description["settings"]}
        self._elements: dict[str, Any] = {}
        self._groups: dict[str, Any] = {}
        self._is_filling = False

    def build(self) -> None:
        """Adds the fields."""
        for group in self._description["groups"]:
            settings = [x for x in self._settings.values() if x["group"] == group["name"]]
            settings = [x for x in settings if x["name"] not in _HIDDEN]
            if not settings:
                continue
            title = f"{group['name']}: {group['title']}"
            panel = ui.expansion(title, value=group["name"] in _OPEN).classes("desk-group")
            self._groups[group["name"]] = panel
            with panel, ui.element("div").classes("desk-fields"):
                for setting in settings:
                    self._elements[setting["name"]] = self._field(setting)

    def setting(self, name: str) -> Mapping[str, Any]:
        """Returns the description of a setting."""
        return self._settings[name]

    def given(self) -> dict[str, str]:
        """Returns what the user typed or chose, by name."""
        texts = {name: element.value for name, element in self._elements.items()}
        return {name: str(text) for name, text in texts.items() if text not in (None, _UNSET)}

    def fill(self, values: Mapping[str, Any]) -> None:
        """Fills fields with values, as text or as plain values, and empties the others."""
        self._is_filling = True
        for name, element in self._elements.items():
            value = values.get(name, _UNSET)
            element.value = value if isinstance(value, str) else shown(value)
            if value != _UNSET:
                self._groups[self._settings[name]["group"]].value = True
        self._is_filling = False

    def describe(self, description: Mapping[str, Any]) -> None:
        """Shows what another preset sets."""
        self._description = description
        self._settings = {x["name"]: x for x in description["settings"]}
        for name, element in self._elements.items():
            setting = self._settings[name]
            if isinstance(element, ui.select):
                element.set_options(_options(setting), value=element.value)
            else:
                element.props["placeholder"] = _unset_words(setting)
                element.update()

    def mark(self, faults: Mapping[str, str]) -> list[str]:
        """Marks the fields that are wrong, and no others; returns the words that have no field."""
        for name, element in self._elements.items():
            element.error = faults.get(name)
            if name in faults:
                self._groups[self._settings[name]["group"]].value = True
        return [words for name, words in faults.items() if name not in self._elements]

    def narrow(self, words: str) -> None:
        """Shows the fields alone whose name or help has these words."""
        wanted = words.lower().replace(" ", "_")
        for name, element in self._elements.items():
            text = self._settings[name]["help"].lower()
            element.set_visibility(wanted in name or words.lower() in text)
        for panel in self._groups.values() if words else ():
            panel.value = True

    def _field(self, setting: Mapping[str, Any]) -> Any:
        name = setting["name"]
        if name == "env_id":
            tasks = self._description["tasks_with_preset"]
            element = ui.input(name, placeholder=_unset_words(setting), autocomplete=tasks)
            element.on("blur", self._other_task).on("keydown.enter", self._other_task)
        elif setting["kind"] in ("boolean", "choice"):
            element = ui.select(_options(setting), value=_UNSET, label=name)
        else:
            element = ui.input(name, placeholder=_unset_words(setting))
        help_text = f"{name}: {setting['help']} {_bounds(setting)}".strip()
        element.props("stack-label dense outlined debounce=200")
        element.props["aria-label"] = name
        element.on("focus", partial(self._tell_help, help_text)).mark(name)
        element.on_value_change(self._changed)
        return element

    def _changed(self) -> None:
        if not self._is_filling:
            self._typed()


def _unset_words(setting: Mapping[str, Any]) -> str:
    """Returns what a setting is if the user leaves it alone, and from where."""
    origin = "preset" if "preset" in setting else "default"
    value = shown(setting.get("preset", setting["default"]))
    return f"{value or 'none'} ({origin})"


def _options(setting: Mapping[str, Any]) -> dict[str, str]:
    choices = setting["choices"] if setting["kind"] != "boolean" else [True, False]
    return {_UNSET: _unset_words(setting), **{shown(x): shown(x) for x in choices}}


def _bounds(setting: Mapping[str, Any]) -> str:
    """Returns the range of a setting in words."""
    least, most = setting["minimum"], setting["maximum"]
    words = []
    if least is not None:
        words.append(f"above {least:g}" if setting["excludes_minimum"] else f"at least {least:g}")
    if most is not None:
        words.append(f"below {most:g}" if setting["excludes_maximum"] else f"at most {most:g}")
    return f"({setting['kind']}, {' and '.join(words)})" if words else f"({setting['kind']})"
