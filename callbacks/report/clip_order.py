"""What orders and picks the clips on the page: by any score, by the groups they belong to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape

from callbacks.report.clip_cards import ClipEntry, higher_is_better

FEWEST = 2
"""Clips, or scores of them, that can be put in an order."""


def clip_data(clip: ClipEntry) -> str:
    """A card's attributes that the page's script reads."""
    scores = {name: score for name, score in clip.scores.items() if score is not None}
    said = {"scores": scores, "groups": dict(clip.groups)}
    return "".join(f' data-{name}="{escape(json.dumps(value, ensure_ascii=False))}"' for name, value in said.items())


def order_bar(clips: Sequence[ClipEntry], picked: bool) -> str:
    """Controls above the clips; nothing where there is nothing to choose.

    Args:
        clips: all on the page.
        picked: whether the best, the median and the worst come first.
    """
    if len(clips) < FEWEST:
        return ""
    names = dict.fromkeys(name for clip in clips for name, score in clip.scores.items() if score is not None)
    sortable = [name for name in names if len({clip.scores.get(name) for clip in clips} - {None}) >= FEWEST]
    chosen = [_filter(name, clips) for name in dict.fromkeys(name for clip in clips for name in clip.groups)]
    if not (sortable or any(chosen)):
        return ""
    first = "best, median and worst first" if picked else "as evaluated"
    options = "".join(
        f'<option value="{escape(name)}" data-higher="{int(higher_is_better(name, clips))}">{escape(name)}</option>'
        for name in sortable
    )
    order = (
        f'<label>order <select class="by"><option value="">{first}</option>{options}</select></label>'
        '<button class="turn" type="button" aria-pressed="false" disabled>worst first</button>'
    )
    return (
        f'<div class="order" role="group" aria-label="order of the clips">{order if sortable else ""}'
        f'{"".join(chosen)}<span class="count soft" aria-live="polite"></span></div>'
    )


def _filter(group: str, clips: Sequence[ClipEntry]) -> str:
    parts = sorted({clip.groups[group] for clip in clips if group in clip.groups})
    # one that all belong to picks nothing
    if not parts or (len(parts) == 1 and all(group in clip.groups for clip in clips)):
        return ""
    options = "".join(f'<option value="{escape(part)}">{escape(part.replace("_", " "))}</option>' for part in parts)
    return (
        f'<label>{escape(group)} <select class="part" data-group="{escape(group)}"><option value="">all</option>'
        f"{options}</select></label>"
    )
