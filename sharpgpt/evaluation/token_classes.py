"""Classes of the tokens of a text, by what they are and not by what a model predicts.

Three divisions, each of all rows by their target:

    frequency           how frequent the token is in the training text: five classes of equal mass
    place in the word   white space, and the end of a text; the start of a word: a token that begins
                        with white space (as byte pairs do) or comes after it (as characters do);
                        and everything else
    seen before         whether the token occurs earlier in its block

Shapes: B blocks of a batch, T tokens of a block, V vocabulary.
"""

import torch
from torch import Tensor

from sharpgpt.evaluation.token_bytes import BEGINS, BLANK, ENDS
from sharpgpt.evaluation.validation_text import FREQUENCY_BOUNDS, EvaluationText

FREQUENCY = "frequency in the training text"
PLACE = "place in the word"
SEEN = "earlier in the block"


class TokenClasses:
    """The classes of one text."""

    def __init__(self, text: EvaluationText) -> None:
        self._bounds = torch.tensor(FREQUENCY_BOUNDS, dtype=torch.float64)
        self._rank_V = torch.from_numpy(text.token_ranks)
        self._space_V = None if text.token_spaces is None else torch.from_numpy(text.token_spaces)

    def masks(self, input_ids_BT: Tensor) -> dict[tuple[str, str], Tensor]:
        """(division, class) -> the rows [B, T-1] whose target is in it."""
        target_BT = input_ids_BT[:, 1:]
        number_BT = torch.bucketize(self._rank_V[target_BT], self._bounds, right=True)
        shares = [0, *(round(100 * one) for one in FREQUENCY_BOUNDS), 100]
        found = {
            (FREQUENCY, f"{shares[k]} to {shares[k + 1]}%"): number_BT == k
            for k in range(len(shares) - 1)
        }
        if self._space_V is not None:
            space_BT, before_BT = self._space_V[target_BT], self._space_V[input_ids_BT[:, :-1]]
            is_blank_BT = (space_BT & BLANK) > 0
            starts_BT = ((space_BT & BEGINS) > 0) | ((before_BT & ENDS) > 0)
            found[PLACE, "start of a word"] = starts_BT & ~is_blank_BT
            found[PLACE, "inside a word"] = ~starts_BT & ~is_blank_BT
            found[PLACE, "white space"] = is_blank_BT
        is_seen_BT = seen_before(input_ids_BT)[:, 1:]
        return found | {(SEEN, "yes"): is_seen_BT, (SEEN, "no"): ~is_seen_BT}


def seen_before(input_ids_BT: Tensor) -> Tensor:
    """Whether each token occurs earlier in its block, [B, T]."""
    sorted_BT, place_BT = input_ids_BT.sort(dim=-1, stable=True)
    repeats_BT = torch.zeros_like(sorted_BT, dtype=torch.bool)
    repeats_BT[:, 1:] = sorted_BT[:, 1:] == sorted_BT[:, :-1]
    return torch.zeros_like(repeats_BT).scatter_(1, place_BT, repeats_BT)
