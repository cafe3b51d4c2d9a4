"""The sharpness loss inside any HuggingFace causal LM, for any training loop around it.

`use_sharpness_loss(model)` gives one model another forward. Called with `labels`, it computes the
loss from the hidden states and the weight of the output layer, in chunks, and returns
`logits=None`; called without, it is the architecture's own, so generation does not change (but for
`logit_softcap`, where it is given). The loss
takes the arguments of HuggingFace's own (`num_items_in_batch`, `shift_labels`), and with both
weights 0 it equals that loss, so a trainer or a loop around such a model needs no other change.
`SharpnessTrainer` (trainer.py) is HuggingFace's Trainer with the call made and statistics logged.

The new forward is a method of a subclass, made on the fly, to which the instance is moved: unlike a
function set on the instance it survives `copy.deepcopy` and the replicas of data parallelism. The
subclass has the name of the original, so checkpoints do not show it.

Not supported: output layers whose result is not the linear map of their weight and bias
(`head_problem`, checked here and again when a hook or another class appears on the layer later),
and losses that a model adds itself (mixtures of experts with `output_router_logits`), both refused;
weights that are gathered only in the forward of their own layer (DeepSpeed ZeRO-3).

Shapes: B batch, T positions, D width, V vocabulary, S predicted positions, N = B * S rows.
"""

import functools
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from sharpgpt.model.head import head_hooks, head_problem, is_meta, loss_problem
from sharpgpt.model.lm import EVERY_POSITION, check_positions, penalty_mask
from sharpgpt.model.softcap import (
    CappedLinear,
    capped,
    restore_softcap,
    softcap_of,
    softcap_state,
    softcap_unless_refused,
)
from sharpgpt.sharpness.fused import linear_sharpness_loss
from sharpgpt.sharpness.reference import IGNORE_INDEX, check_arguments

logger = logging.getLogger(__name__)

Model = TypeVar("Model", bound=nn.Module)


@dataclass
class SharpnessSettings:
    """Settings of the loss of a patched model; may be changed between two forwards."""

    penalty: str = "non_max_sum"
    """A name in `sharpgpt.sharpness.PENALTIES`."""

    penalty_weight: float | Tensor = 0.01
    """The penalty's factor in the loss. A 0-d tensor changes without a new compilation."""

    z_loss_weight: float | Tensor = 0.0
    """The factor of the z-loss, (ln sum e^logits)^2, at every valid label; likewise. PaLM: 1e-4."""

    label_smoothing: float | Tensor = 0.0
    """e of label smoothing, in [0, 1), at every valid label; likewise."""

    logit_softcap: float | None = None
    """c of a soft cap c tanh(z / c) of the model's logits, with labels and without; None is that of
    the model's config, `final_logit_softcapping`, if there is one."""

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

    per_row: bool = False
    """Whether `sharpness_output.rows` has the statistics row by row."""


def use_sharpness_loss(model: Model, **settings: Any) -> Model:
    """Make the model's forward return the sharpness loss when it is given labels.

    From then on, in plain torch and with HuggingFace's shift of the labels,

        model(input_ids=ids, labels=labels).loss == sharpness_loss(
            model(input_ids=ids).logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ...).loss

    or, given `num_items_in_batch`, the sum over the rows divided by it. A batch without any valid
    label has loss 0, where HuggingFace's own is NaN. A batch too short to have the
    `penalty_positions` has penalty 0, which is said once. `model.sharpness_output` holds the result
    of the last forward with labels, detached, and `model.sharpness_settings` the settings.

    Args:
        model: a causal LM of transformers, or a PEFT model of one; changed in place.
        settings: the fields of `SharpnessSettings` by name (penalty, penalty_weight,
            z_loss_weight, label_smoothing, logit_softcap, top_k, penalty_positions, chunk_size,
            eval_logits, per_row). Those that are not given have their default values; in a model
            that has the sharpness loss already, those it has.

    Returns:
        The model itself. `restore(model)` undoes the change.

    Raises:
        ValueError: a setting out of range; a model whose logits are not one linear map of its last
            hidden state, or whose loss is not the plain cross-entropy of them.
        TypeError: an unknown setting.
    """
    causal_lm = causal_lm_of(model)
    patched = _is_patched(causal_lm)
    present = causal_lm.sharpness_settings if patched else SharpnessSettings()
    new = replace(present, **settings)
    head = causal_lm.get_output_embeddings()
    _check_settings(new, getattr(head, "out_features", new.top_k))
    own = causal_lm._sharpness_own_softcap if patched else softcap_state(causal_lm)
    cap = own.get("field") if new.logit_softcap is None else new.logit_softcap
    with softcap_unless_refused(causal_lm, cap):
        if patched:
            _check_head(causal_lm)
        else:
            _check_model(causal_lm)
            causal_lm._sharpness_checked = None if is_meta(causal_lm) else head_hooks(head)
            causal_lm._sharpness_short_batch_said = False
            causal_lm._sharpness_own_softcap = own
            original: Any = type(causal_lm)
            causal_lm.__class__ = _patched_class(original)
    causal_lm._sharpness_softcap = softcap_of(causal_lm)
    causal_lm.sharpness_settings = new
    causal_lm.sharpness_output = None
    return model


