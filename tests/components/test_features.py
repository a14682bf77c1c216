"""Text features: what the host knows of padding is what the mask says, and nothing real is cut."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.contracts import TextFeatures
from components.encoders.text.hashed_words import HashedWords
from components.encoders.text.rows import TextRow, emptied_rows, split_rows, stack_rows, stack_text

MASKS = st.integers(1, 5).flatmap(
    lambda length: st.lists(st.lists(st.booleans(), min_size=length, max_size=length), min_size=1, max_size=4)
)


def features(mask: list[list[bool]]) -> TextFeatures:
    mask_ = torch.tensor(mask)
    return TextFeatures(torch.arange(mask_.numel()).reshape(*mask_.shape, 1) + 1.0, mask_, torch.ones(len(mask), 2))


@given(MASKS)
@settings(max_examples=50, deadline=None)
def test_only_positions_that_are_padding_in_all_rows_are_cut(mask):
    text = features(mask)
    tokens, kept = text.trimmed()
    whole = torch.ones(tokens.shape[:2], dtype=torch.bool) if kept is None else kept
    real = text.mask[:, : tokens.shape[1]]
    assert torch.equal(whole, real) and text.mask.sum() == whole.sum()
    assert tokens.shape[1] == 1 or whole[:, -1].any()  # not longer than needed
    assert (kept is None) == bool(real.all())
    assert torch.equal(tokens, text.tokens[:, : tokens.shape[1]])


@given(MASKS)
@settings(max_examples=50, deadline=None)
def test_what_is_known_without_reading_is_what_the_mask_says(mask):
    text = features(mask)
    lengths = [sum(row) for row in mask]
    made = stack_rows([TextRow(torch.ones(length, 3)) for length in lengths], length=4)
    rows = split_rows(text)
    assert [len(row.tokens) for row in rows] == lengths
    for row, tokens, real in zip(rows, text.tokens, text.mask, strict=True):
        assert torch.equal(row.tokens, tokens[real])
    assert text.spans  # read, and from now on known
    for known in (made, made.rows(slice(0, None, 2)), stack_text(made, made), stack_text(text, text), made.to("cpu")):
        assert known.known_spans is not None
        assert known.known_spans == TextFeatures(known.tokens, known.mask).spans
    assert text.rows(torch.tensor([0])).spans == text.spans[:1]
    words = HashedWords(4)(["a ball", "", "one two three"])
    assert words.known_spans == TextFeatures(words.tokens, words.mask).spans == ((2, 2), (1, 1), (3, 3))


def test_emptied_rows_are_padded_as_if_encoded_together():
    text, empty = stack_rows([TextRow(torch.ones(n, 2)) for n in (3, 1)]), stack_rows([TextRow(torch.zeros(1, 2))], 2)
    emptied = emptied_rows(text, empty, torch.tensor([True, False]))
    assert emptied.spans == ((1, 1), (1, 1)) and emptied.tokens.shape == (2, 2, 2)
    assert emptied.mask.tolist() == [[True, False], [True, False]] and not emptied.tokens[0].any()


def test_no_text_at_all_is_one_position():
    none = features([[False, False], [False, False]])
    tokens, mask = none.trimmed()
    assert tokens.shape == (2, 1, 1) and mask is not None and not mask.any()
    assert none.longest == 1
    assert TextFeatures(torch.zeros(0, 2, 1), torch.zeros(0, 2, dtype=torch.bool)).longest == pytest.approx(1)
