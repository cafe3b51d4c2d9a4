"""Is a model's output layer one linear map? The loss inside the forward requires it.

Some architectures scale their logits after the output layer; a hook, an adapter or a layer
of one's own may change them too, in training only, or by parameters that start where they do
nothing. A loss computed from hidden states and weight would silently train another model. So
`head_problem` compares the logits of the model's own forward on a few tokens with the linear map of
its hidden states that the loss would use,

    hidden = causal_lm.base_model(input_ids=ids)[0]
    causal_lm(input_ids=ids).logits == soft_capped(F.linear(hidden, head.weight, head.bias))

with the soft cap of its config, if there is one (softcap.py), in evaluation and in training mode,
while every parameter outside the body has another value: logits from small to hundreds, so that a
bias shows at one end and a cap at the other. A parametrization of the weight passes, since
`head.weight` is its result. The model is left as it was: parameters, buffers, modes, random state.

Shapes: B batch, T tokens, D width, V vocabulary.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharpgpt.model.softcap import capped

LARGEST_LOGIT = 300.0
"""Order of the largest logits of the comparison; caps in use are 15 to 50."""

NOT_LINEAR = (
    "its logits are not a plain linear map of its last hidden state (they are scaled, or changed "
    "by a hook or an adapter); allowed are causal LMs whose output layer is one nn.Linear, with or "
    "without final_logit_softcapping, such as GPT-2, Llama, Qwen or Gemma 2"
)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode within the block; afterwards every module is in its own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def has_linear_head(model: nn.Module) -> bool:
    """Whether the logits are one linear map of the last hidden state: see `head_problem`."""
    return head_problem(model) is None


@torch.no_grad()
def head_problem(model: nn.Module) -> str | None:
    """Why the logits are not the linear map that the loss takes them for; None if they are.

    On the meta device (a dry run) only the classes are looked at: there is nothing to compare.
    """
    causal_lm = cast(Any, model)
    name = type(causal_lm).__name__
    if getattr(causal_lm.config, "is_encoder_decoder", False):
        return f"{name} is an encoder-decoder model, allowed are causal LMs"
    head = causal_lm.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        given = f"{type(head).__module__}.{type(head).__qualname__}"
        return f"the output layer of {name} is a {given}, allowed is torch.nn.Linear"
    if causal_lm.base_model is causal_lm:
        return f"{name} has no body apart from its output layer (base_model)"
    if is_meta(causal_lm):
        return None
    try:
        with _left_as_it_was(causal_lm), head.weight.device:
            return _comparison(causal_lm)
    except Exception as error:  # whatever the code of an architecture raises
        return f"{name} cannot be run as a causal LM: {error}"


@torch.no_grad()
def loss_problem(model: nn.Module) -> str | None:
    """Why the model's own loss is not the cross-entropy of its logits; None if it is."""
    causal_lm = cast(Any, model)
    if is_meta(causal_lm):
        return None
    try:
        with _left_as_it_was(causal_lm), causal_lm.get_output_embeddings().weight.device:
            for training in (False, True):
                causal_lm.train(training)
                probe_BT = _probe(causal_lm)
                own = causal_lm(**_named(causal_lm, probe_BT), labels=probe_BT, use_cache=False)
                ce = F.cross_entropy(own.logits[0, :-1].float(), probe_BT[0, 1:])
                if not torch.allclose(own.loss.float(), ce, rtol=1e-5):
                    return (
                        f"the loss of {type(causal_lm).__name__} is not the cross-entropy of its "
                        f"logits (given {own.loss.item():.6g}, the cross-entropy is "
                        f"{ce.item():.6g}); turn off what is added to it, such as "
                        "output_router_logits of a mixture of experts"
                    )
    except Exception as error:  # whatever the code of an architecture raises
        return f"{type(causal_lm).__name__} cannot be run as a causal LM: {error}"
    return None


def head_hooks(head: nn.Module) -> tuple[Any, ...]:
    """What can change an output layer beside its weight: empty for a plain `nn.Linear`."""
    if (
        type(head) is nn.Linear
        and not head._forward_hooks
        and not head._forward_pre_hooks
        and "forward" not in head.__dict__
    ):
        return ()
    hooks = (*head._forward_pre_hooks.values(), *head._forward_hooks.values())
    return (type(head), head.__dict__.get("forward"), *hooks)


def is_meta(causal_lm: Any) -> bool:
    """Whether some parameter has no values yet."""
    return any(parameter.is_meta for parameter in causal_lm.parameters())