def restore(model: Model) -> Model:
    """Undo `use_sharpness_loss`: the model has its own forward again. Returns the model.

    Wrappers that were put around the forward of the instance since are removed too.

    Raises:
        ValueError: the model does not have the sharpness loss.
    """
    causal_lm = causal_lm_of(model)
    if not _is_patched(causal_lm):
        raise ValueError(
            f"model: given a {type(causal_lm).__name__} without the sharpness loss, "
            "allowed is a model that use_sharpness_loss has changed"
        )
    # Set only by what has wrapped the forward since, such as accelerate's autocast.
    vars(causal_lm).pop("forward", None)
    causal_lm.__class__ = type(causal_lm).__bases__[0]
    restore_softcap(causal_lm, causal_lm._sharpness_own_softcap)
    del causal_lm._sharpness_own_softcap, causal_lm._sharpness_softcap
    del causal_lm.sharpness_settings, causal_lm.sharpness_output
    del causal_lm._sharpness_checked, causal_lm._sharpness_short_batch_said
    return model


def causal_lm_of(model: Any) -> Any:
    """The transformers model itself, without its PEFT wrapper."""
    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    known = hasattr(model, "base_model") and hasattr(model, "get_output_embeddings")
    if not known or hasattr(model, "_orig_mod"):
        raise ValueError(
            f"model: given a {type(model).__name__}, allowed are causal LMs of transformers "
            "(change the model before it is compiled or wrapped for parallel training)"
        )
    return model


def _is_patched(causal_lm: Any) -> bool:
    return hasattr(type(causal_lm), "_is_sharpness_class")


def _check_settings(settings: SharpnessSettings, vocab_size: int) -> None:
    """Raise ValueError for a setting out of range."""
    check_arguments(
        (0, vocab_size),
        torch.empty(0, dtype=torch.int64),
        penalty=settings.penalty,
        penalty_mask=None,
        reduction="mean",
        top_k=settings.top_k,
        label_smoothing=settings.label_smoothing,
        logit_softcap=settings.logit_softcap,
    )
    if settings.chunk_size is not None and settings.chunk_size < 1:
        raise ValueError(f"chunk_size: given {settings.chunk_size}, allowed is None or at least 1")
    if settings.penalty_positions != EVERY_POSITION:
        check_positions(settings.penalty_positions)


def _check_model(causal_lm: Any) -> None:
    """Raise ValueError unless the model's own loss is the cross-entropy of a linear map."""
    name = type(causal_lm).__name__
    if "forward" in vars(causal_lm):
        raise ValueError(
            f"model: the forward of this {name} has been replaced already; "
            "call use_sharpness_loss before whatever replaces it"
        )
    if problem := head_problem(causal_lm) or loss_problem(causal_lm):
        raise ValueError(f"model: {problem}")
    _say_what_does_not_run(causal_lm.get_output_embeddings())


def _check_head(causal_lm: Any) -> Any:
    """The output layer; checked again when what can change its result is not what it was."""
    head = causal_lm.get_output_embeddings()
    hooks = head_hooks(head)
    if hooks != causal_lm._sharpness_checked and not is_meta(causal_lm):
        if problem := head_problem(causal_lm):
            raise ValueError(f"model: {problem}")
        _say_what_does_not_run(head)
        causal_lm._sharpness_checked = hooks
    return head


