"""Ids of environments: which are the user's own, and what one that is unknown may have meant."""

import difflib
import re
from typing import Any

import gymnasium

from fastrl.envs.envpool_env import list_envpool_ids

# Packages whose environments EnvPool has under the same ids.
_REBUILT_BY_ENVPOOL = {
    *("gymnasium", "gymnasium_robotics", "ale_py", "minigrid", "highway_env", "procgen", "vizdoom"),
    *("metaworld", "myosuite", "gfootball", "jumanji", "pgx"),
}


def is_registered_anew(env_id: str) -> bool:
    """Returns whether gymnasium makes something else of this id than EnvPool, if EnvPool has it."""
    spec = gymnasium.registry.get(env_id)
    if spec is None or env_id not in list_envpool_ids():
        return False
    entry = spec.entry_point
    where = entry if isinstance(entry, str) else getattr(entry, "__module__", "")
    return re.split(r"[.:]", where or "")[0] not in _REBUILT_BY_ENVPOOL


def fault_of(env_id: str, handed_over: Any) -> str:
    """Says what a saved agent played that cannot be made of its id here.

    Args:
        env_id: of what it played, unknown here unless the environments were handed over.
        handed_over: whether they were, so that no id makes them.
    """
    if handed_over:
        return f"environments of {env_id} that were handed over"
    return f"{env_id}, an id that is not registered in this process"


def unknown_id(env_id: str, backend: str) -> str:
    """Returns the message for an id that no library has, or not the one that is asked for."""
    registries = {"envpool": list_envpool_ids(), "gymnasium": frozenset(gymnasium.registry)}
    searched = registries if backend == "auto" else {backend: registries[backend]}
    message = f"unknown env {env_id!r} in {' and '.join(searched)}"
    if elsewhere := [
        name for name, ids in registries.items() if name not in searched and env_id in ids
    ]:
        message += f"; backend {elsewhere[0]!r} has it"

    if atari := _atari_hint(env_id):
        return f"{message}; {atari}"

    def unversioned(name: str) -> str:
        return re.sub(r"-v\d+$", "", name)

    known = sorted(frozenset().union(*searched.values()))
    if siblings := [name for name in known if unversioned(name) == unversioned(env_id)]:
        return f"{message}; other versions: {', '.join(siblings)}"
    lowered = {name.lower(): name for name in known}
    nearest = [
        lowered[match]
        for match in difflib.get_close_matches(env_id.lower(), lowered, n=4, cutoff=0.5)
    ]
    hint = f"; nearest: {', '.join(nearest)}" if nearest else ""
    return f"{message}{hint}. An env of your own is given as 'module:callable'"


def _atari_hint(env_id: str) -> str:
    """Returns a hint for an id of ale-py, such as `ALE/Pong-v5`; "" for other ids."""
    parts = re.fullmatch(r"(ALE/)?([A-Za-z0-9]+?)(-ram)?(NoFrameskip|Deterministic)?-v\d+", env_id)
    ours = f"{parts[2]}-v5" if parts else ""
    if not parts or not any(parts.group(1, 3, 4)) or ours not in list_envpool_ids():
        return ""
    return (
        f"EnvPool has the game as {ours!r}; backend 'gymnasium' needs the package ale-py and the "
        f"id 'ale_py:{env_id}'"
    )
