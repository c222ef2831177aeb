"""The compact set of digests knows exactly what Python's set knows."""

from __future__ import annotations

import sys

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from salad.pipeline.seen import Digests

# Few different halves: repeats, digests that want the same slot, the last slot, one half or both of zeros.
HALVES = st.sampled_from([0, 1, 2, 511, 512, 1023, 1024, 2**63, 2**64 - 1])
PAIRS = st.tuples(HALVES, HALVES).map(lambda pair: pair[0].to_bytes(8, "little") + pair[1].to_bytes(8, "little"))
DIGESTS = st.one_of(PAIRS, st.binary(min_size=16, max_size=16))


@settings(max_examples=300, deadline=None)
@given(st.lists(DIGESTS, max_size=200))
def test_what_is_new_is_what_is_new_to_a_set(digests: list[bytes]) -> None:
    ours, known = Digests(), set()
    for digest in digests:
        assert ours.add(digest) == (digest not in known)
        known.add(digest)
        assert len(ours) == len(known)


def test_it_grows_and_forgets_nothing() -> None:
    drawn = np.random.default_rng(0).bytes(16 * 30_000)
    digests = [drawn[i : i + 16] for i in range(0, len(drawn), 16)]
    digests += [(1023).to_bytes(8, "little") + i.to_bytes(8, "little") for i in range(1, 3_000)]  # all want the last slot but one
    ours = Digests()
    assert all(ours.add(d) for d in digests)
    assert not any(ours.add(d) for d in digests)
    assert len(ours) == len(digests)


def test_a_digest_takes_at_most_54_bytes() -> None:
    drawn = np.random.default_rng(1).bytes(16 * 80_000)
    ours = Digests()
    for n in range(1, 80_001):
        ours.add(drawn[16 * n - 16 : 16 * n])
        if n > 1_000 and n % 100 == 0:
            assert sys.getsizeof(ours._table) <= 54 * n + 200, n