def _say_what_does_not_run(head: nn.Module) -> None:
    if head._forward_hooks or head._forward_pre_hooks:
        logger.warning(
            "the output layer has forward hooks. They do not change the logits, but the sharpness "
            "loss does not call them: it uses the layer's weight"
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

    def reduce(self: Any, protocol: Any) -> tuple[Any, ...]:
        """The class has no name to be pickled by: it is made again from the original."""
        return (_new_instance, (original,), *super(patched, self).__reduce_ex__(protocol)[2:])

    names_of_original = {name: getattr(original, name) for name in ("__module__", "__qualname__")}
    attributes = {"forward": forward, "__reduce_ex__": reduce, "_is_sharpness_class": True}
    patched: Any = type(original.__name__, (original,), attributes | names_of_original)
    return cast(type, patched)


def _new_instance(original: type) -> Any:
    """An empty instance of a patched class, for `pickle` and `copy`."""
    patched: Any = _patched_class(original)
    return patched.__new__(patched)


def _forward_with_labels(
    causal_lm: Any,
    output_class: Callable[..., Any],
    *,
    labels: Tensor,
    shift_labels: Tensor | None = None,
    num_items_in_batch: Tensor | float | None = None,
    ignore_index: int = IGNORE_INDEX,
    logits_to_keep: int | Tensor | None = 0,
    num_logits_to_keep: int | Tensor | None = 0,
    return_dict: bool | None = None,
    use_cache: bool | None = None,
    **kwargs: Any,
) -> Any:
    """The forward of a causal LM, with the loss computed from its hidden states."""
    for kept in (logits_to_keep, num_logits_to_keep):
        if isinstance(kept, Tensor) or kept:
            raise ValueError("logits_to_keep: given together with labels, allowed is one of them")
    settings: SharpnessSettings = causal_lm.sharpness_settings
    head = _check_head(causal_lm)
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
        z_loss_weight=settings.z_loss_weight,
        label_smoothing=settings.label_smoothing,
        logit_softcap=causal_lm._sharpness_softcap,
        top_k=settings.top_k,
        penalty_mask=_penalty_mask(causal_lm, target_BS, length),
        ignore_index=ignore_index,
        reduction="mean" if num_items_in_batch is None else "sum",
        per_row=settings.per_row,
        chunk_size=settings.chunk_size,
    )
    loss = output.loss
    if num_items_in_batch is not None:
        if isinstance(num_items_in_batch, Tensor):
            num_items_in_batch = num_items_in_batch.to(loss.device)
        # No items: every label is ignored, and the sum is 0.
        loss = loss / (num_items_in_batch + (num_items_in_batch == 0))
    # A copy: Trainer scales the loss in place.
    causal_lm.sharpness_output = output._replace(loss=loss.detach().clone())
    logits_BTV = None
    if settings.eval_logits and not causal_lm.training:
        logits_BTV = head(hidden_BTD)
        if not isinstance(head, CappedLinear):  # the architecture caps after the output layer
            logits_BTV = capped(causal_lm, logits_BTV)
    result = output_class(
        loss=loss,
        logits=logits_BTV,
        past_key_values=getattr(base, "past_key_values", None),
        hidden_states=getattr(base, "hidden_states", None),
        attentions=getattr(base, "attentions", None),
    )
    if return_dict is None:
        return_dict = causal_lm.config.return_dict
    return result if return_dict else result.to_tuple()


def _penalty_mask(causal_lm: Any, target_BS: Tensor, length: int) -> Tensor | None:
    """`penalty_mask` of the settings; false everywhere in a batch too short for the positions."""
    positions = causal_lm.sharpness_settings.penalty_positions
    try:
        return penalty_mask(positions, target_BS, length)
    except ValueError:
        check_positions(positions)
    if not torch.compiler.is_compiling() and not causal_lm._sharpness_short_batch_said:
        causal_lm._sharpness_short_batch_said = True
        logger.warning(
            "penalty_positions: %s are not in a batch of %s tokens. Such batches have penalty 0",
            positions,
            length,
        )
    return torch.zeros_like(target_BS, dtype=torch.bool).flatten()
