"""What a run trained, in words: the model as it is, its loss, and on what it was validated."""

import re
from collections.abc import Mapping
from typing import Any

from sharpgpt.config.architectures import GPT2_SIZES
from sharpgpt.core.numbers import counted, typeset
from sharpgpt.data.shards import num_validation_blocks
from sharpgpt.report.arms import number_of, text_of

Settings = Mapping[str, Any]


def model_words(settings: Settings, environment: Mapping[str, Any]) -> str:
    """`GPT-2, 2 layers, 0.8 M parameters`: the setting model_name may name a far larger one."""
    name = text_of(environment, "model", "class")
    name = re.sub(r"(LMHeadModel|ForCausalLM)$", "", name) or text_of(settings, "model_name")
    size = GPT2_SIZES.get(text_of(settings, "model_name"))
    layers = (
        number_of(environment, "model", "num_layers")
        or number_of(settings, "n_layer")
        or (size.n_layer if size else None)
    )
    parameters = number_of(environment, "model", "num_parameters")
    words = [
        "GPT-2" if name == "GPT2" or name in GPT2_SIZES else name or "a model",
        counted(int(layers), "layer") if layers else "",
        size_words(int(parameters)) if parameters else "",
    ]
    return ", ".join(filter(None, words))


def size_words(num_parameters: int) -> str:
    """124.4 M parameters, 1.6 B parameters, 28,544 parameters."""
    if num_parameters >= 1e9:
        return f"{num_parameters / 1e9:.1f} B parameters"
    if num_parameters >= 1e5:
        return f"{num_parameters / 1e6:.1f} M parameters"
    return counted(num_parameters, "parameter")


def loss_words(settings: Settings) -> str:
    """`loss = cross-entropy + 0.1 × neg_entropy + 0.0001 × z-loss`."""
    words = "loss = cross-entropy"
    if smoothing := number_of(settings, "label_smoothing"):
        words += f" (labels smoothed by {smoothing:g})"
    if cap := number_of(settings, "logit_softcap"):
        words += f" of logits capped at {cap:g}"
    penalty, target = settings.get("penalty_type"), number_of(settings, "entropy_target")
    if target is not None:
        words += f" + w × {penalty}, with w so that the entropy is {target:g}"
    terms = (("penalty_weight", penalty), ("z_loss_weight", "z-loss"))
    for name, term in terms[target is not None :]:
        if weight := number_of(settings, name):
            words += f" {'+' if weight > 0 else '−'} {abs(weight):g} × {term}"
    return typeset(words)


def validated_on(settings: Settings, environment: Mapping[str, Any]) -> str:
    """On how much of the validation split the validations of a training were."""
    at_most, length = (number_of(settings, name) for name in ("eval_max_blocks", "max_seq_length"))
    num_tokens = number_of(environment, "data", "num_val_tokens")
    if at_most is None:
        return "the whole validation split" if settings else "validation"
    if num_tokens is None or not length or length < 2:
        return f"at most {counted(int(at_most), 'block')} of the validation split"
    in_split = num_validation_blocks(int(num_tokens), int(length))
    if in_split <= at_most:
        return "the whole validation split"
    return f"{at_most:,.0f} of the {counted(in_split, 'block')} of the validation split"
