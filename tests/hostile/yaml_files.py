"""YAML files of settings: right ones with one thing changed, bombs, tags, bytes."""

from __future__ import annotations

import random
from collections.abc import Callable

GOOD = """\
env_id: CartPole-v1
seed: 3
num_envs: 2
learning_rate: 3e-4
hidden_sizes: [8, 8]
normalize_advantages: true
target_kl: null
env_kwargs: {max_episode_steps: 9}
"""
VALUES = [
    *("null", "~", "''", "' '", "[]", "{}", "[[1]]", "{a: {b: 1}}", "yes", "off", "1", "-1", "1.5"),
    *("1e400", ".nan", ".inf", "-.inf", "0o17", "0x1F", "1_000", "12:30:45", "2026-01-01", "1e6"),
    *("2026-13-45", "2026-01-01 99:99:99", "!!bool x", "!!int x", "!!float x", "!!null x", "<<"),
    *("!!timestamp x", "!!timestamp 2026-02-31", "!!binary x", "!!binary '\\xff'", "!!set {a, b}"),
    *("!!omap [a: 1]", "!!pairs [a: 1]", "!!seq x", "!!map x", "!!str [1]", "!own x", "! x", "="),
    *("!!python/tuple [1, 2]", "!!python/tuple x", "!!python/name:os.system ''"),
    *("!!python/object/apply:os.system ['true']", "!!python/object/new:os.system [a]"),
    *("*none", "&a [*a]", "&a {b: *a}", "&a {<<: *a}", "&a x", "'unclosed", "[1, 2", "{a: 1", "@x"),
    *("%x", "`x`", "|\\n  text", ">\\n  text", "'\\u202e'", '"\\x1b[31m"', '"\\0"', "? x", "- x"),
    *("9" * 400, "9" * 5000, "1" + "0" * 5000, "x" * 100_000, "é", "\u2028", "[" * 60 + "]" * 60),
    *("[" * 3000, "[" * 3000 + "]" * 3000, "{a: " * 2000 + "1" + "}" * 2000, "- " * 3000 + "x"),
]


def _other_value(chance: random.Random) -> str:
    lines = [*map(str, GOOD.splitlines())]
    index = chance.randrange(len(lines))
    lines[index] = f"{lines[index].partition(':')[0]}: {chance.choice(VALUES)}"
    return "\n".join(lines)


def _other_key(chance: random.Random) -> str:
    keys = [
        "",
        "1",
        "null",
        "true",
        "[a]",
        "{a: 1}",
        "? [a]\n",
        "<<",
        "!!bool x",
        "2026-01-01",
        "-",
    ]
    keys += ["nope", "Seed", "seed ", "num-envs", "é", "\x1b[1m", "x" * 5000, "__class__", "algo"]
    return f"{GOOD}{chance.choice(keys)}: {chance.choice(['1', 'x', '{a: 1}', '*a', '[1]'])}\n"


def _twice(chance: random.Random) -> str:
    name = chance.choice(GOOD.splitlines()).partition(":")[0]
    return f"{GOOD}{name}: {chance.choice(['1', '2', 'x', 'null'])}\n"


def _bomb(chance: random.Random) -> str:
    levels, width = chance.choice([12, 30]), chance.choice([9, 12])
    lines = ["a0: &a0 [x, x]"]
    kind = chance.choice(["list", "map", "merge", "text"])
    if kind == "list":
        lines += [
            f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels + 1)
        ]
        return "\n".join([*lines, f"hidden_sizes: *a{levels}"])
    if kind == "text":
        lines += [
            f"a{n}: &a{n} {{{', '.join(f'k{i}: *a{n - 1}' for i in range(width))}}}"
            for n in range(1, levels + 1)
        ]
        return "\n".join([*lines, f"env_kwargs: *a{levels}"])
    lines = ["b0: &b0 {x: 1}"]
    for n in range(1, levels + 1):
        of = ", ".join([f"*b{n - 1}"] * width)
        lines.append(f"b{n}: &b{n} {{<<: [{of}]}}" if kind == "merge" else f"b{n}: &b{n} [{of}]")
    return "\n".join([*lines, f"env_kwargs: {{<<: *b{levels}}}"])


def _cut(chance: random.Random) -> str:
    return GOOD[: chance.randrange(len(GOOD))]


def _document(chance: random.Random) -> str:
    return chance.choice(
        [
            *("", "\n", "---\n", "...\n", "# only words\n", "x\n", "- a\n- b\n", "1\n", "null\n"),
            f"---\n{GOOD}---\nseed: 9\n",
            f"%YAML 9.9\n---\n{GOOD}",
            f"%TAG ! tag:x,2026:\n---\n{GOOD}",
            f"%NOPE x\n---\n{GOOD}",
            GOOD.replace("\n", "\r"),
            GOOD.replace(": ", ":\t"),
            "\t" + GOOD,
            f"!!python/object:fastrl.config.ppo.PPOConfig\n{GOOD}",
            f"!!set {{seed, num_envs}}\n# {GOOD[:5]}",
            "{" * 100 + "}" * 100,
            "? " * 2000 + "x",
            "a: " + "&x " * 500 + "1\n",
            "seed: 1\n" * 3000,
            "".join(f"k{n}: 1\n" for n in range(20_000)),
        ]
    )


def _bytes(chance: random.Random) -> bytes:
    data = bytearray(GOOD.encode())
    for _ in range(chance.randint(1, 5)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    encodings = ["utf-16", "utf-32", "utf-8-sig", "utf-7"]
    return chance.choice([bytes(data), bytes(data), *(GOOD.encode(name) for name in encodings)])


KINDS: dict[str, Callable[[random.Random], str | bytes]] = {
    "another value": _other_value,
    "another name": _other_key,
    "a name twice": _twice,
    "a bomb": _bomb,
    "a cut": _cut,
    "another document": _document,
    "other bytes": _bytes,
}


def yaml_file(chance: random.Random) -> tuple[str, bytes]:
    """Returns the kind of a hostile file, and its bytes."""
    kind = chance.choice([*KINDS, "another value", "another value"])
    made = KINDS[kind](chance)
    return kind, made if isinstance(made, bytes) else made.encode()
