"""A HuggingFace causal LM with random weights, and the sharpness loss inside its forward.

The architecture comes from HuggingFace, so a checkpoint is a HuggingFace folder and generation is
theirs. The loss is computed inside the forward of the module that is trained (`SharpnessLM`): hooks
of data-parallel wrappers then see the use of the output layer, and the logits never leave it.

GPT-2's activation `gelu_new` is eight element-wise operations; `gelu_pytorch_tanh` is the same
function in one (differences of 5e-7 in float32). Models are built with the latter and keep the
former in their config, so that a checkpoint loads anywhere as what it is.

Shapes: B batch, T positions in a block, D width, V vocabulary, N = B * (T - 1) rows.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from sharpgpt.config import TrainingConfig, penalised_positions
from sharpgpt.config.architectures import GPT2_POSITIONS, GPT2_SIZES, GPT2_VOCABULARY, MOST_LAYERS
from sharpgpt.files import UserError
from sharpgpt.sharpness import SharpnessOutput, linear_sharpness_loss, reference

LINEAR_LOSSES: dict[str, Callable[..., SharpnessOutput]] = {
    "fused": linear_sharpness_loss,
    "reference": reference.linear_sharpness_loss,
}


class SharpnessLM(nn.Module):
    """A causal LM whose forward returns the sharpness loss of a batch of blocks.

    `causal_lm` is the HuggingFace model itself, with `base_model` (tokens to hidden states) and an
    output layer that is one `nn.Linear`. With `boundary_id`, the end-of-text token, no position
    attends to a document other than its own.
    """

    def __init__(
        self,
        causal_lm: nn.Module,
        *,
        penalty: str,
        top_k: int,
        penalty_positions: str = "0:N-2",
        loss: str = "fused",
        boundary_id: int | None = None,
    ) -> None:
        super().__init__()
        self.causal_lm = causal_lm
        self.penalty = penalty
        self.top_k = top_k
        self.penalty_positions = penalty_positions
        self.linear_loss = LINEAR_LOSSES[loss]
        self.boundary_id = boundary_id

    def forward(
        self,
        input_ids_BT: Tensor,
        *,
        penalty_weight: float | Tensor = 0.0,
        normalizer: float | None = None,
        per_row: bool = False,
    ) -> SharpnessOutput:
        """The loss of predicting tokens 1..T-1 of each block from those before them.

        `normalizer` is the number of rows in the whole optimizer step, over all micro-batches:
        the loss is the sum over this batch's rows divided by it. None takes this batch's own rows.
        """
        causal_lm = cast(Any, self.causal_lm)
        num_blocks, block_length = input_ids_BT.shape
        attention = {}
        if self.boundary_id is not None:
            attention["attention_mask"] = document_mask(input_ids_BT, self.boundary_id)
        hidden_BTD = causal_lm.base_model(input_ids=input_ids_BT, use_cache=False, **attention)[0]
        head = causal_lm.get_output_embeddings()
        return self.linear_loss(
            hidden_BTD[:, :-1].flatten(0, 1),
            head.weight,
            input_ids_BT[:, 1:].flatten(),
            bias=head.bias,
            penalty=self.penalty,
            penalty_weight=penalty_weight,
            top_k=self.top_k,
            penalty_mask=self._penalty_mask(num_blocks, block_length, input_ids_BT.device),
            normalizer=normalizer,
            per_row=per_row,
        )

    def _penalty_mask(self, num_blocks: int, length: int, device: torch.device) -> Tensor | None:
        """Boolean [N], true at the penalised positions; None when those are all."""
        first, last = penalised_positions(self.penalty_positions, length)
        if (first, last) == (0, length - 2):
            return None
        position_T = torch.arange(length - 1, device=device)
        return ((position_T >= first) & (position_T <= last)).repeat(num_blocks)


def document_mask(input_ids_BT: Tensor, boundary_id: int) -> Tensor:
    """Which positions each position may attend to: boolean [B, 1, T, T], true for earlier ones of
    its own document.

    The end-of-text token counts to the document after it: the first token of a document is
    predicted from that token alone, and the token itself from the document that it ends.
    """
    document_BT = (input_ids_BT == boundary_id).cumsum(1)
    same_BTT = document_BT[:, :, None] == document_BT[:, None, :]
    return same_BTT.tril()[:, None]


def create_gpt2_model(
    model_name: str = "gpt2",
    *,
    n_layer: int | None = None,
    n_head: int | None = None,
    n_embd: int | None = None,
    dropout: float = 0.0,
    vocab_size: int = GPT2_VOCABULARY,
    max_seq_length: int = GPT2_POSITIONS,
    end_of_text_id: int | None = 50256,
    seed: int = 42,
) -> nn.Module:
    """A HuggingFace causal LM with weights drawn at random under `seed`, on the CPU in float32.

    The model has exactly `max_seq_length` positions: those beyond it would never be trained.

    Args:
        model_name: gpt2, gpt2-medium, gpt2-large, gpt2-xl (no network needed), or a local folder or
            hub name whose config.json describes any causal LM with a linear output layer.
        n_layer, n_head, n_embd: replace the architecture's; None keeps it.
        dropout: probability, used wherever the architecture has dropout.
        vocab_size: V, the size of the tokenizer's vocabulary.
        max_seq_length: T, at most the architecture's number of positions.
        end_of_text_id: token that ends a text, or None.
        seed: seed of the weights; the global random state is left as it was.

    Raises:
        UserError: unknown name, sizes that the architecture refuses, an output layer that is not
            one linear map of the last hidden state.
    """
    config = _architecture(model_name)
    limit = getattr(config, "max_position_embeddings", None)
    if limit is not None and max_seq_length > limit:
        raise UserError(
            f"max_seq_length: given {max_seq_length}, allowed for {model_name} is at most {limit}"
        )
    sizes = {
        "num_hidden_layers": n_layer,
        "num_attention_heads": n_head,
        "hidden_size": n_embd,
        "max_position_embeddings": max_seq_length if limit is not None else None,
        "vocab_size": vocab_size,
    }
    changes = {name: value for name, value in sizes.items() if value is not None}
    try:
        config = _changed(config, changes, dropout, end_of_text_id)
        check_layers(config)
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which would seed every other device too.
            torch.default_generator.manual_seed(seed)
            model = _from_config(config)
        linear = has_linear_head(model)
    except Exception as error:  # whatever the code of an architecture raises
        raise UserError(
            f"model_name: {model_name!r} with {changes} cannot be built as a causal LM: {error}"
        ) from error
    if not linear:
        raise UserError(
            f"model_name: the logits of {model_name!r} ({type(model).__name__}) are not a plain "
            "linear map of its last hidden state; allowed are causal LMs whose output layer is one "
            "nn.Linear, such as GPT-2, Llama or Qwen"
        )
    return model


def check_layers(config: Any) -> None:
    """Raise ValueError for an architecture that would be built for hours, whatever its width."""
    num_layers = getattr(config, "num_hidden_layers", None) or 0
    if num_layers > MOST_LAYERS:
        raise ValueError(f"given {num_layers} layers, allowed are at most {MOST_LAYERS}")


def create_model(config: TrainingConfig, vocab_size: int, end_of_text_id: int | None) -> nn.Module:
    """`create_gpt2_model` with the settings of a run."""
    return create_gpt2_model(
        config.model_name,
        n_layer=config.n_layer,
        n_head=config.n_head,
        n_embd=config.n_embd,
        dropout=config.dropout,
        vocab_size=vocab_size,
        max_seq_length=config.max_seq_length,
        end_of_text_id=end_of_text_id,
        seed=config.seed,
    )


def _architecture(model_name: str) -> Any:
    """The HuggingFace config of an architecture: our own table, a local folder, or the hub."""
    if size := GPT2_SIZES.get(model_name):
        # The narrow import is seconds faster than `from transformers import ...`.
        from transformers.models.gpt2.configuration_gpt2 import GPT2Config

        return GPT2Config(n_layer=size.n_layer, n_head=size.n_head, n_embd=size.n_embd)
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(model_name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        what = "folder" if Path(model_name).exists() else "name"
        raise UserError(
            f"model_name: given the {what} {model_name!r}, which gives no architecture ({reason}). "
            f"Allowed are {', '.join(GPT2_SIZES)}, a folder with a HuggingFace config.json, or a "
            "name on the HuggingFace hub (which needs a network)"
        ) from None


def _changed(
    config: Any, changes: dict[str, int], dropout: float, end_of_text_id: int | None
) -> Any:
    """The config made anew with other sizes, so that what follows from them is derived again."""
    settings = config.to_dict()
    if {"hidden_size", "num_attention_heads"} & changes.keys():
        settings.pop("head_dim", None)
    if "num_hidden_layers" in changes:
        settings.pop("layer_types", None)
    attribute_map = getattr(config, "attribute_map", {})
    settings |= {attribute_map.get(name, name): value for name, value in changes.items()}
    # A token of padding would have a zero embedding that never learns.
    settings |= {"bos_token_id": end_of_text_id, "eos_token_id": end_of_text_id}
    settings["pad_token_id"] = None
    places = [
        name
        for name, value in settings.items()
        if name.endswith(("dropout", "pdrop")) and isinstance(value, int | float)
    ]
    if dropout > 0 and not places:
        raise ValueError(f"dropout: given {dropout}, but this architecture has no dropout")
    return type(config)(**settings | dict.fromkeys(places, dropout))


def _from_config(config: Any) -> nn.Module:
    """The model of a HuggingFace config, with random weights."""
    if config.model_type != "gpt2":
        from transformers import AutoModelForCausalLM

        return cast(nn.Module, AutoModelForCausalLM.from_config(config, dtype=torch.float32))
    from transformers.models.gpt2.modeling_gpt2 import GPT2LMHeadModel

    with _one_operation_gelu(config):
        model = cast(Any, GPT2LMHeadModel)(config)
    # HuggingFace picks the loss by class name, which torch.compile cannot trace.
    model.loss_type = "ForCausalLM"
    return cast(nn.Module, model)


@contextlib.contextmanager
def _one_operation_gelu(config: Any) -> Iterator[None]:
    """Within the block `gelu_new` is built as `gelu_pytorch_tanh`; the config keeps its name."""
    original = config.activation_function
    if original == "gelu_new":
        config.activation_function = "gelu_pytorch_tanh"
    try:
        yield
    finally:
        config.activation_function = original


def use_one_operation_gelu(causal_lm: nn.Module) -> None:
    """Replace `gelu_new` in a loaded model by the same function in one operation; for reading only,
    so the config keeps its name."""
    from transformers.activations import ACT2FN, NewGELUActivation

    for module in causal_lm.modules():
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, cast(Any, ACT2FN)["gelu_pytorch_tanh"])


@torch.no_grad()
def has_linear_head(model: nn.Module) -> bool:
    """Whether the logits are one linear map of the last hidden state.

    Some architectures scale or cap their logits after the output layer; a loss computed from hidden
    states and weight would silently train something else. A cap shows at large logits only, so the
    weight is enlarged for the comparison. On the meta device (a dry run) nothing can be compared.
    """
    causal_lm = cast(Any, model)
    head = causal_lm.get_output_embeddings()
    if type(model).__name__ == "GPT2LMHeadModel" or (head is not None and head.weight.is_meta):
        return True
    if not isinstance(head, nn.Linear):
        return False
    probe_BT = torch.arange(4, device=head.weight.device)[None] % causal_lm.config.vocab_size
    original = head.weight.clone()
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        head.weight.mul_(300 / causal_lm(input_ids=probe_BT).logits.abs().max())
        hidden_BTD = causal_lm.base_model(input_ids=probe_BT, use_cache=False)[0]
        logits_BTV = causal_lm(input_ids=probe_BT).logits
        return torch.allclose(head(hidden_BTD), logits_BTV, rtol=1e-4)
    finally:
        head.weight.copy_(original)
        for module, mode in modes.items():
            module.training = mode
