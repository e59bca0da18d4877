"""`python -m fastrl` lists the commands of fastrl."""

from fastrl.processes.signals import leaving_at_once

with leaving_at_once():
    import ast
    import sys
    from importlib import resources

    from fastrl.processes.errors import exit_status

COMMANDS = (
    "ppo", "a2c", "ppo_recurrent", "sac", "droq", "evaluate", "export", "collect", "presets",
    "sweep", "compare", "studio",
)  # fmt: skip


def main() -> int:
    """Prints each command with the first line of its docstring, without importing it."""
    return exit_status(_list)


def _list() -> int:
    if words := sys.argv[1:]:
        meant = f"; did you mean python -m fastrl.{words[0]}?" if words[0] in COMMANDS else ""
        raise ValueError(f"python -m fastrl takes no arguments, not {words[0]!r}{meant}")
    for name in COMMANDS:
        root = resources.files("fastrl")
        file = root / name / "__main__.py" if (root / name).is_dir() else root / f"{name}.py"
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        print(f"python -m fastrl.{name:<14} {text.splitlines()[0]}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
