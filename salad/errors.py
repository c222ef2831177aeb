"""The one exception that users see: what is wrong, where, and what to do, on one line."""


class SaladError(Exception):
    """An error the user can act on. The CLI prints it as one line and exits with `exit_code`."""

    exit_code = 1

    def __init__(self, what: str, advice: str = "") -> None:
        what = " ".join(what.split())
        super().__init__(f"{what}: {advice}" if advice else what)


class ConfigError(SaladError):
    """The configuration is wrong; nothing was started."""

    exit_code = 2


class NetworkError(SaladError):
    """Something beyond this machine did not answer: the same may work in a moment, so the stage is tried again."""


class RunInUse(SaladError):
    """Another process works on the run: once that ends, the same works."""


def told(error: BaseException) -> str:
    """Another's error on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def nearest(name: str, known: list[str]) -> str:
    """`"; did you mean 'x'?"` for a misspelt name, or nothing when no known name is close."""
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""
