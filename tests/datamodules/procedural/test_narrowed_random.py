import numpy as np

from datamodules.procedural.narrowed_random import NarrowedRandom


def test_full_variety_changes_nothing():
    narrowed = NarrowedRandom(np.random.PCG64(3), 1.0)
    plain = np.random.Generator(np.random.PCG64(3))
    assert [plain.uniform(2, 5) for _ in range(5)] == [narrowed.uniform(2, 5) for _ in range(5)]
    assert plain.integers(7) == narrowed.integers(7)
    assert plain.choice([-1.0, 1.0]) == narrowed.choice([-1.0, 1.0])


def test_less_variety_stays_near_the_middle():
    narrowed = NarrowedRandom(np.random.PCG64(0), 0.2)
    drawn = [narrowed.uniform(0, 10) for _ in range(200)]
    assert min(drawn) >= 4 and max(drawn) <= 6 and np.std(drawn) > 0.3
    assert {narrowed.integers(9) for _ in range(20)} == {0}
    assert {narrowed.choice([-1.0, 1.0]) for _ in range(20)} == {-1.0}
    assert np.ptp(narrowed.uniform(0, 10, size=100)) > 8  # arrays (when an eye blinks) are not traits


def test_no_variety_is_always_the_same():
    narrowed = NarrowedRandom(np.random.PCG64(1), 0.0)
    assert {narrowed.uniform(-1, 1) for _ in range(9)} == {0.0}
