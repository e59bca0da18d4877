"""Which code a file may name: that which the user names too, or which the user's own run named.

A checkpoint or a run's `config.yaml` says which code made it, such as an `env_id` of
`module:callable`. Importing that runs it, so a file from elsewhere may not decide it. Hence each
file that names code is signed with a key of the user's (HMAC-SHA256), and what is not signed so is
imported only if the user names it again or says that the file is to be trusted.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import hmac
import importlib.util
import json
import logging
import os
import re
import secrets
import stat
import sys
import sysconfig
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from fastrl.config.values import as_kind, read_argument

# Settings whose value may be `module:callable`, which is then imported.
NAMING_CODE = (
    *("env_id", "agent", "network", "callback"),
    *("lr_schedule", "clip_schedule", "ent_schedule"),
)
ARGUMENTS = ("env_kwargs", "network_kwargs")  # of what these name

_CODE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\S*")
_INSTALLERS = {"pip", "pkg_resources", "setuptools"}  # they come with Python
_KEY_BYTES = 32
_MOST_SHOWN = 160  # characters

_log = logging.getLogger("fastrl")


def code_named_in(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings that name code, with its arguments; {} if none does.

    Args:
        settings: plain values by name, as of `RunConfig.to_dict`.

    Raises:
        ValueError: what should be arguments are none.
    """
    named = {name: settings[name] for name in NAMING_CODE if ":" in str(settings.get(name) or "")}
    named = {x: list(y) if isinstance(y, tuple) else y for x, y in named.items()}
    has_names = bool(named)
    for name in ARGUMENTS:
        try:
            arguments = list(as_kind(tuple[str, ...], settings.get(name) or ()))
        except ValueError as error:
            raise ValueError(f"{name} {error}") from error
        if arguments and (has_names or any(map(_CODE.fullmatch, _texts_of(arguments)))):
            named[name] = arguments
    return named


def _code_in(named: Mapping[str, Any]) -> list[str]:
    """Returns what is named, each as module:callable."""
    values = (named.get(name, "") for name in NAMING_CODE)
    texts = [str(x) for y in values for x in (y if isinstance(y, list) else [y])]
    return [text.removeprefix("actor=").removeprefix("critic=") for text in texts]


def signature_of(settings: Mapping[str, Any]) -> dict[str, str]:
    """Returns `{"signature": ...}` for a file with these settings; {} if they name no code.

    It is {} as well, and the log says so once, if the user's key can be neither read nor written.
    """
    named = code_named_in(settings)
    if not named:
        return {}
    try:
        key = _read_key() or _make_key()
    except (OSError, ValueError) as error:
        _tell_unsigned(" ".join(str(error).split()), shown(named))
        return {}
    return {"signature": _signature(key, named)}


def sign_text(text: str) -> str:
    """Returns the user's signature of a text; "" if the user's key can be neither read nor written.

    A file with it may be obeyed later, wherever it has been meanwhile.
    """
    with contextlib.suppress(OSError, ValueError):
        return _signature_of_text(_read_key() or _make_key(), text)
    return ""


def is_signed(text: str, signature: Any) -> bool:
    """Returns whether this user signed a text; `signature` may be of any type."""
    if not isinstance(signature, str) or not signature.isascii():
        return False
    with contextlib.suppress(OSError, ValueError):
        key = _read_key()
        return key is not None and hmac.compare_digest(signature, _signature_of_text(key, text))
    return False


def check_named(
    settings: Mapping[str, Any],
    signature: Any,
    source: object,
    trust: bool = False,
    named_again: Collection[str] = (),
) -> None:
    """Raises ValueError if a file names code that neither this user's run nor the user named.

    Args:
        settings: all settings in the file.
        signature: that in the file; of any type, as the file may be anybody's.
        source: the file, for errors.
        trust: the user trusts the file, whoever wrote it.
        named_again: settings that the user gives, so that the file's own are not used.
    """
    named = code_named_in(settings)
    if not named or trust or _is_ours(signature, named):
        return
    rest = code_named_in({name: x for name, x in settings.items() if name not in named_again})
    if rest:
        fault = "was not signed as a run of yours"
        if signature:
            fault = "is signed by another user, or was changed since"
            try:
                _read_key()
            except (OSError, ValueError) as error:
                fault = f"whether a run of yours signed it cannot be told: {error}"
        ways = {
            "env_id": "--env-id, env= in Python",
            "agent": "--agent, its class in Python",
            "network": "--network, network= in Python",
            "callback": "--callback, callback= in Python",
        }
        again = "; ".join(ways.get(name, f"{name}=") for name in NAMING_CODE if name in rest)
        again = f"name it again ({again}) or " if again else ""
        raise ValueError(
            f"{source} wants to run {shown(rest)}, but {fault}; to allow it, {again}pass --trust "
            "(trust=True in Python)"
        )


