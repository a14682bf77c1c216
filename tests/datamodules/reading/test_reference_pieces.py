"""Which pieces of a sound can be drawn, and that every one of them is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.reading.reference_pieces import PieceDraw, parts_outside

seconds = st.floats(0.0, 20.0)


@given(st.tuples(seconds, seconds), st.tuples(seconds, seconds))
def test_what_is_left_does_not_meet_what_is_taken(span: tuple[float, float], taken: tuple[float, float]) -> None:
    span, taken = (min(span), max(span)), (min(taken), max(taken))
    parts = parts_outside(span, taken)
    held = sum(end - begin for begin, end in parts)
    shared = max(0.0, min(span[1], taken[1]) - max(span[0], taken[0]))
    assert held == pytest.approx(span[1] - span[0] - shared, abs=1e-9)
    assert all(span[0] <= begin <= end <= span[1] for begin, end in parts)
    assert all(end <= taken[0] or begin >= taken[1] for begin, end in parts) or shared == 0
    assert parts_outside(span, None) == [span]


@given(st.lists(st.tuples(seconds, seconds), min_size=1, max_size=3), st.floats(0.0, 1.0), st.floats(0.05, 1.0))
def test_a_piece_lies_in_one_part(parts: list[tuple[float, float]], place: float, share: float) -> None:
    parts = [(min(part), max(part)) for part in parts]
    length_s = share * max(end - begin for begin, end in parts)
    start_s = PieceDraw(place).start_s(parts, length_s)
    assert any(begin - 1e-9 <= start_s and start_s + length_s <= end + 1e-6 for begin, end in parts)


def test_every_place_of_all_parts_is_equally_likely() -> None:
    """Two rooms, of 1 and 3 s, beside a part that is too short."""
    starts = [
        PieceDraw(place).start_s([(0.0, 2.0), (3.0, 3.5), (5.0, 9.0)], 1.0) for place in np.linspace(0, 1, 4001)[:-1]
    ]
    first = [start for start in starts if start <= 1.0]
    assert len(first) / len(starts) == pytest.approx(1 / 4, abs=2e-3)
    assert all(5.0 <= start <= 8.0 for start in starts if start > 1.0)


def test_every_length_is_equally_likely() -> None:
    lengths = [PieceDraw(0.0, share).length(10, 14) for share in np.linspace(0, 1, 1001)]
    assert sorted(set(lengths)) == [10, 11, 12, 13, 14]
    assert max(map(lengths.count, lengths)) - min(map(lengths.count, lengths)) <= 2
    assert PieceDraw(0.0, 0.3).length(10, 7) == 7  # what is shorter is taken whole
    assert PieceDraw(0.0).length(10, 14) == PieceDraw(0.0, 0.3).length(None, 14) == 14


def test_what_is_drawn_depends_on_whether_there_are_lengths_alone() -> None:
    """A set without a shortest length draws what it always drew."""
    first = float(np.random.default_rng(3).uniform())
    assert PieceDraw.drawn(np.random.default_rng(3), None) == PieceDraw(first)
    assert PieceDraw.drawn(np.random.default_rng(3), 10).place == first
    assert PieceDraw.drawn(None, 10) == PieceDraw(0.0, None)
