"""Hashed words: deterministic features, the null prompt, masks."""

import subprocess
import sys

import pytest
import torch

from components.encoders.text.hashed_words import HashedWords


def test_prompts_give_the_same_features_alone_in_a_batch_and_from_another_encoder():
    prompts = ["a bouncing ball", "a mallet striking a bar", ""]
    batch = HashedWords(dim=8)(prompts)
    assert batch.pooled is not None
    for i, prompt in enumerate(prompts):
        alone = HashedWords(dim=8)([prompt])
        length = alone.tokens.shape[1]
        assert torch.equal(batch.tokens[i, :length], alone.tokens[0])
        assert torch.equal(batch.mask[i, :length], alone.mask[0]) and not batch.mask[i, length:].any()
        assert alone.pooled is not None and torch.equal(batch.pooled[i], alone.pooled[0])


def test_another_process_gives_the_same_numbers():
    """Python's own hash differs from run to run; the features must not."""
    code = "from components.encoders.text.hashed_words import HashedWords as H; print(H(4)(['ball']).tokens.tolist())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(HashedWords(4)(["ball"]).tokens.tolist())


def test_the_empty_prompt_is_one_real_zero_token():
    null = HashedWords(dim=8)([""])
    assert null.tokens.shape == (1, 1, 8) and not null.tokens.any() and null.mask.all()
    assert null.pooled is not None and not null.pooled.any()
    assert torch.equal(HashedWords(dim=8)(["... !"]).tokens, null.tokens)


def test_case_and_punctuation_do_not_matter_but_words_and_their_order_do():
    encoder = HashedWords(dim=16)
    a, b, c, d = encoder(["A Ball, bouncing!", "a ball bouncing", "bouncing ball a", "a bell bouncing"]).tokens
    assert torch.equal(a, b) and not torch.equal(b, c) and not torch.equal(b, d)
    assert torch.equal(b.flip(0), c)


def test_masks_count_words_and_long_prompts_are_cut():
    features = HashedWords(dim=4, max_words=3)(["one", "one two", "one two three four five"])
    assert features.mask.tolist() == [[True, False, False], [True, True, False], [True, True, True]]
    assert not features.tokens[~features.mask].any()


def test_pooled_vectors_tell_prompts_apart_at_one_scale():
    encoder = HashedWords(dim=512)
    pooled = encoder(["ball", "a bouncing ball", "speaking face"]).pooled
    assert pooled is not None and pooled.shape == (3, encoder.pooled_dim)
    torch.testing.assert_close(pooled.std(dim=1), torch.ones(3), atol=0.15, rtol=0)
    assert float(torch.nn.functional.cosine_similarity(pooled[0], pooled[2], dim=0).abs()) < 0.2


def test_no_prompts_give_no_rows():
    features = HashedWords()([])
    assert features.tokens.shape == (0, 1, 64) and features.mask.shape == (0, 1)


def test_it_has_nothing_to_save_and_no_randomness_left():
    encoder = HashedWords()
    before = torch.random.get_rng_state()
    encoder(["a bouncing ball"])
    assert torch.equal(before, torch.random.get_rng_state())
    assert not encoder.state_dict() and not list(encoder.parameters())


@pytest.mark.parametrize("prompts", [["été"], ["鼓"], ["snake_case 12"]])
def test_words_of_any_language(prompts: list[str]):
    assert HashedWords(dim=4)(prompts).tokens.any()
