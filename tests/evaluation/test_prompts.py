import pytest

from sharpgpt.core.errors import UserError
from sharpgpt.data.tokenizer import CharTokenizer, Gpt2Tokenizer, Tokenizer
from sharpgpt.evaluation.prompts import Prompt, make_prompt

CHAR = CharTokenizer(list("abc "))


def made(tokenizer: Tokenizer, text: str | None, window: int = 8) -> Prompt:
    return make_prompt(tokenizer, text, name="prompt", window=window, instead="b")


def test_special_tokens_by_tokenizer() -> None:
    assert made(Gpt2Tokenizer(), "<|endoftext|>").ids == [50256]
    assert made(CharTokenizer(sorted(set("<|endoftext|>"))), "<|>").ids == [0, 9, 1]


@pytest.mark.parametrize("text", [None, "\n"])
def test_the_default_where_there_is_no_newline(text: str | None) -> None:
    """A training on characters without a newline was refused for its default prompt."""
    prompt = made(CHAR, text)
    assert (prompt.text, prompt.ids) == ("b", [1])
    assert "no newline, so texts begin with 'b'" in prompt.notes[0]
    assert make_prompt(CHAR, text, name="prompt", window=8).text == "a"
    assert made(CharTokenizer(["\n", "a"]), text) == Prompt("\n", [0])
    assert made(Gpt2Tokenizer(), text) == Prompt("\n", [198])


def test_every_unknown_character_is_named_once() -> None:
    with pytest.raises(UserError) as error:
        made(CHAR, "xay\nx")
    assert r"prompt: the char tokenizer has no token for '\n' (U+000A), 'x' (U+0078), 'y'" in str(
        error.value
    )


def test_a_prompt_that_fills_the_window_has_a_note() -> None:
    assert made(CHAR, "abcabca").notes == ()
    [note] = made(CHAR, "abcabcab").notes
    assert "it has 8 tokens and the model reads at most 8" in note
    assert "its last 4 only" in note


def test_a_limit_that_the_prompt_reaches_counts_new_tokens() -> None:
    """Samples were the prompt alone, without a word."""
    prompt = made(CHAR, "abcabc")
    assert [prompt.limit(length) for length in (5, 6, 7, 100)] == [11, 12, 7, 100]
