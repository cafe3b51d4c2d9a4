"""Build a HuggingFace causal LM with random weights.

The architecture comes from HuggingFace, so a checkpoint is a HuggingFace folder and generation is
HuggingFace's.

GPT-2's activation `gelu_new` is eight element-wise operations; `gelu_pytorch_tanh` is the same
function in one (differences of 5e-7 in float32). Models are built with the latter and keep the
former in their config, so that a checkpoint loads everywhere under the original name.
"""

from typing import Any, cast

import torch
from torch import nn

from sharpgpt.config import TrainingConfig
from sharpgpt.config.architectures import GPT2_POSITIONS, GPT2_SIZES, GPT2_VOCABULARY, MAX_LAYERS
from sharpgpt.core.errors import UserError
from sharpgpt.core.files import user_path
from sharpgpt.core.hub import is_hub_name, offline_variable
from sharpgpt.model.folder import refuse_strange_files
from sharpgpt.model.head import head_problem, is_meta
from sharpgpt.model.quiet import quiet_transformers
from sharpgpt.model.softcap import FIELD, apply_softcap


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
    logit_softcap: float | None = None,
    seed: int = 42,
) -> nn.Module:
    """A HuggingFace causal LM with random weights under `seed`, on the CPU in float32.

    The model has exactly `max_seq_length` positions: more would never be trained.

    Args:
        model_name: gpt2, gpt2-medium, gpt2-large, gpt2-xl (no network needed), or a local folder or
            hub name whose config.json describes any causal LM with a linear output layer.
        n_layer, n_head, n_embd: replace the architecture's; None keeps it.
        dropout: probability, used wherever the architecture has dropout.
        vocab_size: V, the size of the tokenizer's vocabulary.
        max_seq_length: T, at most the architecture's number of positions.
        end_of_text_id: token that ends a text, or None.
        logit_softcap: c of the soft cap of the logits (softcap.py); None keeps the architecture's.
        seed: seed of the weights; the global random state does not change.

    Raises:
        UserError: unknown name, sizes that the architecture rejects, an output layer that is not
            one linear map of the last hidden state.
    """
    with quiet_transformers():
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
        if logit_softcap is not None:
            setattr(config, FIELD, logit_softcap)
        check_layers(config)
        with quiet_transformers(), torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which would seed every other device too.
            torch.default_generator.manual_seed(seed)
            model = _from_config(config)
            problem = _head_problem(model, config)
    except Exception as error:  # whatever the code of an architecture raises
        raise UserError(
            f"model_name: {model_name!r} with {changes} cannot be built as a causal LM: {error}"
        ) from error
    if problem:
        raise UserError(f"model_name: given {model_name!r} ({type(model).__name__}): {problem}")
    return model


def check_layers(config: Any) -> None:
    """Raise ValueError for so many layers that building them would take hours at any width."""
    num_layers = getattr(config, "num_hidden_layers", None) or 0
    if num_layers > MAX_LAYERS:
        raise ValueError(f"given {num_layers} layers, allowed are at most {MAX_LAYERS}")


def plain_config(config: Any) -> Any:
    """The HuggingFace config without what makes transformers fetch kernels and run them.

    With its `kernels` package installed it does so for attention, experts or quantisation that
    config.json names. Attention and experts are transformers' own choice instead, the same
    functions. Raises ValueError for quantised weights.
    """
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError("its weights are quantised, allowed are weights in floating point")
    # Both set the configs inside this one too.
    config._attn_implementation = None
    config._experts_implementation = None
    return config


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
        logit_softcap=config.logit_softcap,
        seed=config.seed,
    )


