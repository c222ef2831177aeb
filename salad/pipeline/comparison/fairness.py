"""In what runs differ beside what they chose by: a comparison is only as fair as this list is short."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from salad.pipeline.comparison.facts import Side
from salad.pipeline.ledger import TOLERANCE

LONGEST = 80  # characters of a value
# Keys of the configuration that change no figure, and those that say how a run chooses, which is what is compared.
SILENT = (
    "name", "runs_dir", "storage", "compute", "control", "rounds", "evaluate", "train.save_steps", "train.launch",
    "speech.workers", "speech.shard_rows", "speech.time_limit",
)  # fmt: skip
STRATEGY = ("select.selector", "select.options", "select.gamma", "select.target_ess", "score")
OF_ROUNDS = {"seconds of speech spent", "rounds measured", "budget a round (s)"}
TITLES = {
    "models.lm": "teacher", "models.encoder": "speech encoder", "models.embedder": "sentence embeddings", "models.asr": "ASR",
    "speech.heldout_voice": "held-out voice", "speech.voices": "voices", "pool": "pool", "natural": "natural speech",
    "student": "student", "train": "training", "probe": "probes", "cluster": "clusters", "interleave": "interleaving",
    "select.budget": "budget a round (s)", "select": "selection", "speech": "speech", "seed": "seed",
    "round_seed": "seed of the rounds",
}  # fmt: skip
PLAIN = {"seed", "seed of the rounds", "budget a round (s)", "speech encoder", "ASR", "sentence embeddings"}  # one key each


@dataclass(frozen=True)
class Differs:
    """One thing in which runs differ. grave: D of such runs is not the same measure."""

    what: str
    values: list[str]  # one a run
    grave: bool = False


def unfair(sides: Sequence[Side]) -> list[Differs]:
    """What differs beside the strategy, the gravest first."""
    found = [
        _differs("teacher", [side.config.models.lm for side in sides], grave=True),
        _differs("held-out texts", [_heldout(side) for side in sides], grave=True),
        _spent(sides),
        _differs("rounds measured", [str(side.rounds) for side in sides]),
        _differs("version of the code", [side.students[-1].code if side.students else "–" for side in sides]),
    ]
    known = [one for one in (*found, *_configuration(sides)) if one]
    if {one.what for one in known} <= OF_ROUNDS:  # nothing else can have made Stage I another, save what it was made from
        stage_one = [side.students[0].key[:6] if side.students else "–" for side in sides]
        known += filter(None, [_differs("Stage I, though the configuration is the same", stage_one)])
    return known


def chosen_by(sides: Sequence[Side]) -> list[Differs]:
    """In what their strategies differ."""
    return _keys(sides, lambda key: key.startswith(STRATEGY))


def _configuration(sides: Sequence[Side]) -> list[Differs]:
    """Other keys of the configuration that differ, and how grave."""
    rest = _keys(sides, lambda key: not key.startswith((*STRATEGY, "models.lm")) and not _silent(key))
    found = []
    for one in rest:
        title = next((title for prefix, title in TITLES.items() if _below(one.what, prefix)), one.what)
        exact = "" if title in PLAIN else f" ({one.what})"
        found.append(Differs(title + exact, one.values, grave=_below(one.what, "speech.heldout_voice")))
    return sorted(found, key=lambda one: not one.grave)


def _keys(sides: Sequence[Side], wanted: Callable[[str], bool]) -> list[Differs]:
    flat = [dict(_flat(side.config.model_dump(mode="json"))) for side in sides]
    keys = [key for key in dict.fromkeys(key for one in flat for key in one) if wanted(key)]
    return [found for key in keys if (found := _differs(key, [_shown(one.get(key)) for one in flat]))]


def _flat(value: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted keys; what is no mapping, or an empty one, is a value."""
    found: list[tuple[str, Any]] = []
    for key, of in value.items():
        deeper = isinstance(of, dict) and of and prefix + key not in ("select.options", "storage", "speech.heldout_voice")
        found += _flat(of, f"{prefix}{key}.") if deeper else [(prefix + key, of)]
    return found


def _spent(sides: Sequence[Side]) -> Differs | None:
    """Seconds of synthetic speech, where they differ by more than a round's budget may be missed by."""
    seconds = [side.last.seconds if side.last else 0.0 for side in sides]
    if max(seconds) - min(seconds) <= 2 * TOLERANCE * max(seconds):
        return None
    return Differs("seconds of speech spent", [f"{s:,.0f}" for s in seconds])


def _heldout(side: Side) -> str:
    if side.last is None:
        return "not measured yet"
    digest = hashlib.blake2b("\n".join(sorted(side.last.ids)).encode(), digest_size=3).hexdigest()
    return f"{len(side.last.ids):,} texts ({digest})"


def _differs(what: str, values: list[str], grave: bool = False) -> Differs | None:
    known = [value for value in values if value not in ("–", "not measured yet")]
    return Differs(what, values, grave) if len(set(known)) > 1 else None


def _shown(value: Any) -> str:
    """A value on one line. Long ones are cut, and carry a digest: two that begin alike still differ."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]}… ({hashlib.blake2b(text.encode(), digest_size=3).hexdigest()})"


def _silent(key: str) -> bool:
    return any(_below(key, silent) for silent in SILENT)


def _below(key: str, prefix: str) -> bool:
    return key == prefix or key.startswith(prefix + ".")
