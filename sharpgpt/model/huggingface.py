"""The sharpness loss inside any HuggingFace causal LM, for any training loop around it.

`use_sharpness_loss(model)` gives one model another forward. Called with `labels`, it computes the
loss from the hidden states and the weight of the output layer, in chunks, and returns
`logits=None`; called without, it is the architecture's own, so generation does not change. The loss
takes the arguments of HuggingFace's own (`num_items_in_batch`, `shift_labels`), and at penalty
weight 0 it equals that loss, so a trainer or a loop around such a model needs no other change.
`SharpnessTrainer` (trainer.py) is HuggingFace's Trainer with the call made and statistics logged.

The new forward is a method of a subclass, made on the fly, to which the instance is moved: unlike a
function set on the instance it survives `copy.deepcopy` and the replicas of data parallelism. The
subclass has the name of the original, so checkpoints do not show it.

Not supported: output layers that are not one `nn.Linear` or whose result is scaled or capped, and
losses that a model adds itself (mixtures of experts with `output_router_logits`), both refused;
weights that are gathered only in the forward of their own layer (DeepSpeed ZeRO-3); pickling of a
whole patched model (save it with `save_pretrained`, or `restore` it first).

Shapes: B batch, T positions, D width, V vocabulary, S predicted positions, N = B * S rows.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharpgpt.model.head import evaluating, has_linear_head
from sharpgpt.model.lm import EVERY_POSITION, penalty_mask
from sharpgpt.sharpness.fused import linear_sharpness_loss
from sharpgpt.sharpness.reference import IGNORE_INDEX, check_arguments

Model = TypeVar("Model", bound=nn.Module)


@dataclass
class SharpnessSettings:
    """Settings of the loss of a patched model; may be changed between two forwards."""

    penalty: str = "non_max_sum"
    """A name in `sharpgpt.sharpness.PENALTIES`."""

    penalty_weight: float | Tensor = 0.01
    """The penalty's factor in the loss. A 0-d tensor changes without a new compilation."""

    top_k: int = 5
    """k of the top-k mass, penalty and statistic, in 1..V."""

    penalty_positions: str = EVERY_POSITION
    """Penalised positions of a sequence of N tokens (padding included), first:last, inclusive, each
    a number, N, N-2 or N/2. Labels of -100 take rows out of the whole loss, wherever they are."""

    chunk_size: int | None = None
    """Rows whose logits are held at a time; None lets the fused loss choose."""

    eval_logits: bool = False
    """Whether a forward with labels in evaluation mode also returns logits. Trainer's evaluation
    needs them for `compute_metrics` and drops them otherwise."""


def use_sharpness_loss(
    model: Model,
    *,
    penalty: str = "non_max_sum",
    penalty_weight: float | Tensor = 0.01,
    top_k: int = 5,
    penalty_positions: str = EVERY_POSITION,
    chunk_size: int | None = None,
    eval_logits: bool = False,
) -> Model:
    """Make the model's forward return the sharpness loss when it is given labels.

    From then on, in plain torch and with HuggingFace's shift of the labels,

        model(input_ids=ids, labels=labels).loss == sharpness_loss(
            model(input_ids=ids).logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ...).loss

    or, given `num_items_in_batch`, the sum over the rows divided by it. A batch without any valid
    label has loss 0, where HuggingFace's own is NaN. `model.sharpness_output` holds the result of
    the last forward with labels, detached, and `model.sharpness_settings` the settings.

    Args:
        model: a causal LM of transformers, or a PEFT model of one; changed in place. Call again
            to change the settings.
        penalty, penalty_weight, top_k, penalty_positions, chunk_size, eval_logits: see
            `SharpnessSettings`.

    Returns:
        The model itself. `restore(model)` undoes the change.

    Raises:
        ValueError: a setting out of range; a model whose logits are not one linear map of its last
            hidden state, or whose loss is not the plain cross-entropy of them.
    """
    causal_lm = _causal_lm(model)
    head = _linear_head(causal_lm)
    vocab_size = head.weight.shape[0]
    no_targets = torch.empty(0, dtype=torch.int64)
    check_arguments(
        (0, vocab_size),
        no_targets,
        penalty=penalty,
        penalty_mask=None,
        reduction="mean",
        top_k=top_k,
    )
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size: given {chunk_size}, allowed is None or at least 1")
    if not _is_patched(causal_lm):
        _check_model(causal_lm)
        original: Any = type(causal_lm)
        causal_lm.__class__ = _patched_class(original)
    causal_lm.sharpness_settings = SharpnessSettings(
        penalty, penalty_weight, top_k, penalty_positions, chunk_size, eval_logits
    )
    causal_lm.sharpness_output = None
    return model


