"""Prompts: what generated texts begin with, in training, evaluation and `sharpgpt sample`.

The rule, the same everywhere:

- "<|endoftext|>" is the special token (`Tokenizer.encode_prompt`); "\n" is a newline.
- The default is a newline. A character model that knows none starts with another character, and a
  note says which. Any other unknown character is an error that names it.
- A prompt that fills the model's window is cut from the left: the model reads the later half of the
  window, as it does where a text outgrows it (`generation.py`). A note says so. The text keeps the
  whole prompt.
- A limit that counts the prompt, and that the prompt reaches, counts new tokens instead. A note
  says so.
"""

from dataclasses import dataclass
from typing import Any, cast

from sharpgpt.core.errors import UserError
from sharpgpt.data.tokenizer import CharTokenizer, Tokenizer, named_characters
from sharpgpt.evaluation.saved_model import SavedModel
from sharpgpt.evaluation.validation_text import tokenizer_of

DEFAULT_PROMPT = "\n"


@dataclass(frozen=True)
class Prompt:
    """A prompt in one model's tokens, and what the user should know of it."""

    text: str
    ids: list[int]
    notes: tuple[str, ...] = ()

    def limit(self, max_length: int) -> int:
        """`max_length` tokens, prompt included; where that leaves none to generate, so many more
        than the prompt has."""
        return max_length if len(self.ids) < max_length else len(self.ids) + max_length


def make_prompt(
    tokenizer: Tokenizer, text: str | None, *, name: str, window: int, instead: str | None = None
) -> Prompt:
    """The prompt `text`, or for None or a newline the default.

    Args:
        tokenizer: of the model.
        text: as it was given.
        name: of the setting or flag, for messages.
        window: positions that the model reads.
        instead: takes the place of a newline that the vocabulary lacks; the first character of the
            vocabulary without it.

    Raises:
        UserError: the tokenizer cannot encode the text.
    """
    text, notes = DEFAULT_PROMPT if text is None else text, []
    known = tokenizer.characters if isinstance(tokenizer, CharTokenizer) else [DEFAULT_PROMPT]
    if text == DEFAULT_PROMPT and DEFAULT_PROMPT not in known:
        text = instead or known[0]
        notes.append(
            f"{name}: the characters of the training text have no newline, so texts begin with "
            f"{text!r} instead; {name} sets another prompt"
        )
    try:
        ids = tokenizer.encode_prompt(text)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    return Prompt(text, ids, (*notes, *_window_notes(ids, name, window)))


def saved_model_prompt(saved: SavedModel, text: str | None) -> Prompt:
    """A prompt for a saved model, which may have a tokenizer that is not one of ours.

    Raises:
        UserError: the tokenizer cannot encode the text, or gives no token for it.
    """
    name, window = "--prompt", saved.max_length
    try:
        tokenizer = tokenizer_of(saved)
    except UserError:  # not one that train.py can train with
        given = DEFAULT_PROMPT if text is None else text
        ids = huggingface_ids(saved, given, name)
        rows = len(cast(Any, saved.causal_lm).get_output_embeddings().weight)
        if not ids or max(ids) >= rows:
            what = "tokens that the model does not know" if ids else "no token"
            raise UserError(f"{name}: {given!r} gives {what}; give another text") from None
        return Prompt(given, ids, _window_notes(ids, name, window))
    return make_prompt(tokenizer, text, name=name, window=window)


def huggingface_ids(saved: SavedModel, text: str, name: str, **how: Any) -> list[int]:
    """The ids that the model's own tokenizer gives. Raises `UserError` for what it has no token
    for, naming the characters."""
    try:
        ids: list[int] = saved.tokenizer(text, add_special_tokens=False, verbose=False, **how)[
            "input_ids"
        ]
    except Exception as error:  # tokenizers raises a bare Exception
        known = set(saved.tokenizer.get_vocab())
        unknown = set(text) - known if all(len(token) == 1 for token in known) else set()
        if not unknown:
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"{name}: cannot be encoded by the tokenizer of {saved.folder} ({reason})"
            ) from None
        raise UserError(
            f"{name}: the tokenizer of {saved.folder} has no token for {named_characters(unknown)};"
            " a character model knows only the characters of its training text. Leave the others "
            "out"
        ) from None
    return ids


def _window_notes(ids: list[int], name: str, window: int) -> tuple[str, ...]:
    if len(ids) < window:
        return ()
    read = max(1, window // 2)
    return (
        f"{name}: it has {len(ids):,} tokens and the model reads at most {window:,}, so the first "
        f"new token is predicted from its last {read:,} only",
    )
