"""Models with different tokenizers, compared in bits a byte over the same bytes of a text.

The validation text is cut into spans of characters, before white space, the same for all models.
Each model encodes a span with its own tokenizer, reads it in windows (predictions.py), and its
cross-entropy is summed over the tokens that end after the lead, the first words of the span, which
only give context. No chat template is applied; a token for the beginning of a text stands before a
span where the tokenizer itself puts one before every text. Spans are in groups by their place in
the text, so the groups of two models pair.

There is no verdict: entropies of predictions of different tokens cannot be made equal.
"""

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from sharpgpt.core.errors import UserError
from sharpgpt.core.numbers import counted
from sharpgpt.data.huggingface_tokenizer import HuggingFaceTokenizer
from sharpgpt.evaluation.bits_per_byte import bits_per_byte
from sharpgpt.evaluation.differences import Difference, difference_of_means
from sharpgpt.evaluation.groups import Floats, Groups, make_groups
from sharpgpt.evaluation.predictions import predict_tokens
from sharpgpt.evaluation.saved_model import SavedModel

SPAN_CHARACTERS, LEAD_CHARACTERS = 8192, 64
MIN_SPANS = 20
MAX_WINDOW = 2048


@dataclass(frozen=True)
class ByteSpans:
    """Spans of a text, and where the lead of each ends, in characters."""

    name: str
    spans: Sequence[str]
    leads: Sequence[int]
    groups: Groups = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", make_groups(len(self.spans)))

    @property
    def num_bytes(self) -> Floats:
        """UTF-8 bytes after the leads, of each group [G]."""
        sizes = [
            len(span[lead:].encode()) for span, lead in zip(self.spans, self.leads, strict=True)
        ]
        return self.of_groups(sizes)

    def of_groups(self, values: Sequence[float]) -> Floats:
        """Sums over the spans of each group, [G]."""
        sums_G = np.zeros(self.groups.num_groups)
        np.add.at(sums_G, self.groups.of_blocks(np.arange(len(self.spans))), values)
        return sums_G


def byte_spans(name: str, text: str, max_spans: int | None = None) -> ByteSpans:
    """The spans of a text, evenly spread where there are more than `max_spans`.

    Raises UserError for a text that is too short.
    """
    size = max(4 * LEAD_CHARACTERS, min(SPAN_CHARACTERS, len(text) // MIN_SPANS))
    bounds = [0]
    while (cut := _before_space(text, bounds[-1] + size)) is not None:
        bounds.append(cut)
    found = [text[low:high] for low, high in itertools.pairwise(bounds)]
    leads = [_before_space(span, LEAD_CHARACTERS) for span in found]
    kept = [(span, lead) for span, lead in zip(found, leads, strict=True) if lead is not None]
    if len(kept) < 4:
        raise UserError(
            f"{name}: its validation text gives {counted(len(kept), 'span')} of {size:,} "
            "characters, allowed are at least 4; give more text"
        )
    if max_spans is not None and len(kept) > max_spans:
        kept = [kept[place * len(kept) // max_spans] for place in range(max_spans)]
    return ByteSpans(name, [span for span, _ in kept], [lead for _, lead in kept])


def _before_space(text: str, start: int) -> int | None:
    """The first place from `start` on between a word and white space."""
    found = re.compile(r"(?<=\S)(?=\s)").search(text, start)
    return None if found is None or found.start() == 0 else found.start()


def nats_of_groups(saved: SavedModel, spans: ByteSpans) -> Floats:
    """The cross-entropy of a model after the leads, summed over each group, in nats [G].

    Raises UserError for a text that its tokenizer cannot encode, or logits that are not finite.
    """
    tokenizer = HuggingFaceTokenizer(saved.tokenizer)
    before = _beginning(saved.tokenizer)
    device = next(saved.causal_lm.parameters()).device
    sums = []
    for span, lead in zip(spans.spans, spans.leads, strict=True):
        ids, ends = tokenizer.encode_with_ends(span)
        ids_n = torch.tensor([*before, *ids.tolist()], device=device)
        found = predict_tokens(
            saved.causal_lm,
            ids_n,
            window=min(saved.max_length, MAX_WINDOW),
            num_candidates=1,
        )
        if not found.all_finite:
            raise UserError(f"{saved.folder}: the model's logits are NaN or infinite")
        # Row i predicts token i + 1.
        ce_n = found.ce.double().numpy()[-(len(ids) - 1) :]
        sums.append(float(ce_n[ends[1:] > lead].sum()))
    return spans.of_groups(sums)


def _beginning(tokenizer: Any) -> list[int]:
    """The token that the tokenizer puts before every text, if it does."""
    id_ = tokenizer.bos_token_id
    return [id_] if id_ is not None and tokenizer("a")["input_ids"][:1] == [id_] else []


def difference_in_bits(penalised_G: Floats, baseline_G: Floats, spans: ByteSpans) -> Difference:
    """Bits a byte of one model minus those of another, from their nats by group."""
    return difference_of_means((penalised_G - baseline_G) / math.log(2), spans.num_bytes, "all")


def bits_of_model(nats_G: Floats, spans: ByteSpans) -> dict[str, float]:
    """Bits a byte with their interval."""
    return dict(bits_per_byte(nats_G, spans.num_bytes)._asdict())
