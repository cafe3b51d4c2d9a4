"""Which output layers are one linear map: all that is not must be noticed, in any architecture."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharpgpt.model.head import has_linear_head, head_problem
from tests.model.causal_lms import both_models, gpt2, llama


class ScaledHead(nn.Linear):
    """Learns a scale, which starts at 1."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__(head.in_features, head.out_features, bias=False)
        self.weight, self.scale = head.weight, nn.Parameter(torch.ones(()))

    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(hidden) * self.scale


class AdaptedHead(nn.Linear):
    """With a low-rank adapter, which starts at zero."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__(head.in_features, head.out_features, bias=False)
        self.weight = head.weight
        self.down = nn.Parameter(torch.randn(4, head.in_features))
        self.up = nn.Parameter(torch.zeros(head.out_features, 4))

    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(hidden) + hidden @ self.down.T @ self.up.T


class DroppedHead(nn.Linear):
    """Differs in training mode only."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__(head.in_features, head.out_features, bias=False)
        self.weight = head.weight

    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(F.dropout(hidden, 0.1, self.training))


class RenamedHead(DroppedHead):
    """A class of its own that computes what `nn.Linear` does."""

    def forward(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.weight, self.bias)


def zeroed(model: Any) -> None:
    model.lm_head.weight = nn.Parameter(torch.zeros_like(model.lm_head.weight))


def hooked(change: Callable[[Tensor], Tensor]) -> Callable[[Any], Any]:
    return lambda model: model.lm_head.register_forward_hook(lambda _, _given, out: change(out))


def replaced(head_class: Any) -> Callable[[Any], Any]:
    def change(model: Any) -> None:
        model.lm_head = head_class(model.lm_head)

    return change


def zeroed_and_scaled(model: Any) -> None:
    zeroed(model)
    hooked(lambda logits: logits * 2)(model)


def with_another_forward(model: Any) -> None:
    head = model.lm_head
    head.forward = lambda hidden: F.linear(hidden, head.weight) * 1.5


def with_a_bias_after_the_head(model: Any) -> None:
    """One that starts at zero, as a parameter of the model."""
    model.extra = nn.Parameter(torch.zeros(model.lm_head.out_features))
    hooked(lambda logits: logits + model.extra)(model)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "scaled": hooked(lambda logits: logits * 1.01),
    "capped": hooked(lambda logits: 50 * torch.tanh(logits / 50)),
    "shifted": hooked(lambda logits: logits + 0.01 * torch.arange(logits.shape[-1])),
    "zeros, scaled": zeroed_and_scaled,
    "pre-hook": lambda model: model.lm_head.register_forward_pre_hook(lambda _, x: (x[0] * 0.9,)),
    "dropout in a hook": lambda model: model.lm_head.register_forward_hook(
        lambda head, _given, out: F.dropout(out, 0.1, head.training)
    ),
    "hook of the model": lambda model: model.register_forward_hook(
        lambda _, _given, out: setattr(out, "logits", out.logits * 2)
    ),
    "learned scale": replaced(ScaledHead),
    "adapter": replaced(AdaptedHead),
    "dropout": replaced(DroppedHead),
    "bias after it": with_a_bias_after_the_head,
    "forward replaced": with_another_forward,
    "adapter around it": replaced(nn.Sequential),
    "weight_norm by hook": lambda model: nn.utils.weight_norm(model.lm_head),
    "spectral_norm by hook": lambda model: nn.utils.spectral_norm(model.lm_head),
}


@both_models
@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_a_head_that_does_more_than_its_weight_is_noticed(
    make: Callable[..., Any], name: str
) -> None:
    """The head was compared with itself, and GPT-2's not at all."""
    model = make()
    CHANGES[name](model)
    assert head_problem(model) is not None


@both_models
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_scale_is_noticed_in_half_precision(make: Callable[..., Any], dtype: Any) -> None:
    model = make().to(dtype)
    assert has_linear_head(model)
    hooked(lambda logits: logits * 1.05)(model)
    assert not has_linear_head(model)


@both_models
@pytest.mark.parametrize(
    "change",
    [
        zeroed,
        replaced(RenamedHead),
        replaced(lambda head: nn.Linear(head.in_features, head.out_features + 1)),
        lambda model: nn.utils.parametrizations.weight_norm(model.lm_head),
        lambda model: nn.utils.parametrizations.spectral_norm(model.lm_head),
        hooked(lambda logits: logits),
    ],
)
def test_a_head_that_is_linear_is_accepted(
    make: Callable[..., Any], change: Callable[[Any], Any]
) -> None:
    model = make()
    change(model)
    assert head_problem(model) is None


@pytest.mark.parametrize(
    ("model_type", "changes", "linear"),
    [
        ("cohere", {"logit_scale": 0.0625}, False),
        ("cohere", {"logit_scale": 1.0}, True),
        ("gemma2", {"head_dim": 8, "final_logit_softcapping": None}, True),
        ("gemma2", {"head_dim": 8, "final_logit_softcapping": 30.0}, True),
        ("llama", {"final_logit_softcapping": 30.0}, False),  # in the config, and not applied
        ("gptj", {"rotary_dim": 4}, True),  # a bias
        ("bloom", {}, True),
        ("mamba", {}, True),
        ("bert", {"is_decoder": True}, False),  # a layer between body and output layer
    ],
)
def test_architectures(model_type: str, changes: dict[str, Any], linear: bool) -> None:
    assert has_linear_head(llama(model_type, **changes)) == linear


def test_the_model_is_left_as_it_was() -> None:
    model = gpt2(dropout=0.1).train()
    model.transformer.h[0].eval()
    nn.utils.parametrizations.spectral_norm(model.lm_head)  # its buffers change in training
    state, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    parameters, attributes = list(model.parameters()), [set(vars(m)) for m in model.modules()]
    random_state = torch.get_rng_state()
    assert has_linear_head(model)
    hooked(lambda logits: logits * 2)(model)
    assert not has_linear_head(model)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [m.training for m in model.modules()] == modes
    assert [set(vars(m)) for m in model.modules()] == attributes
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