def check_given(settings: Mapping[str, Any], source: object) -> None:
    """Raises ValueError if a file that the user gives by --config names a part of Python.

    Other modules count as named by the user.
    """
    named = code_named_in(settings)
    arguments = [text for name in ARGUMENTS for text in named.get(name, ())]
    for text in (*_code_in(named), *_texts_of(arguments)):
        if _CODE.fullmatch(text) and is_part_of_python(text.partition(":")[0]):
            raise ValueError(
                f"{source} wants to run {shown(named)}, a part of Python itself; a file of "
                "settings may only name modules of the working folder and of installed packages"
            )


def is_part_of_python(module: str) -> bool:
    """Returns whether a module comes with Python, so that no environment is in it."""
    package = module.partition(".")[0]
    if package in sys.stdlib_module_names or package in _INSTALLERS:
        return True
    spec = None
    with contextlib.suppress(ImportError, ValueError):  # __main__ may have none
        spec = importlib.util.find_spec(package)
    origin = Path(spec.origin) if spec is not None and spec.origin else Path()
    paths = {name: Path(path) for name, path in sysconfig.get_paths().items()}
    is_installed = any(origin.is_relative_to(paths[name]) for name in ("purelib", "platlib"))
    is_installed = is_installed or "site-packages" in origin.parts
    return origin.is_relative_to(paths["stdlib"]) and not is_installed


def shown(named: Mapping[str, Any]) -> str:
    """Returns what `code_named_in` did as a call on one line, shortened if it is long."""
    code = " ".join(filter(None, _code_in(named)))
    arguments = [str(text) for name in ARGUMENTS for text in named.get(name, ())]
    text = f"{code}({', '.join(arguments)})"
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def _texts_of(arguments: Collection[str]) -> Iterator[str]:
    """Yields all strings in the values of arguments that are written name=value."""
    pending: list[Any] = [read_argument(text.partition("=")[2]) for text in arguments]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            pending += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set):
            pending += value


# The key and what it signs


@functools.cache  # said once, however many checkpoints are saved
def _tell_unsigned(reason: str, code: str) -> None:
    _log.warning(
        "this run is not signed as yours (%s): to load or resume it, name %s again", reason, code
    )


def _is_ours(signature: Any, named: Mapping[str, Any]) -> bool:
    if not isinstance(signature, str) or not signature.isascii():
        return False
    with contextlib.suppress(OSError, ValueError):
        key = _read_key()
        return key is not None and hmac.compare_digest(signature, _signature(key, named))
    return False


def _signature(key: bytes, named: Mapping[str, Any]) -> str:
    text = json.dumps(named, sort_keys=True)
    return hmac.new(key, f"fastrl names code: {text}".encode(), hashlib.sha256).hexdigest()


def _signature_of_text(key: bytes, text: str) -> str:
    return hmac.new(key, f"fastrl obeys: {text}".encode(), hashlib.sha256).hexdigest()


def _key_path() -> Path:
    """Returns where the user's key is.

    Raises:
        ValueError: the user has no home.
    """
    folder = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    if not folder.is_absolute():  # unset, empty, or what the specification has us ignore
        try:
            folder = Path.home() / ".config"
        except RuntimeError as error:
            raise ValueError(str(error)) from error
    return folder / "fastrl" / "key"


def _read_key() -> bytes | None:
    """Returns the user's key; None if there is none yet.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a key, or others could have read or replaced it.
    """
    path = _key_path()
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with open(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o077:
            raise ValueError(f"{path} must be a file of yours with mode 600")
        key = file.read(_KEY_BYTES + 1)
    if len(key) != _KEY_BYTES:
        raise ValueError(f"{path} is not a key of {_KEY_BYTES} bytes")
    return key


def _make_key() -> bytes:
    """Makes the user's key, unless another process just did; returns it."""
    path = _key_path()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    written = path.with_name(f"key.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
        with contextlib.suppress(FileExistsError):
            os.link(written, path)  # unlike a rename, it replaces no key
    finally:
        written.unlink()
    key = _read_key()
    assert key is not None
    return key
