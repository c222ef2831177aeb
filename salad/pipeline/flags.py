"""Clusters whose sound cannot be trusted: a high D may be the voice's fault, and the ASR tells.

A cluster's CER is held against a limit that follows the other clusters: median + outlier · spread, never
below `least` and never above `max_cer`. `bench/flags.py` tries the defaults on planted faults.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from salad.config import Flags

OUT = ("cer", "unspeakable")  # flags whose clusters leave P_target

LEFT_OUT = 8  # one probe in so many, the worst, is left out of its cluster's CER
MAD_TO_DEVIATION = 1.4826  # median absolute deviation to standard deviation, of a normal distribution


def flag_clusters(cer: np.ndarray, cluster: np.ndarray, k: int, rule: Flags, tried: Collection[int] = ()) -> np.ndarray:
    """(K,) of str objects: "cer" above the limit; without any probe "unspeakable" where some were `tried`, else "no probe".

    cer, cluster: (n,), cer NaN where the ASR did not listen. A cluster without a known CER is never flagged "cer".
    """
    found = cluster_cer(cer, cluster, k)
    flag = np.full(k, "", dtype=object)
    flag[found > cer_limit(found, rule)] = "cer"
    without = np.bincount(cluster, minlength=k) == 0
    flag[without] = "no probe"
    flag[without & np.isin(np.arange(k), list(tried))] = "unspeakable"
    return flag


def cluster_cer(cer: np.ndarray, cluster: np.ndarray, k: int) -> np.ndarray:
    """(K,) mean CER of each cluster's probes without the worst eighth (of two or more, at least one); NaN: none known.

    So one garbled probe flags nothing, nor does an ASR that repeats itself; four of eight still do. A probe
    counts as 1 at most.
    """
    found = np.full(k, np.nan)
    for c in range(k):
        known = np.sort(np.minimum(cer[(cluster == c) & np.isfinite(cer)], 1.0))
        n = len(known)
        if n:
            found[c] = known[: n - -(-n // LEFT_OUT)].mean() if n > 1 else known[0]
    return found


def cer_limit(of_clusters: np.ndarray, rule: Flags) -> float:
    """The CER above which a cluster is flagged, given those of all clusters: (K,), NaN where unknown."""
    known = of_clusters[np.isfinite(of_clusters)]
    if len(known) == 0:
        return rule.max_cer
    centre = np.median(known)
    spread = MAD_TO_DEVIATION * np.median(np.abs(known - centre))
    return float(min(rule.max_cer, max(rule.least, centre + rule.outlier * spread)))
