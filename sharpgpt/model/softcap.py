"""The soft cap of a model's logits: z becomes c tanh(z / c), with c from its HuggingFace config.

c is `final_logit_softcapping`, the field of Gemma 2 (Gemma Team 2024, section 2). Architectures
that have the field cap their logits themselves (Gemma 2 and 3, NanoChat). The others, such as GPT-2
and Llama, keep it in config.json and ignore it; here they get an output layer that caps its result,
so that generation, evaluation and their own loss see the capped logits. Weights and names of
tensors do not change.
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any, cast

from torch import Tensor, nn

from sharpgpt.sharpness.reference import soft_capped

FIELD = "final_logit_softcapping"


class CappedLinear(nn.Linear):
    """A linear output layer whose result is capped."""

    logit_softcap: float

    def forward(self, input: Tensor) -> Tensor:
        """c tanh(z / c) of the linear layer's result z."""
        return soft_capped(super().forward(input), self.logit_softcap)


def softcap_of(causal_lm: nn.Module) -> float | None:
    """c of the model's config; None for logits as they are. Raises ValueError for anything else."""
    cap = getattr(getattr(causal_lm, "config", None), FIELD, None)
    if cap is None:
        return None
    is_number = isinstance(cap, int | float) and not isinstance(cap, bool)
    if not is_number or not 0 < cap < math.inf:
        raise ValueError(
            f"{FIELD} of the model's config: given {cap!r}, allowed is null or above 0"
        )
    return float(cap)


def caps_itself(config_class: type) -> bool:
    """Whether transformers caps the logits of the architecture with this config class."""
    return hasattr(config_class, FIELD)


def transformers_caps(model_type: str) -> bool:
    """The same of an architecture by its `model_type`; imports transformers."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return model_type in CONFIG_MAPPING and caps_itself(CONFIG_MAPPING[model_type])


def apply_softcap(causal_lm: nn.Module) -> None:
    """Make the output layer cap its result if the config says so and the architecture does not."""
    model = cast(Any, causal_lm)
    cap, head = softcap_of(causal_lm), model.get_output_embeddings()
    if caps_itself(type(model.config)) or type(head) not in (nn.Linear, CappedLinear):
        return
    head.__class__ = nn.Linear if cap is None else CappedLinear
    head.logit_softcap = cap


def set_softcap(causal_lm: nn.Module, cap: float | None) -> None:
    """Give the model this cap, or none, in its config and in its logits."""
    config = cast(Any, causal_lm).config
    if cap is not None or caps_itself(type(config)):
        setattr(config, FIELD, cap)
    elif hasattr(config, FIELD):
        delattr(config, FIELD)
    apply_softcap(causal_lm)


@contextlib.contextmanager
def softcap_unless_refused(causal_lm: nn.Module, cap: float | None) -> Iterator[None]:
    """`set_softcap`, undone if the block raises."""
    before = softcap_state(causal_lm)
    try:
        set_softcap(causal_lm, cap)
        yield
    except BaseException:
        restore_softcap(causal_lm, before)
        raise


def softcap_state(causal_lm: nn.Module) -> dict[str, Any]:
    """What `restore_softcap` takes back."""
    model = cast(Any, causal_lm)
    config, head = model.config, model.get_output_embeddings()
    field = {"field": getattr(config, FIELD)} if hasattr(config, FIELD) else {}
    return field | ({"head": type(head)} if type(head) in (nn.Linear, CappedLinear) else {})


def restore_softcap(causal_lm: nn.Module, state: dict[str, Any]) -> None:
    """The cap of `softcap_state`, in the config and in the output layer."""
    model = cast(Any, causal_lm)
    if "field" in state:
        setattr(model.config, FIELD, state["field"])
    elif hasattr(model.config, FIELD):
        delattr(model.config, FIELD)
    if "head" in state:
        model.get_output_embeddings().__class__ = state["head"]


def capped(causal_lm: nn.Module, logits: Tensor) -> Tensor:
    """The model's logits from those of the linear map alone."""
    return soft_capped(logits, softcap_of(causal_lm))
