"""What came out: one sentence, and a table per metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import isfinite
from statistics import median

from callbacks.report.names import KINDS, METRICS, Metric, color_class, headline, label_of, split_name
from callbacks.report.plots import interval_bar
from components.contracts import MetricResult

Results = Mapping[str, MetricResult]


def sentence(model: str, step: int, given_sound: bool, results: Results) -> str:
    """What came out, for somebody who knows none of the metrics' names.

    Args:
        model: what was trained.
        step: optimizer steps behind its weights.
        given_sound: whether the sound was given and only the video is made.
        results: of the last evaluation.
    """
    made = "videos for the sounds of" if given_sound else "videos with sound for"
    first = headline(results) or next(iter(results), None)
    clips = f"{_num_clips(results[first])} held-out clips" if first else "held-out clips"
    trained = f"After {step:,} training steps " if step else ""
    begin = f"{trained}{model} made {made} {clips}"
    if first not in METRICS:
        return f"{begin}."
    metric, result = METRICS[first], results[first]
    low, high = result.ci95
    interval = f", 95 % interval {low:.1f} to {high:.1f}" if isfinite(low + high) else ""
    score = f"{result.value:.1f}{metric.unit} for {metric.judges} ({metric.label}{interval})"
    return f"{begin} and scored {score}{_beside(first, results)}."


def _beside(first: str, results: Results) -> str:
    """How the headline stands between floor and ceiling."""
    parts = []
    kind = next((kind for kind in ("chance", "off_sync") if f"{first}_{kind}" in results), None)
    if kind is not None:
        floor, result = results[f"{first}_{kind}"], results[first]
        # better than the floor is below it where lower is better
        side, low, high = ("above", floor, result) if METRICS[first].higher_is_better else ("below", result, floor)
        better = high.ci95[0] > low.ci95[1] if isfinite(high.ci95[0] + low.ci95[1]) else None
        sure = {True: f"clearly {side}", False: f"not clearly {side}", None: "beside"}[better]
        parts.append(f"{sure} {'chance' if kind == 'chance' else 'the same model without hearing'}, {floor.value:.1f}")
    if real := results.get(f"{first}_real"):
        parts.append(f"real videos get {real.value:.1f}")
    return "".join(f"; {part}" for part in parts)


def _num_clips(result: MetricResult) -> int:
    count = result.details.get("n_clips", result.n)
    return count if isinstance(count, int) else result.n


def tables(results: Results) -> str:
    """A card for every metric, the most telling first, with a row for every kind of video."""
    groups: dict[str, dict[str, MetricResult]] = {}
    for name, result in results.items():
        groups.setdefault(split_name(name)[0], {})[name] = result
    first = headline(groups)
    ranked = sorted(groups.items(), key=lambda group: group[0] != first)
    cards = "".join(_card(metric, group) for metric, group in ranked)
    return f'<p class="hint">{_kinds(results)}</p><div class="metrics">{cards}</div>{_judges(results)}'


def _kinds(results: Results) -> str:
    """The rows of the tables in words."""
    found = dict.fromkeys(split_name(name)[1] for name in results)
    return " ".join(
        f'<span class="kind"><span class="dot {color_class(kind)}"></span><b>{escape(label_of(kind))}</b>: '
        f"{escape(KINDS[kind][1])}.</span>"
        for kind in found
        if kind in KINDS
    )


def _card(metric: str, group: Results) -> str:
    known = METRICS.get(metric)
    others = _other_tolerances(group)
    tolerance = next((found for found in map(_tolerance, group.values()) if found), "")
    explained = f"{known.says} {known.direction}" if known else ""
    if tolerance:
        explained += f" Times count as equal up to {tolerance} apart"
        explained += "; the last columns show the score at other tolerances." if others else "."
    rows = "".join(_row(name, result, _scale(group), others) for name, result in group.items())
    heads = ["value", "95 % interval", "", *(f"at {other:.3g} s" for other in others.values()), "n"]
    head = "".join(f"<th>{text}</th>" for text in heads)
    return (
        f'<section class="card{" broad" if others else ""}"><h3>{_label(metric, known)}</h3>'
        f'<p class="hint">{escape(explained.strip())}</p><div class="scroll"><table class="values"><thead><tr><th></th>'
        f"{head}</tr></thead><tbody>{rows}</tbody></table></div></section>"
    )


def _label(metric: str, known: Metric | None) -> str:
    return f"{escape(known.label)} <code>{escape(metric)}</code>" if known else f"<code>{escape(metric)}</code>"


def _row(name: str, result: MetricResult, scale: tuple[float, float], others: Mapping[str, float]) -> str:
    metric, kind = split_name(name)
    label = escape(label_of(kind)) + (f" <code>{escape(name)}</code>" if name != metric else "")
    elsewhere = "".join(
        f'<td data-label="at {tolerance:.3g} s">{number(_at(result, key), 2)}</td>' for key, tolerance in others.items()
    )
    return (
        f'<tr><td><span class="dot {color_class(name)}"></span>{label}</td>'
        f'<td class="value">{number(result.value, 2)}</td><td data-label="95 %">{result.interval_text}</td>'
        f'<td class="bar">{interval_bar(result.value, *result.ci95, scale, name)}</td>{elsewhere}'
        f'<td data-label="n">{result.n}</td></tr>'
    )


def _scale(group: Results) -> tuple[float, float]:
    # 0 is always on the axis, which is never of length 0
    numbers = [0.0, 1e-9, *(n for result in group.values() for n in (result.value, *result.ci95) if isfinite(n))]
    return min(numbers), max(numbers)


def _other_tolerances(group: Results) -> dict[str, float]:
    """Key in an entry's ``tolerances`` -> seconds, in rising order, without the one that the value is at."""
    found: dict[str, float] = {}
    for result in group.values():
        tolerances, own = result.details.get("tolerances"), result.details.get("tolerance_s")
        if isinstance(tolerances, Mapping) and isinstance(own, float):
            found |= {key: float(key) for key in tolerances if key != f"{own:.4g}"}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _at(result: MetricResult, key: str) -> float | None:
    tolerances = result.details.get("tolerances")
    entry = tolerances.get(key) if isinstance(tolerances, Mapping) else None
    return entry.get("value") if isinstance(entry, Mapping) else None


def _tolerance(result: MetricResult) -> str:
    tolerance = result.details.get("tolerance_s")
    return f"{tolerance:.3g} s" if isinstance(tolerance, float) else ""


def _judges(results: Results) -> str:
    """Which judge stands behind which entries, so that two of a kind are told apart."""
    judged: dict[tuple[str, str], list[str]] = {}
    for name, result in results.items():
        for kind in ("v2a", "syncnet"):
            if kind in result.details:
                judge = str(result.details[kind]), str(result.details.get(f"{kind}_sha256", ""))[:12]
                judged.setdefault(judge, []).append(name)
    lines = "".join(
        f"<br>{escape(', '.join(names))}: {escape(name)} ({escape(sha256)})" for (name, sha256), names in judged.items()
    )
    return f'<p class="hint">Judges, and the SHA-256 that tells them apart:{lines}</p>' if lines else ""


def number(value: float | None, digits: int) -> str:
    """A number, or a dash where there is none."""
    return "–" if value is None or not isfinite(value) else f"{value:.{digits}f}"


def spread(scores: Sequence[float]) -> str:
    """Lowest, highest and median of the scores of all clips."""
    return f"{min(scores):.1f} to {max(scores):.1f}, with a median of {median(scores):.1f}"
