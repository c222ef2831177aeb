"""The one exception that users see: what is wrong, where, and what to do, on one line, and no secret in it."""

import re

# Credentials in a URL: before its host, or a parameter by a telling name. A user without a password is none but on the web:
# abfs://container@account and hf://datasets/user/name@main are addresses.
_BEFORE_HOST = re.compile(
    r"(?i)\b([a-z][a-z0-9+.-]*://)(?:[^\s/?#@:'\"]*:[^\s?#@'\"]*@|(?<=http://)[^\s/@]+@|(?<=https://)[^\s/@]+@)"
)
_TELLING = (
    r"[\w.-]*(?:token|secret|passw|pwd|signature|credential|auth(?!or)|access_?key)[\w.-]*|(?:[\w.-]*[_.-])?(?:api)?key|sig"
)
_PARAMETER = re.compile(rf"(?i)(?<=[?&#;])({_TELLING})=([^\s&#'\"]+)")


def redact(text: str) -> str:
    """The text without the credentials of the URLs in it."""
    return _PARAMETER.sub(r"\1=***", _BEFORE_HOST.sub(r"\1***@", text)) if "://" in text else text


def visible(text: str) -> str:
    """The text without anything that a terminal would obey: escapes, control characters, marks that turn the direction."""
    return "".join(c if c.isprintable() or c == "\n" else "�" for c in text)


class SaladError(Exception):
    """An error the user can act on. The CLI prints it as one line and exits with `exit_code`."""

    exit_code = 1

    def __init__(self, what: str, advice: str = "") -> None:
        what = " ".join(what.split())
        super().__init__(visible(redact(f"{what}: {advice}" if advice else what)))


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
