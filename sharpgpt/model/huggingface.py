"""The sharpness loss inside other people's trainers: any HuggingFace causal LM, any loop around it.

`use_sharpness_loss(model)` gives one model another forward. Called with `labels`, it computes the
loss from the hidden states and the weight of the output layer, in chunks, and returns
`logits=None`; called without, it is the architecture's own, so generation is as before. The loss
takes the arguments of HuggingFace's own (`num_items_in_batch`, `shift_labels`), and at penalty
weight 0 it is that loss, so whatever trains such a model, their Trainer or a loop of your own,
needs no other change. `SharpnessTrainer` is their Trainer with the call made and the statistics
logged.

The new forward is a method of a subclass, made on the fly, that the instance is moved to: unlike a
function set on the instance it goes along with `copy.deepcopy` and with the replicas of data
parallelism. The subclass bears the name of the original, so checkpoints do not know of it.

What is not supported: output layers that are not one `nn.Linear` or whose result is scaled or
capped, losses that a model adds of its own (mixtures of experts with `output_router_logits`), both
refused; weights that are gathered only in the forward of their own layer (DeepSpeed ZeRO-3);
pickling of a whole patched model (save it with `save_pretrained`, or `restore` it first).

Needs transformers, and accelerate for the Trainer; nothing of them is imported before it is used.

Shapes: B batch, T positions, D width, V vocabulary, N = B * (T - 1) rows.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharpgpt.config import penalised_positions
from sharpgpt.model.head import has_linear_head
from sharpgpt.sharpness.fused import linear_sharpness_loss
from sharpgpt.sharpness.output import SharpnessOutput
from sharpgpt.sharpness.reference import IGNORE_INDEX, check_arguments

__all__ = ["SharpnessSettings", "SharpnessTrainer", "restore", "use_sharpness_loss"]

Model = TypeVar("Model", bound=nn.Module)

SharpnessTrainer: type[Any]
"""Made by `__getattr__` below; described at `_trainer_class`."""

EVERY_POSITION = "0:N-2"


@dataclass
class SharpnessSettings:
    """What the loss of a patched model is made of; may be changed between two forwards."""

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
    """Rows whose logits are held at one time; None lets the fused loss choose."""

    eval_logits: bool = False
    """Whether a forward with labels in evaluation mode returns logits beside the loss. Trainer's
    evaluation asks for them if it has `compute_metrics`; with `prediction_loss_only`, and without
    metrics, it drops them."""


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
    the last forward with labels, detached, and `model.sharpness_settings` the settings below.

    Args:
        model: a causal LM of transformers, or a PEFT model of one; changed in place. Call again
            to change the settings.
        penalty, penalty_weight, top_k, penalty_positions, chunk_size, eval_logits: as described at
            `SharpnessSettings`.

    Returns:
        The model itself. `restore(model)` takes the change back.

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
    """Take `use_sharpness_loss` back: the model has its own forward again. Returns the model.

    What was wrapped around the forward of the instance since, such as accelerate's autocast, goes
    too.

    Raises:
        ValueError: the model does not have the sharpness loss.
    """
    causal_lm = _causal_lm(model)
    if not _is_patched(causal_lm):
        raise ValueError(
            f"model: given a {type(causal_lm).__name__} without the sharpness loss, "
            "allowed is what use_sharpness_loss has changed"
        )
    # Only what wrapped the forward since then can be here: accelerate's autocast, for one.
    vars(causal_lm).pop("forward", None)
    causal_lm.__class__ = type(causal_lm).__bases__[0]
    del causal_lm.sharpness_settings, causal_lm.sharpness_output
    return model


def _causal_lm(model: Any) -> Any:
    """The transformers model itself, out of its PEFT wrapper if it has one."""
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
    """The output layer; refused is what replaces it, such as an adapter around it."""
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
    modes = [(module, module.training) for module in causal_lm.modules()]
    causal_lm.eval()
    try:
        with torch.no_grad(), head.weight.device:
            linear = has_linear_head(causal_lm)
            probe_BT = torch.arange(4)[None] % head.weight.shape[0]
            own = causal_lm(input_ids=probe_BT, labels=probe_BT, use_cache=False)
            ce = F.cross_entropy(own.logits[0, :-1].float(), probe_BT[0, 1:])
    except Exception as error:  # whatever the code of an architecture raises
        raise ValueError(f"model: {name} cannot be run as a causal LM: {error}") from error
    finally:
        for module, training in modes:
            module.training = training
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

    # Trainer and generate() read the signature. No functools.wraps: accelerate takes its wrappers
    # off by following __wrapped__ to the end, which would take this function off too.
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
    """The forward of a causal LM with the loss from its hidden states; the rest is theirs."""
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
        penalty_mask=_penalty_mask(settings.penalty_positions, target_BS, length),
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


def _penalty_mask(positions: str, target_BS: Tensor, length: int) -> Tensor | None:
    """Boolean [B * S], true at the penalised positions; None when those are all."""
    if positions == EVERY_POSITION:
        return None
    try:
        first, last = penalised_positions(positions, length)
    except ValueError as error:
        raise ValueError(f"penalty_positions: {error}") from None
    position_S = torch.arange(target_BS.shape[1], device=target_BS.device)
    return ((position_S >= first) & (position_S <= last)).expand_as(target_BS).flatten()


LOGGED = {
    "ce_loss": "ce",
    "penalty": "penalty",
    "avg_max_prob": "max_prob",
    "entropy": "entropy",
    "top_k_mass": "top_k_mass",
}
"""Name in the logs of a Trainer: name in SharpnessOutput."""


class _RowMeans:
    """Means over the rows of many batches; a tensor until they are asked for, so no host sync."""

    def __init__(self) -> None:
        self.sums: Tensor | None = None

    def add(self, output: SharpnessOutput) -> None:
        means = [getattr(output, field) for field in LOGGED.values()]
        sums = torch.stack([*means, torch.ones_like(output.ce)]) * output.num_rows
        self.sums = sums if self.sums is None else self.sums + sums

    def take(self, reduce: Callable[[Tensor], Tensor], prefix: str = "") -> dict[str, float]:
        """The means over all processes, by name in the logs, and a new beginning."""
        if self.sums is None:
            return {}
        *sums, num_rows = reduce(self.sums).tolist()
        self.sums = None
        means = (total / max(1.0, num_rows) for total in sums)
        return {prefix + name: mean for name, mean in zip(LOGGED, means, strict=True)}


class _SharpnessTrainer:
    """What `SharpnessTrainer` adds to the `Trainer` that it is joined to by `__getattr__` below."""

    # The attributes of Trainer that are used here.
    model: Any
    accelerator: Any
    label_smoother: Any
    compute_loss_func: Any

    def __init__(
        self,
        model: Any = None,
        *args: Any,
        penalty: str = "non_max_sum",
        penalty_weight: float | Tensor = 0.01,
        top_k: int = 5,
        penalty_positions: str = EVERY_POSITION,
        chunk_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        self._sharpness = {
            "penalty": penalty,
            "penalty_weight": penalty_weight,
            "top_k": top_k,
            "penalty_positions": penalty_positions,
            "chunk_size": chunk_size,
        }
        self._training_rows, self._evaluation_rows = _RowMeans(), _RowMeans()
        if model is not None:
            use_sharpness_loss(model, **cast(Any, self._sharpness))
        cast(Any, super()).__init__(model, *args, **kwargs)
        if self.label_smoother is not None or self.compute_loss_func is not None:
            raise ValueError(
                "label_smoothing_factor, compute_loss_func: each replaces the loss of the model, "
                "allowed is neither in SharpnessTrainer"
            )

    def call_model_init(self, trial: Any = None) -> Any:
        """The model of `model_init`, with the sharpness loss."""
        model = cast(Any, super()).call_model_init(trial)
        return use_sharpness_loss(model, **cast(Any, self._sharpness))

    def compute_loss(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Trainer's, and the statistics of this batch are counted."""
        loss = cast(Any, super()).compute_loss(model, *args, **kwargs)
        output = self.model.sharpness_output
        if output is not None:  # it is under nn.DataParallel, whose replicas have it
            (self._training_rows if model.training else self._evaluation_rows).add(output)
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Trainer's; the line of the training loss has the statistics since the one before it."""
        if "loss" in logs:
            logs |= self._training_rows.take(self._summed)
        cast(Any, super()).log(logs, *args, **kwargs)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """Trainer's; the metrics have the statistics of the whole data set beside the loss."""
        result = cast(Any, super()).evaluation_loop(
            *args, metric_key_prefix=metric_key_prefix, **kwargs
        )
        result.metrics.update(self._evaluation_rows.take(self._summed, metric_key_prefix + "_"))
        return result

    def prediction_step(
        self, model: Any, inputs: Any, prediction_loss_only: bool, *args: Any, **kwargs: Any
    ) -> Any:
        """Trainer's; logits are made only if they are not thrown away at once."""
        self.model.sharpness_settings.eval_logits = not prediction_loss_only
        return cast(Any, super()).prediction_step(
            model, inputs, prediction_loss_only, *args, **kwargs
        )

    def _summed(self, sums: Tensor) -> Tensor:
        return cast(Tensor, self.accelerator.reduce(sums, reduction="sum"))


