"""What the fused loss does in a backward pass: scale saved gradients, or compute them another way.

- Mean and sum: the gradients were computed in the forward pass, and are multiplied by the upstream
  gradient in float32 and cast last, since a loss scale of 2^16 is infinite in float16. They are as
  large as the weight, so they are multiplied in place and given away where the graph ends with this
  pass, and copied where it is kept (`retain_graph=True`).
- A loss per row: the gradients are computed here, the upstream gradient of a row in its factor.
- Gradients of gradients (`create_graph=True`) and batches of upstream gradients (a vectorised
  Jacobian): the dense loss of the same rows, differentiated by autograd; it holds the logits.

An ignored row has a gradient of 0 whatever comes from above: 0 * inf is NaN, so its factor is
replaced and not multiplied.

Shapes: N rows, D width, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from sharpgpt.sharpness.penalties import find_penalty
from sharpgpt.sharpness.reference import above_mean, exact_near_one, log_sum_exp, soft_capped
from sharpgpt.sharpness.targets import IGNORED

Gradients = list[Tensor | None]


def is_transformed(*tensors: object) -> bool:
    """Whether a function of torch.func, or forward-mode differentiation, is at work on these."""
    if torch._C._are_functorch_transforms_active():
        return True
    if torch.compiler.is_compiling():
        return False
    return any(isinstance(tensor, Tensor) and _is_transformed(tensor) for tensor in tensors)


def _is_transformed(tensor: Tensor) -> bool:
    if torch._C._functorch.is_legacy_batchedtensor(tensor):  # torch.autograd's is_grads_batched
        return True
    return forward_ad.unpack_dual(tensor).tangent is not None  # type: ignore[no-untyped-call]


def save(ctx: Any, inputs: Any, keyword_only_inputs: Any, output: Any) -> None:
    """Keep what a backward pass may need: the inputs, the values of the rows, the gradients."""
    layer, target_N, factors = inputs
    _, statistics_SN, gradients = output
    ctx.settings, ctx.num_factors = keyword_only_inputs, len(factors)
    ctx.save_for_backward(*layer, *factors, target_N, statistics_SN, *gradients)
    ctx.set_materialize_grads(False)


def backward(ctx: Any, grad_loss: Tensor | None, *_: Any) -> tuple[Any, ...]:
    """Gradients of layer, target and factors."""
    needs, num_factors = ctx.settings["needs"], ctx.num_factors
    if grad_loss is None:
        return [None] * len(needs), None, [None] * num_factors
    size = len(needs) + num_factors
    inputs, rest = ctx.saved_tensors[:size], ctx.saved_tensors[size:]
    (*layer,), factors = inputs[: len(needs)], inputs[len(needs) :]
    target_N, statistics_SN, *gradients = rest
    needs_factors = ctx.needs_input_grad[2]
    if torch.is_grad_enabled() or is_transformed(grad_loss):
        found = dense_gradients(
            inputs, target_N, grad_loss, wanted=[*needs, *needs_factors], settings=ctx.settings
        )
        return found[: len(needs)], None, found[len(needs) :]
    # Saved outputs of the operator belong to its graph; what is returned must not.
    statistics_SN, gradients = statistics_SN.detach(), [found.detach() for found in gradients]
    ignored_N = target_N == IGNORED
    if ctx.settings["loss_per_row"]:
        weighted = [(factor_N * grad_loss).masked_fill(ignored_N, 0) for factor_N in factors]
        _, _, gradients = torch.ops.sharpgpt.linear_sharpness(
            list(layer), target_N, weighted, **ctx.settings | {"loss_per_row": False}
        )
    else:
        gradients = _scaled(gradients, grad_loss, ignored_N)
    return (
        [
            gradient.to(tensor.dtype) if need else None
            for gradient, tensor, need in zip(gradients, layer, needs, strict=True)
        ],
        None,
        [
            grad_loss * value_N if need else None
            for value_N, need in zip(statistics_SN[:num_factors], needs_factors, strict=True)
        ],
    )


def _scaled(gradients: Sequence[Tensor], grad_loss: Tensor, ignored_N: Tensor) -> Sequence[Tensor]:
    """The gradients times the upstream gradient.

    The usual one, 1, costs nothing where looking at it is free: on a CPU, in eager mode.
    """
    is_eager = type(grad_loss) is Tensor
    give_away = is_eager and not torch._C._autograd._get_current_graph_task_keep_graph()
    if give_away and grad_loss.device.type == "cpu" and grad_loss.item() == 1:
        return gradients
    # Ignored rows have gradients of 0 already; only an infinite upstream gradient needs the masks.
    hidden, *others = gradients
    factor_N1 = grad_loss.expand(ignored_N.shape).masked_fill(ignored_N, 0)[:, None]
    factor = grad_loss.masked_fill(ignored_N.all(), 0)
    pairs = [(hidden, factor_N1 if hidden.ndim == 2 else factor), *((g, factor) for g in others)]
    return [gradient.mul_(f) if give_away else gradient * f for gradient, f in pairs]


def dense_gradients(
    inputs: Sequence[Tensor],
    target_N: Tensor,
    grad_loss: Tensor,
    *,
    wanted: Sequence[bool],
    settings: dict[str, Any],
) -> Gradients:
    """Gradients of the inputs: of the layer and then the factors; None where not `wanted`.

    They can be differentiated again.
    """
    create_graph = torch.is_grad_enabled()
    product_dtype, ignored_N = settings["product_dtype"], target_N == IGNORED
    device_type = grad_loss.device.type
    with torch.enable_grad(), torch.autocast(device_type, enabled=False):
        # Views, so that a tied weight in the history of hidden is not counted here.
        inputs = [tensor.view_as(tensor) for tensor in inputs]
        num_layer = len(settings["needs"])
        layer, factors = inputs[:num_layer], inputs[num_layer:]
        hidden_ND, weight_VD, *biases = (tensor.to(product_dtype) for tensor in layer)
        hidden_ND = hidden_ND.masked_fill(ignored_N[:, None], 0)
        logits_NV = F.linear(hidden_ND, weight_VD, *biases).to(factors[0].dtype)
        logits_NV = soft_capped(logits_NV, settings.get("logit_softcap"))
        log_p_NV = exact_near_one(logits_NV.log_softmax(-1))
        ce_N = F.nll_loss(log_p_NV, target_N, ignore_index=IGNORED, reduction="none")
        penalty = find_penalty(settings["penalty"])
        penalty_N = penalty.value(log_p_NV.exp(), log_p_NV, settings["top_k"])
        loss_N = factors[0] * ce_N + factors[1] * penalty_N
        if len(factors) > 2:
            loss_N = loss_N + factors[2] * log_sum_exp(logits_NV).square()
        if len(factors) > 3:
            loss_N = loss_N + factors[3] * above_mean(logits_NV, target_N)
        loss_N = loss_N.masked_fill(ignored_N, 0)
        chosen = [tensor for tensor, want in zip(inputs, wanted, strict=True) if want]
        found = iter(
            torch.autograd.grad(
                loss_N if settings["loss_per_row"] else loss_N.sum(),
                chosen,
                grad_loss,
                create_graph=create_graph,
            )
        )
    return [next(found) if want else None for want in wanted]