def _comparison(causal_lm: Any) -> str | None:
    """The comparison of `head_problem`, of a model that may be changed."""
    inputs = {**_named(causal_lm, _probe(causal_lm)), "use_cache": False, "return_dict": True}
    head = causal_lm.get_output_embeddings()
    for training in (False, True):
        causal_lm.train(training)
        with _left_as_it_was(causal_lm):
            hidden_BTD = causal_lm.base_model(**inputs)[0]
        if not hidden_BTD.isfinite().all():
            return (
                f"the hidden states of {type(causal_lm).__name__} are NaN or infinite (its "
                "training diverged, or the weights are damaged)"
            )
        _change_parameters(causal_lm, LARGEST_LOGIT / max(1.0, float(hidden_BTD[0, 0].norm())))
        with _left_as_it_was(causal_lm):
            weight = head.weight
            if type(weight) not in (Tensor, nn.Parameter):
                return (
                    f"the weight of the output layer is a {type(weight).__name__}, "
                    "allowed is a plain tensor"
                )
            linear_BTV = capped(causal_lm, F.linear(hidden_BTD, weight, head.bias))
        with _left_as_it_was(causal_lm):
            logits_BTV = causal_lm(**inputs).logits
        if not _equal(logits_BTV, linear_BTV):
            return NOT_LINEAR
    return None


def _equal(logits_BTV: Tensor, expected_BTV: Tensor) -> bool:
    """Equal but for rounding, in each column: the scales of the columns are far apart."""
    if logits_BTV.shape != expected_BTV.shape:
        return False
    tolerance = max(1e-4, 2 * torch.finfo(expected_BTV.dtype).eps)
    difference_BV = (logits_BTV - expected_BTV).double().norm(dim=1)
    return bool((difference_BV <= tolerance * expected_BTV.double().norm(dim=1)).all())


def _change_parameters(causal_lm: Any, scale: float) -> None:
    """Give every parameter outside the body another value, by a new tensor in its place.

    So a layer of zeros is compared too, and an adapter that starts at zero. The rows, V of them in
    an output layer, go from a thousandth to the whole of `scale`. An embedding that is tied to the
    output layer keeps its values.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    body = set(causal_lm.base_model.modules()) - set(causal_lm.get_output_embeddings().modules())
    for module in causal_lm.modules():
        for name, parameter in module._parameters.items():
            if module in body or parameter is None or not parameter.is_floating_point():
                continue
            value = torch.randn(parameter.shape[1:], generator=generator, device="cpu") * scale
            value = value.to(parameter.device)
            if parameter.ndim:
                number = torch.arange(len(parameter), device=parameter.device)
                size = 10.0 ** (-3 * (1 - (number + 1) / len(parameter))) * (-1.0) ** number
                value = size.view(-1, *[1] * value.ndim) * value
            module._parameters[name] = nn.Parameter(value.to(parameter.dtype), requires_grad=False)


def _probe(causal_lm: Any) -> Tensor:
    """A few tokens, [1, T]."""
    head = causal_lm.get_output_embeddings()
    device = causal_lm.get_input_embeddings().weight.device
    return torch.arange(4, device=device)[None].remainder(int(head.out_features))


def _named(causal_lm: Any, input_ids_BT: Tensor) -> dict[str, Tensor]:
    return {getattr(causal_lm, "main_input_name", "input_ids"): input_ids_BT}


@contextlib.contextmanager
def _left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Afterwards attributes, parameters, buffers, modes and random state are as before."""
    modules = [
        (module, dict(vars(module)), dict(module._parameters), dict(module._buffers))
        for module in model.modules()
    ]
    contents = [(buffer, buffer.clone()) for buffer in model.buffers()]
    random_states = [
        (generators, arguments, generators.get_rng_state(*arguments))
        for generators, arguments in _generators(model)
    ]
    try:
        yield
    finally:
        for generators, arguments, state in random_states:
            generators.set_rng_state(state, *arguments)
        for module, attributes, parameters, buffers in modules:
            vars(module).clear()
            vars(module).update(attributes)
            module._parameters.clear()
            module._parameters.update(parameters)
            module._buffers.clear()
            module._buffers.update(buffers)
        for buffer, content in contents:
            buffer.copy_(content)


def _generators(model: nn.Module) -> list[tuple[Any, tuple[Any, ...]]]:
    """The modules with the random state of the CPU and of the model's devices, and arguments."""
    devices = {tensor.device for tensor in model.parameters() if tensor.device.type != "cpu"}
    others = [
        (torch.get_device_module(device), () if device.type == "mps" else (device,))
        for device in devices
    ]
    return [(torch, ()), *others]
