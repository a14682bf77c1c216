import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from callbacks.report.plots import (
    Waveform,
    curve_plot,
    interval_bar,
    onset_plot,
)


def marks(plot, kind):
    return [node for node in ET.fromstring(plot).iter("i") if f"k-{kind}" in node.get("class").split()]


def style(node, name):
    return float(re.search(rf"{name}:([\d.]+)%", node.get("style"))[1])


def row_of(plot, label):
    return next(row for row in ET.fromstring(plot).iter("div") if row.findtext("span") == label)


def is_missed(nodes):
    return ["missed" in node.get("class").split() for node in nodes]


def test_onsets_stand_at_their_times_and_only_matches_are_full():
    onsets = {"driving": [0.5, 1.0], "generated": [0.52, 1.3], "real": [0.5, 1.04]}
    plot = onset_plot(onsets, duration_s=2.0, tolerance_s=0.05)
    assert [style(node, "left") for node in marks(plot, "generated")] == pytest.approx([26, 65], abs=0.01)
    assert is_missed(marks(plot, "generated")) == [False, True]
    assert is_missed(marks(plot, "real")) == [False, False]
    bands = [node for node in ET.fromstring(plot).iter("i") if node.get("class") == "band"]
    assert [style(band, "width") for band in bands] == pytest.approx([5] * 6, abs=0.01)
    assert [style(band, "left") for band in bands[:2]] == pytest.approx([22.5, 47.5], abs=0.01)


def test_every_row_is_compared_with_its_own_sound():
    onsets = {"true": [0.5], "generated": [0.5, 1.0], "real": [0.5, 1.0]}
    plot = onset_plot(onsets, 2.0, 0.05, sound_onsets={"generated": [1.0], "real": [0.5]})
    assert is_missed(marks(plot, "generated")) == [True, False]
    assert is_missed(marks(plot, "real")) == [False, True]
    assert is_missed(marks(plot, "true")) == [False]
    has_band = {label: row_of(plot, label).find(".//i[@class='band']") is not None for label in ("generated", "real")}
    assert all(has_band.values()) and row_of(plot, "true events").find(".//i[@class='band']") is None


def test_one_band_matches_one_onset():
    plot = onset_plot({"driving": [0.5], "generated": [0.49, 0.51]}, 1.0, 0.05)
    assert sorted(is_missed(marks(plot, "generated"))) == [False, True]


def test_names_are_escaped():
    plot = onset_plot({"driving": [], "<b>&": [0.1]}, 1.0, 0.05)
    assert "<b>&" not in plot and ET.fromstring(plot) is not None


def test_a_sound_is_drawn_in_its_row_as_loud_as_it_is():
    wave = Waveform([0.0, 0.8, 0.4, 0.0], duration_s=1.0)
    plot = onset_plot({"driving": [0.3], "generated": []}, 2.0, 0.05, waves={"driving": wave})
    assert row_of(plot, "generated").find(".//svg") is None
    drawn = row_of(plot, "driving sound").find(".//svg")
    assert style(drawn, "width") == 50, "it ends where the sound ends"
    points = [tuple(map(float, pair.split(","))) for pair in drawn.find("polygon").get("points").split()]
    heights = [-y for _, y in points[:4]]
    assert heights == [0.02, 1.0, 0.5, 0.02] and [y for _, y in points[:3:-1]] == heights


def test_silence_is_drawn_flat():
    for peaks in ([0.0, 0.001], []):
        plot = onset_plot({"driving": []}, 1.0, 0.05, waves={"driving": Waveform(peaks, 1.0)})
        heights = [
            abs(float(y))
            for y in re.findall(r",(-?[\d.]+)", row_of(plot, "driving sound").find(".//polygon").get("points"))
        ]
        assert max(heights, default=0) <= 0.02


finite = st.floats(-200, 200, allow_nan=False)
number = st.one_of(finite, st.just(math.nan))


@given(
    st.dictionaries(
        st.sampled_from(["cyclesync", "cyclesync_w0", "cyclesync_real"]),
        st.lists(st.tuples(st.integers(0, 10_000), number, number, number), max_size=6),
    )
)
@example({"cyclesync": [(0, 5e-324, math.nan, math.nan)]})  # a fifth of it is 0
def test_curves_stay_inside_the_drawing(curves):
    curves = {name: sorted(points) for name, points in curves.items()}
    svg = curve_plot(curves)
    known = [point for points in curves.values() for point in points if math.isfinite(point[1])]
    if not known:
        assert svg == ""
        return
    assert "nan" not in svg and "inf" not in svg
    root = ET.fromstring(svg)
    _, _, width, height = map(float, root.get("viewBox").split())
    circles = list(root.iter("circle"))
    assert len(circles) == len(known)
    for circle in circles:
        assert 0 <= float(circle.get("cx")) <= width and 0 <= float(circle.get("cy")) <= height


def test_higher_values_are_drawn_higher():
    svg = curve_plot({"a": [(0, 10.0, 5.0, 15.0), (5, 30.0, 20.0, 40.0), (10, 20.0, 10.0, 30.0)]})
    heights = [float(circle.get("cy")) for circle in ET.fromstring(svg).iter("circle")]
    assert heights[1] < heights[2] < heights[0]
    places = [float(circle.get("cx")) for circle in ET.fromstring(svg).iter("circle")]
    assert places[1] - places[0] == pytest.approx(places[2] - places[1], abs=0.2)


def test_interval_bars_share_a_scale():
    bars = [ET.fromstring(interval_bar(value, value - 10, value + 10, (0.0, 100.0), "cyclesync")) for value in (20, 60)]
    places = [float(bar.find("circle").get("cx")) for bar in bars]
    assert places[1] - places[0] == pytest.approx(0.4 * 212, abs=0.2)
    assert interval_bar(math.nan, 0, 0, (0.0, 1.0), "a") == ""
    assert "whisker" not in interval_bar(1.0, math.nan, math.nan, (0.0, 1.0), "a")
