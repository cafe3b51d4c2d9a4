"""GPT-2 checkpoints whose every prediction depends on the last token alone: the truth is known."""

from pathlib import Path

import torch

from sharpgpt.data.tokenizer import CharTokenizer

CHARACTERS = "abcdefghijklmnop"
BLOCK = 17


def wte_of(seed: int = 0) -> torch.Tensor:
    """Embeddings [V, D] from which a bigram model is made."""
    return 0.5 * torch.randn(len(CHARACTERS), 8, generator=torch.Generator().manual_seed(seed))


def table(wte_VD: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """The logits [V, V] of `save_model`'s model: row t is the prediction after token t."""
    hidden_VD = torch.nn.functional.layer_norm(wte_VD, wte_VD.shape[1:]) * scale
    return hidden_VD @ wte_VD.T


def save_model(folder: Path, wte_VD: torch.Tensor, scale: float = 1.0) -> Path:
    """A GPT-2 whose block adds nothing: logits = wte @ (scale * layer_norm(wte[token]))."""
    from transformers import GPT2Config, GPT2LMHeadModel

    vocab_size, width = wte_VD.shape
    config = GPT2Config(
        vocab_size=vocab_size, n_positions=32, n_embd=width, n_layer=1, n_head=1,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.transformer.wte.weight.copy_(wte_VD)
        model.transformer.ln_f.weight.fill_(scale)
    model.save_pretrained(folder)
    CharTokenizer(CHARACTERS).to_huggingface(32).save_pretrained(folder)
    return folder


def save_text(path: Path, logits_VV: torch.Tensor, num_val_tokens: int, seed: int = 0) -> Path:
    """A chain drawn from softmax(logits), whose last tenth has `num_val_tokens` tokens."""
    generator = torch.Generator().manual_seed(seed)
    # Many chains side by side are faster than one; the validation part is cut from drawn text.
    chains = 50
    probs_VV = logits_VV.double().softmax(-1)
    tokens = [torch.randint(len(CHARACTERS), (chains,), generator=generator)]
    for _ in range(-(-num_val_tokens // chains)):
        tokens.append(torch.multinomial(probs_VV[tokens[-1]], 1, generator=generator).flatten())
    drawn = torch.stack(tokens[1:], dim=1).flatten()[:num_val_tokens].tolist()
    val = "".join(CHARACTERS[token] for token in drawn)
    path.write_text(val * 9 + val, encoding="utf-8")
    return path
