"""A run in words: what was trained, and on how much it was validated."""

import pytest

from sharpgpt.report.model_words import loss_words, model_words, validated_on


@pytest.mark.parametrize(
    ("settings", "model", "words"),
    [
        (
            {"model_name": "gpt2", "n_layer": 2},
            {"class": "GPT2LMHeadModel", "num_parameters": 812_345},
            "GPT-2, 2 layers, 0.8 M parameters",
        ),
        (
            {"model_name": "gpt2"},
            {"num_parameters": 124_439_808},
            "GPT-2, 12 layers, 124.4 M parameters",
        ),
        (
            {"model_name": "EleutherAI/pythia-70m", "n_layer": None},
            {"class": "GPTNeoXForCausalLM", "num_layers": 1, "num_parameters": 28_544},
            "GPTNeoX, 1 layer, 28,544 parameters",
        ),
        ({}, {"num_parameters": 1_557_611_200}, "a model, 1.6 B parameters"),
    ],
)  # fmt: skip
def test_the_model_as_it_is_and_not_as_its_setting_is_called(settings, model, words) -> None:
    """A model of 0.8 M parameters was called gpt2, which has 124 M."""
    assert model_words(settings, {"model": model}) == words


def test_the_loss() -> None:
    assert loss_words({"penalty_weight": 0.1, "penalty_type": "a"}) == (
        "loss = cross-entropy + 0.1 × a"
    )
    assert loss_words({"penalty_weight": -0.1, "penalty_type": "a"}) == (
        "loss = cross-entropy − 0.1 × a"
    )
    assert loss_words({"penalty_weight": 0.0, "penalty_type": "a"}) == "loss = cross-entropy"
    assert loss_words({"penalty_weight": 0.1, "penalty_type": "a", "z_loss_weight": 1e-4}) == (
        "loss = cross-entropy + 0.1 × a + 0.0001 × z-loss"
    )
    assert loss_words({"penalty_weight": 0.0, "z_loss_weight": 1e-4}) == (
        "loss = cross-entropy + 0.0001 × z-loss"
    )
    assert loss_words({"penalty_weight": 0.1, "penalty_type": "a", "label_smoothing": 0.05}) == (
        "loss = cross-entropy (labels smoothed by 0.05) + 0.1 × a"
    )
    followed = {"penalty_weight": 0.1, "penalty_type": "a", "entropy_target": 1.5}
    assert loss_words(followed | {"z_loss_weight": 1e-4}) == (
        "loss = cross-entropy + w × a, with w so that the entropy is 1.5 + 0.0001 × z-loss"
    )


@pytest.mark.parametrize(
    ("max_blocks", "num_tokens", "words"),
    [
        (None, 1000, "the whole validation split"),
        (64, 64 * 63 + 1, "the whole validation split"),
        (64, 111_540, "64 of the 1,770 blocks of the validation split"),
        (1, None, "at most 1 block of the validation split"),
    ],
)
def test_only_what_was_read_is_called_the_whole_split(max_blocks, num_tokens, words) -> None:
    settings = {"eval_max_blocks": max_blocks, "max_seq_length": 64}
    assert validated_on(settings, {"data": {"num_val_tokens": num_tokens}}) == words
