"""Makes `prefect deployment run salad-round` work as it is written: a bare `x` stands for `x/x`.

Prefect itself wants FLOW/DEPLOYMENT. It finds this module through the entry-point group `prefect.plugins` and calls
the hook when it is imported, before it reads its command line, wherever plugins are enabled: by `[tool.prefect.plugins]`
in the pyproject.toml of the current directory, or by PREFECT_PLUGINS_ENABLED=true in the environment or a profile.
"""

from __future__ import annotations

import sys
from pathlib import Path

from prefect.plugins import HookContext, register_hook

FLAGS = {"--watch", "--no-watch", "--help", "--prompt", "--no-prompt"}  # every other option takes a value


@register_hook
def setup_environment(*, ctx: HookContext) -> None:
    """Complete the deployment's name in this process's command line, if that is a `prefect` command."""
    as_module = sys.argv[0] == "-m" and "prefect" in sys.orig_argv
    if as_module or Path(sys.argv[0]).stem == "prefect":
        sys.argv[1:] = with_full_name(sys.argv[1:])


def with_full_name(args: list[str]) -> list[str]:
    """The arguments of `prefect`, with `x` as `x/x` where they are `deployment run x`; anything else unchanged."""
    words = _positions(args)
    if len(words) < 3 or args[words[0]] not in ("deployment", "deployments") or args[words[1]] != "run":
        return args
    at = words[2]
    name = args[at]
    return args if "/" in name or not name else [*args[:at], f"{name}/{name}", *args[at + 1 :]]


def _positions(args: list[str]) -> list[int]:
    """Where the arguments stand that are neither options nor values of options."""
    found = []
    is_value = False
    for i, arg in enumerate(args):
        if is_value:
            is_value = False
        elif arg.startswith("-"):
            is_value = "=" not in arg and arg not in FLAGS
        else:
            found.append(i)
    return found
