"""Columns in words: those of shards as the dataset card has them, those of the other tables beside."""

from __future__ import annotations

from salad.pipeline.card import COLUMNS

WORDS = {
    **COLUMNS,
    "rejected": "why it was turned down",
    "n_words": "its words",
    "n_heard": "words of the spans that would be spoken",
    "divergence": "D of the student before the round, nats a position; of a cluster the mean of its probes",
    "misalignment": "M: the student by ear against itself reading, nats",
    "forgetting": "F: the student reading against the teacher, nats",
    "n_positions": "text positions that these are means of",
    "teacher_entropy": "how open the text is as the teacher reads it, nats",
    "teacher_nll": "how hard it is for the teacher, nats",
    "quarantined": "why this probe counts nowhere; null: it counts",
    "n_pool": "texts of the cluster",
    "n_probe": "its probes that count",
    "divergence_se": "standard error of that",
    "divergence_low": "95 % interval, from",
    "divergence_high": "95 % interval, to",
    "signal": "what is estimated: divergence, misalignment or excess (D − F)",
    "divergence_shrunk": "the estimate that P_target follows from",
    "log_sd": "standard deviation of its logarithm",
    "text_log_sd": "what one probe more is uncertain by, as a logarithm",
    "p_web": "share of the pool",
    "p_target": "share of what is to be spoken",
    "flag": "why the cluster leaves P_target; empty: it stays",
}

# A kind of table by columns that it alone has, in words, and what its rows are; the first that fits.
_KINDS = (
    ({"audio", "rejected"}, "texts that were turned down", "texts"),
    ({"audio", "spans"}, "speech", "texts"),
    ({"probability", "rank"}, "a selection", "texts"),
    ({"p_target"}, "scores of clusters", "clusters"),
    ({"divergence", "n_positions"}, "scores of texts", "texts"),
    ({"text", "n_heard"}, "a pool", "texts"),
    ({"benchmark", "condition"}, "answers", "answers"),
    ({"audio"}, "sounds", "rows"),
)


def kind_of(columns: set[str]) -> tuple[str, str]:
    """What a table is, and what its rows are."""
    return next(((kind, rows) for names, kind, rows in _KINDS if names <= columns), ("Parquet", "rows"))
