import math
import xml.etree.ElementTree as ET

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from callbacks.report.plots import (
    LABEL_WIDTH,
    PLOT_WIDTH,
    ROW,
    color_class,
    curve_plot,
    interval_bar,
    label_of,
    onset_plot,
)


def marks(svg, kind):
    root = ET.fromstring(svg)
    return [node for node in root.iter("rect") if f"k-{kind}" in node.get("class").split()]


def middle(node):
    return float(node.get("x")) + float(node.get("width")) / 2


def test_onsets_stand_at_their_times_and_only_matches_are_full():
    onsets = {"driving": [0.5, 1.0], "generated": [0.52, 1.3], "real": [0.5, 1.04]}
    svg = onset_plot(onsets, duration_s=2.0, tolerance_s=0.05)
    generated = marks(svg, "generated")
    assert [middle(node) for node in generated] == pytest.approx(
        [LABEL_WIDTH + time / 2 * PLOT_WIDTH for time in (0.52, 1.3)], abs=0.06
    )
    assert ["missed" in node.get("class") for node in generated] == [False, True]
    assert ["missed" in node.get("class") for node in marks(svg, "real")] == [False, False]
    bands = [node for node in ET.fromstring(svg).iter("rect") if node.get("class") == "band"]
    assert [float(band.get("width")) for band in bands] == pytest.approx([0.1 / 2 * PLOT_WIDTH] * 6, abs=0.1)


def test_every_row_is_compared_with_its_own_sound():
    onsets = {"true": [0.5], "generated": [0.5, 1.0], "real": [0.5, 1.0]}
    svg = onset_plot(onsets, 2.0, 0.05, sound_onsets={"generated": [1.0], "real": [0.5]})
    assert ["missed" in node.get("class") for node in marks(svg, "generated")] == [True, False]
    assert ["missed" in node.get("class") for node in marks(svg, "real")] == [False, True]
    assert ["missed" in node.get("class") for node in marks(svg, "true")] == [False]
    bands = [node for node in ET.fromstring(svg).iter("rect") if node.get("class") == "band"]
    assert [float(band.get("y")) for band in bands] == [ROW, 2 * ROW]


def test_one_band_matches_one_onset():
    svg = onset_plot({"driving": [0.5], "generated": [0.49, 0.51]}, 1.0, 0.05)
    assert sorted("missed" in node.get("class") for node in marks(svg, "generated")) == [False, True]


def test_names_are_escaped():
    svg = onset_plot({"driving": [], "<b>&": [0.1]}, 1.0, 0.05)
    assert "<b>&" not in svg and ET.fromstring(svg) is not None


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


def test_a_metric_has_the_colour_of_the_video_it_judges():
    assert color_class("cyclesync_off_sync") == color_class("off_sync") == "k-off_sync"
    for metric in ("cyclesync", "sync_c", "sync_d"):
        assert color_class(metric) == color_class("generated") == "k-generated"
        for kind in ("real", "chance", "off_sync", "no_synccfg"):
            assert color_class(f"{metric}_{kind}") == color_class(kind) == f"k-{kind}"
    assert color_class("sync_cfg") == "k-sync_cfg"
    assert color_class("mine_off_sync") == color_class("cyclesync_mine_off_sync") == "k-off_sync"
    assert label_of("off_sync") == "off-sync" and label_of("no_synccfg") == "no SyncCFG"
