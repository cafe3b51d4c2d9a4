"""Any HuggingFace tokenizer as a `Tokenizer`, for text: no template, no special tokens.

The text is encoded as it stands. Nothing is put before or after it, names of special tokens in it
are ordinary text, and a chat template is never applied.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from sharpgpt.core.errors import UserError
from sharpgpt.data.shards import TokenArray
from sharpgpt.data.tokenizer import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PIECE_CHARACTERS = 1 << 20
"""Encoded at a time: an encoding takes hundreds of bytes a token."""


class HuggingFaceTokenizer(Tokenizer):
    """A fast tokenizer of transformers.

    `fingerprint` is of what decides on the tokens of ordinary text: the model, the normalizer and
    the pre-tokenizer. A descendant that only has more special tokens, or a chat template, has
    that of its base. Raises `UserError` for a tokenizer that is not a fast one.
    """

    name = "huggingface"

    def __init__(self, tokenizer: Any) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise UserError(
                f"the tokenizer is a {type(tokenizer).__name__}, allowed is a fast one "
                "(tokenizer.json); save it with transformers' AutoTokenizer"
            )
        import tokenizers

        parts = json.loads(backend.to_str())
        kept = {name: parts.get(name) for name in ("model", "normalizer", "pre_tokenizer")}
        self.fingerprint = hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
        self._backend = tokenizers.Tokenizer.from_str(backend.to_str())
        self._backend.no_padding()
        self._backend.no_truncation()
        self._backend.encode_special_tokens = True
        self._tokenizer = tokenizer
        self.vocab_size = 1 + max(tokenizer.get_vocab().values())
        self.end_of_text_id: int | None = tokenizer.eos_token_id

    def encode(self, text: str, num_workers: int = 0) -> TokenArray:  # noqa: ARG002
        """See `Tokenizer.encode`; always on one thread. Raises `UserError` for a text that it
        cannot encode."""
        return np.concatenate(
            [np.empty(0, self.dtype), *(self._piece(piece)[0] for piece in _pieces(text))]
        )

    def encode_with_ends(self, text: str) -> tuple[TokenArray, np.ndarray]:
        """The ids, and how many characters of `text` end with each token, int64."""
        ids, ends, before = [np.empty(0, self.dtype)], [np.empty(0, np.int64)], 0
        for piece in _pieces(text):
            piece_ids, piece_ends = self._piece(piece)
            ids.append(piece_ids)
            ends.append(piece_ends + before)
            before += len(piece)
        return np.concatenate(ids), np.concatenate(ends)

    def _piece(self, text: str) -> tuple[TokenArray, np.ndarray]:
        try:
            found = self._backend.encode(text, add_special_tokens=False)
        except Exception as error:  # tokenizers raises a bare Exception
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"the tokenizer cannot encode the text ({reason})") from None
        ends = np.array([end for _, end in found.offsets], dtype=np.int64)
        return np.array(found.ids, dtype=self.dtype), ends

    def encode_prompt(self, text: str) -> list[int]:
        """The ids of a prompt, in which names of special tokens are those tokens."""
        found: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False)[
            "input_ids"
        ]
        if not found:
            raise UserError(f"{text!r} gives no token; give another text")
        return found

    def decode(self, ids: Iterable[int]) -> str:
        """See `Tokenizer.decode`."""
        return str(self._tokenizer.decode(self._checked(ids)))

    def to_huggingface(self, max_length: int) -> "PreTrainedTokenizerBase":  # noqa: ARG002
        """The tokenizer itself."""
        found: PreTrainedTokenizerBase = self._tokenizer
        return found


def _pieces(text: str) -> Iterator[str]:
    """The text in pieces that end with a line break before a line that is not empty."""
    start = 0
    while len(text) - start > PIECE_CHARACTERS:
        cut = re.compile(r"\n(?=\S)").search(text, start + PIECE_CHARACTERS)
        if cut is None:
            break
        yield text[start : cut.end()]
        start = cut.end()
    yield text[start:]
