"""Composes the page of ``avsync doctor``: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files

from datamodules.reading.overview import duration_in_words
from lightning_modules.command_line.doctor_diagnosis import Diagnosis, Finding

_MAX_CARDS = 300
"""Cards in each section; the table file has all recordings."""


def page(diagnosis: Diagnosis) -> str:
    """The whole page."""
    # the report's looks, and what this page has beside it
    report = files("callbacks.report").joinpath("page.css").read_text()
    own = files("lightning_modules.command_line").joinpath("doctor_page.css").read_text()
    dropped = [finding for finding in diagnosis.findings if not finding.is_used]
    remarked = [finding for finding in diagnosis.findings if finding.is_used and finding.remarks]
    others = [finding for finding in diagnosis.findings if finding.is_used and not finding.remarks]
    title = f"{escape(diagnosis.experiment)} · data"
    body = "".join(
        [
            _header(diagnosis),
            _counts(diagnosis),
            _cards("Dropped", "A training would not use these, and say so.", dropped),
            _cards("Worth a look", "A training uses these as they are.", remarked),
            _cards("Nothing to say of these", "", others),
        ]
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title} · avsync doctor</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>\n{report}\n{own}</style></head>\n<body><main>{body}</main></body></html>\n"
    )


def _header(diagnosis: Diagnosis) -> str:
    status, word = ("stopped", "would fail") if diagnosis.problems else ("finished", "can train")
    clip = diagnosis.clip
    shape = (
        f"{clip.num_frames} frames of {clip.width}x{clip.height} at {clip.fps:g} fps ({clip.duration_s:.2f} s), sound "
        f"at {clip.sample_rate} Hz"
    )
    lines = "".join(f"<p class=lead>{escape(counts.line(split))}</p>" for split, counts in diagnosis.counts.items())
    problems = "".join(f"<li>{escape(problem)}" for problem in diagnosis.problems)
    return (
        f'<header><h1>{escape(diagnosis.experiment)}</h1><span class="status {status}">{word}</span>{lines}'
        f'<p class="soft">Clips: {shape}. Data: {escape(diagnosis.data)}.</p></header>'
        + (f'<ul class="card problems">{problems}</ul>' if problems else "")
    )


def _counts(diagnosis: Diagnosis) -> str:
    names = ("recordings", "used", "length", "mute", "captions", "transcripts", "speakers", "worth a look")
    heads = "".join(f"<th>{name}</th>" for name in names)
    rows = ""
    for split, counts in diagnosis.counts.items():
        values = (
            *(counts.recordings, counts.used, duration_in_words(counts.usable_s), counts.mute),
            *(counts.captions, counts.transcripts, counts.speakers, counts.remarks),
        )
        cells = "".join(f'<td data-label="{name}">{value}</td>' for name, value in zip(names, values, strict=True))
        rows += f"<tr><td><b>{split}</b></td>{cells}</tr>"
        rows += "".join(
            f'<tr class=reason><td>dropped</td><td data-label="recordings">{count}</td>'
            f"<td colspan={len(names) - 1}>{escape(fault)}</td></tr>"
            for fault, count in counts.dropped.items()
        )
    return (
        f'<h2>Counts</h2><div class="card scroll"><table class=values><thead><tr><th></th>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _cards(heading: str, hint: str, findings: Sequence[Finding]) -> str:
    if not findings:
        return ""
    left = len(findings) - _MAX_CARDS
    if left > 0:
        hint += f" These are the first {_MAX_CARDS}; doctor.csv has {left} more."
    cards = "".join(map(_card, findings[:_MAX_CARDS]))
    hint = f'<p class="hint">{hint}</p>' if hint else ""
    return f"<h2>{heading} ({len(findings)})</h2>{hint}<div class=recordings>{cards}</div>"


def _card(finding: Finding) -> str:
    record, seen, verdict = finding.record, finding.seen, finding.verdict
    picture = "<div class=none>nothing to show</div>"
    if seen.thumbnails:
        data = base64.b64encode(seen.thumbnails).decode()
        picture = f'<img loading=lazy alt="start, middle and end" src="data:image/jpeg;base64,{data}">'
    said = [verdict.reason] if verdict.reason is not None else list(finding.remarks)
    # the card has the name
    said = [sentence.removeprefix(f"{record.path} ").replace(str(record.path), "it") for sentence in said]
    facts = "".join(f"<span>{escape(name)} <b>{escape(value)}</b></span>" for name, value in _facts(finding))
    words = "".join(
        f"<p class=said>{label}{escape(text)}</p>"
        for label, text in (("", record.caption), ("says: ", record.transcript or ""), ("by ", record.speaker or ""))
        if text
    )
    badge = f"<span class=badge>{escape(verdict.fault)}</span>" if verdict.fault is not None else ""
    return (
        f'<article class="card recording"><h3 title="{escape(str(record.path))}">{escape(record.id)} '
        f"<code>{finding.split}</code> {badge}</h3>{picture}"
        + "".join(f"<p class=remark>{escape(sentence)}</p>" for sentence in said)
        + f"<div class=under>{facts}</div>{words}</article>"
    )


def _facts(finding: Finding) -> Iterable[tuple[str, str]]:
    seen = finding.seen
    if seen.duration_s is not None:
        yield "length", f"{seen.duration_s:.2f} s"
    if seen.width is not None:
        yield "picture", f"{seen.width}x{seen.height}" + (f" at {seen.fps:.4g} fps" if seen.fps else "")
    if seen.sample_rate is not None:
        yield "sound", f"{seen.sample_rate} Hz"
    if finding.verdict.is_mute:
        yield "sound", "mute"
    if seen.loudness_lufs is not None:
        yield "loudness", f"{seen.loudness_lufs:.1f} LUFS"
    for name, share in (("silent", seen.silent_share), ("clipped", seen.clipped_share), ("still", seen.still_share)):
        if share is not None:
            yield name, f"{100 * share:.0f} %" if share >= 0.01 or not share else f"{100 * share:.2f} %"
    if seen.offset_s is not None:
        yield "sound later by", f"{seen.offset_s:+.2f} s (sure: {100 * (seen.offset_confidence or 0.0):.0f} %)"
    if seen.tracks:
        yield "tracks", ", ".join(seen.tracks)