def restore(model: Model) -> Model:
    """Undo `use_sharpness_loss`: the model has its own forward again. Returns the model.

    Wrappers that were put around the forward of the instance since are removed too.

    Raises:
        ValueError: the model does not have the sharpness loss.
    """
    causal_lm = _causal_lm(model)
    if not _is_patched(causal_lm):
        raise ValueError(
            f"model: given a {type(causal_lm).__name__} without the sharpness loss, "
            "allowed is a model that use_sharpness_loss has changed"
        )
    # Set only by what has wrapped the forward since, such as accelerate's autocast.
    vars(causal_lm).pop("forward", None)
    causal_lm.__class__ = type(causal_lm).__bases__[0]
    del causal_lm.sharpness_settings, causal_lm.sharpness_output
    return model


def _causal_lm(model: Any) -> Any:
    """The transformers model itself, without its PEFT wrapper."""
    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    if not (hasattr(model, "base_model") and hasattr(model, "get_output_embeddings")):
        raise ValueError(
            f"model: given a {type(model).__name__}, allowed are causal LMs of transformers "
            "(change the model before it is compiled or wrapped for parallel training)"
        )
    return model


def _is_patched(causal_lm: Any) -> bool:
    return hasattr(type(causal_lm), "_is_sharpness_class")


def _linear_head(causal_lm: Any) -> nn.Linear:
    """The output layer; anything else in its place, such as an adapter, is refused."""
    head = causal_lm.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        given = f"{type(head).__module__}.{type(head).__qualname__}"
        raise ValueError(
            f"model: the output layer of {type(causal_lm).__name__} is a {given}, "
            "allowed is torch.nn.Linear"
        )
    return head


def _check_model(causal_lm: Any) -> None:
    """Raise ValueError unless the model's own loss is the cross-entropy of a linear map."""
    name = type(causal_lm).__name__
    if "forward" in vars(causal_lm):
        raise ValueError(
            f"model: the forward of this {name} has been replaced already; "
            "call use_sharpness_loss before whatever replaces it"
        )
    head = _linear_head(causal_lm)
    if head.weight.is_meta:
        return
    try:
        with evaluating(causal_lm), torch.no_grad(), head.weight.device:
            linear = has_linear_head(causal_lm)
            probe_BT = torch.arange(4)[None] % head.weight.shape[0]
            own = causal_lm(input_ids=probe_BT, labels=probe_BT, use_cache=False)
            ce = F.cross_entropy(own.logits[0, :-1].float(), probe_BT[0, 1:])
    except Exception as error:  # whatever the code of an architecture raises
        raise ValueError(f"model: {name} cannot be run as a causal LM: {error}") from error
    if not linear:
        raise ValueError(
            f"model: the logits of {name} are not a plain linear map of its last hidden state "
            "(they are scaled or capped); allowed are causal LMs whose output layer is one "
            "nn.Linear, such as GPT-2, Llama or Qwen"
        )
    if not torch.allclose(own.loss.float(), ce, rtol=1e-5):
        raise ValueError(
            f"model: the loss of {name} is not the cross-entropy of its logits (given "
            f"{own.loss.item():.6g}, the cross-entropy is {ce.item():.6g}); turn off what is added "
            "to it, such as output_router_logits of a mixture of experts"
        )