@functools.cache
def _trainer_class() -> type:
    from transformers import Trainer

    members = {
        "__module__": __name__,
        "__doc__": """HuggingFace's Trainer with the sharpness loss, its statistics in the logs.

    A subclass and not a callback: callbacks see a line of the log only after it is in
    `state.log_history`, and have no part in evaluation.

    Keyword arguments beside Trainer's own are those of `use_sharpness_loss` but `eval_logits`,
    which is decided at each evaluation. The lines of the training loss have `ce_loss`, `penalty`,
    `avg_max_prob`, `entropy` and `top_k_mass` too, as means over all rows of all processes since
    the line before; the metrics of an evaluation have them with its prefix (`eval_ce_loss`).
    `loss` and `eval_loss` contain the penalty: perplexity is exp of `eval_ce_loss`. Under
    nn.DataParallel (several GPUs in one process) there are no statistics; start it with torchrun.

    Raises:
        ValueError: as `use_sharpness_loss`; label smoothing or `compute_loss_func` is asked for.
    """,
    }
    return type("SharpnessTrainer", (_SharpnessTrainer, Trainer), members)


def __getattr__(name: str) -> Any:
    """`SharpnessTrainer`, made when it is first asked for: importing Trainer takes seconds."""
    if name == "SharpnessTrainer":
        return _trainer_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