def _architecture(model_name: str) -> Any:
    """The HuggingFace config of an architecture: from GPT2_SIZES, a local folder, or the hub."""
    if size := GPT2_SIZES.get(model_name):
        # The narrow import is seconds faster than `from transformers import ...`.
        from transformers.models.gpt2.configuration_gpt2 import GPT2Config

        return GPT2Config(n_layer=size.n_layer, n_head=size.n_head, n_embd=size.n_embd)
    from transformers import AutoConfig

    folder, variable = user_path(model_name), offline_variable()
    try:
        place = str(folder) if folder.exists() else model_name
        if variable and not folder.exists():
            # With local_files_only transformers 5.23 still asks the hub, for a revision.
            from huggingface_hub import try_to_load_from_cache

            file = try_to_load_from_cache(place, "config.json")
            if not isinstance(file, str):
                raise OSError("not in the cache")
            place = file.removesuffix("config.json")
        if folder.is_dir():
            refuse_strange_files(folder)
        return AutoConfig.from_pretrained(place, trust_remote_code=False)
    except Exception as error:  # transformers raises anything for a config.json that is none
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        what = "folder" if folder.exists() else "name"
        if not folder.exists() and not is_hub_name(model_name, short=True):
            what, reason = (
                "path",
                "there is no such folder, and no model of the hub has such a name",
            )
            if folder.parent.is_dir():
                reason = f"there is a folder {folder.parent}, and it has no {folder.name}"
        elif variable and what == "name":
            reason = f"{variable} is set, and it is not in the hub's cache"
        raise UserError(
            f"model_name: given the {what} {model_name!r}, which gives no architecture: {reason}. "
            f"Allowed are {', '.join(GPT2_SIZES)}, a folder with a HuggingFace config.json, or a "
            "name on the HuggingFace hub (which needs a network)"
        ) from None


def _changed(
    config: Any, changes: dict[str, int], dropout: float, end_of_text_id: int | None
) -> Any:
    """A new config with other sizes, so that what depends on them is derived again."""
    settings = config.to_dict()
    if {"hidden_size", "num_attention_heads"} & changes.keys():
        settings.pop("head_dim", None)
    if "num_hidden_layers" in changes:
        settings.pop("layer_types", None)
    attribute_map = getattr(config, "attribute_map", {})
    settings |= {attribute_map.get(name, name): value for name, value in changes.items()}
    # A token of padding would have a zero embedding that never learns.
    # The weights will be random, in float32.
    settings.pop("quantization_config", None)
    settings |= {"bos_token_id": end_of_text_id, "eos_token_id": end_of_text_id}
    settings["pad_token_id"] = None
    places = [
        name
        for name, value in settings.items()
        if name.endswith(("dropout", "pdrop")) and isinstance(value, int | float)
    ]
    if dropout > 0 and not places:
        raise ValueError(f"dropout: given {dropout}, but this architecture has no dropout")
    return plain_config(type(config)(**settings | dict.fromkeys(places, dropout)))


def _from_config(config: Any) -> nn.Module:
    """The model of a HuggingFace config, with random weights."""
    if config.model_type != "gpt2":
        from transformers import AutoModelForCausalLM

        model = cast(Any, AutoModelForCausalLM.from_config(config, dtype=torch.float32))
        apply_softcap(model)
        return cast(nn.Module, model)
    from transformers.models.gpt2.modeling_gpt2 import GPT2LMHeadModel

    model = cast(Any, GPT2LMHeadModel)(config)
    use_one_operation_gelu(model)
    apply_softcap(model)
    # HuggingFace picks the loss by class name, which torch.compile cannot trace.
    model.loss_type = "ForCausalLM"
    return cast(nn.Module, model)


def _head_problem(model: nn.Module, config: Any) -> str | None:
    """`head_problem` of a model that was just made; of a dry run's, by one with values."""
    if config.model_type == "gpt2":  # made of classes that are known; comparing takes time
        return None
    if is_meta(model):
        small = _changed(config, {"num_hidden_layers": 1, "vocab_size": 64}, 0.0, None)
        with torch.device("cpu"):
            model = _from_config(small)
    return head_problem(model)


def use_one_operation_gelu(causal_lm: nn.Module) -> None:
    """Replace `gelu_new` in a model by `gelu_pytorch_tanh`; the config keeps its name."""
    from transformers.activations import ACT2FN, NewGELUActivation

    for module in causal_lm.modules():
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, cast(Any, ACT2FN)["gelu_pytorch_tanh"])