@functools.cache
def _patched_class(original: type) -> type:
    """A subclass of a causal LM of the same name, whose forward has the sharpness loss."""
    from transformers.modeling_outputs import CausalLMOutputWithPast

    own_forward = cast(Any, original).forward
    signature = inspect.signature(own_forward)
    names = list(signature.parameters)[1:]

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs |= zip(names, args, strict=False)
        if kwargs.get("labels") is None:
            return own_forward(self, **kwargs)
        return _forward_with_labels(self, CausalLMOutputWithPast, **kwargs)

    # Trainer and generate() read the signature. No functools.wraps: accelerate removes its wrappers
    # by following __wrapped__ to the end, which would remove this function too.
    cast(Any, forward).__signature__ = signature
    forward.__doc__ = own_forward.__doc__
    names_of_original = {name: getattr(original, name) for name in ("__module__", "__qualname__")}
    return type(
        original.__name__,
        (original,),
        {"forward": forward, "_is_sharpness_class": True, **names_of_original},
    )


def _forward_with_labels(
    causal_lm: Any,
    output_class: Callable[..., Any],
    *,
    labels: Tensor,
    shift_labels: Tensor | None = None,
    num_items_in_batch: Tensor | float | None = None,
    ignore_index: int = IGNORE_INDEX,
    logits_to_keep: int | Tensor = 0,
    return_dict: bool | None = None,
    use_cache: bool | None = None,
    **kwargs: Any,
) -> Any:
    """The forward of a causal LM, with the loss computed from its hidden states."""
    if isinstance(logits_to_keep, Tensor) or logits_to_keep != 0:
        raise ValueError("logits_to_keep: given together with labels, allowed is one of them")
    settings: SharpnessSettings = causal_lm.sharpness_settings
    head = _linear_head(causal_lm)
    base = causal_lm.base_model(**kwargs, use_cache=bool(use_cache), return_dict=True)
    if getattr(base, "router_logits", None) is not None:
        raise ValueError(
            "output_router_logits: given true, allowed with the sharpness loss is false: the "
            "auxiliary loss of a mixture of experts is not part of it"
        )
    hidden_BTD = base[0]
    length = hidden_BTD.shape[1]
    if shift_labels is None:
        # The last position has no next token: one row less in each sequence.
        hidden_BSD, target_BS = hidden_BTD[:, :-1], labels[..., 1:]
    else:
        hidden_BSD, target_BS = hidden_BTD, shift_labels.view(hidden_BTD.shape[:2])
    target_BS = target_BS.to(hidden_BTD.device)
    output = linear_sharpness_loss(
        hidden_BSD.flatten(0, 1),
        head.weight,
        target_BS.flatten(),
        bias=head.bias,
        penalty=settings.penalty,
        penalty_weight=settings.penalty_weight,
        top_k=settings.top_k,
        penalty_mask=penalty_mask(settings.penalty_positions, target_BS, length),
        ignore_index=ignore_index,
        reduction="mean" if num_items_in_batch is None else "sum",
        chunk_size=settings.chunk_size,
    )
    loss = output.loss
    if num_items_in_batch is not None:
        if isinstance(num_items_in_batch, Tensor):
            num_items_in_batch = num_items_in_batch.to(loss.device)
        loss = loss / num_items_in_batch
    causal_lm.sharpness_output = output._replace(loss=loss.detach())
    result = output_class(
        loss=loss,
        logits=head(hidden_BTD) if settings.eval_logits and not causal_lm.training else None,
        past_key_values=getattr(base, "past_key_values", None),
        hidden_states=getattr(base, "hidden_states", None),
        attentions=getattr(base, "attentions", None),
    )
    if return_dict is None:
        return_dict = causal_lm.config.return_dict
    return result if return_dict else result.to_tuple()
