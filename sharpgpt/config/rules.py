"""The rules between the settings of a run, and the positions that are penalised."""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from sharpgpt.config.architectures import GPT2_POSITIONS, GPT2_SIZES, GPT2_VOCABULARY
from sharpgpt.config.options import shown


def broken_rules(config: Any) -> Iterable[tuple[tuple[str, ...], str]]:
    """(the settings concerned, the problem) for each rule that a `TrainingConfig` breaks."""
    size = GPT2_SIZES.get(config.model_name)
    if size:
        width, heads = config.n_embd or size.n_embd, config.n_head or size.n_head
        if width % heads:
            yield (
                ("n_embd", "n_head", "model_name"),
                f"n_embd: given {width} with n_head {heads}, allowed is a multiple of n_head, "
                f"such as {max(1, round(width / heads)) * heads}",
            )
        if config.max_seq_length > GPT2_POSITIONS:
            yield (
                ("max_seq_length", "model_name"),
                f"max_seq_length: given {config.max_seq_length}, allowed for {config.model_name} "
                f"is at most {GPT2_POSITIONS}",
            )
    if config.tokenizer == "gpt2" and config.top_k > GPT2_VOCABULARY:
        yield (
            ("top_k", "tokenizer"),
            f"top_k: given {config.top_k}, allowed is at most the vocabulary size, "
            f"{GPT2_VOCABULARY} for the gpt2 tokenizer",
        )
    try:
        penalised_positions(config.penalty_positions, config.max_seq_length)
    except ValueError as error:
        yield ("penalty_positions", "max_seq_length"), f"penalty_positions: {error}"
    yield from _broken_rules_of_entropy(config)
    if config.run_name is not None and not is_folder_name(config.run_name):
        yield (
            ("run_name",),
            f"run_name: given {shown(config.run_name)}, allowed is a plain folder name: up to 200 "
            "letters, digits, '_', '-', '.', '+', '=' (240 bytes in UTF-8), the first a letter, "
            "digit or '_', the last no '.', and none that Windows reserves, such as con or nul.txt",
        )
    if config.resume == "auto" and config.run_name is None:
        yield (
            ("resume", "run_name"),
            "resume: given 'auto' without run_name; auto finds the run by its name, so set "
            "run_name too",
        )
    whole, first = config.gradient_accumulation_steps, config.batch_warmup_start
    if config.batch_warmup_steps and whole % first:
        yield (
            ("batch_warmup_start", "batch_warmup_steps", "gradient_accumulation_steps"),
            f"batch_warmup_start: given {first} with gradient_accumulation_steps {whole}, allowed "
            f"is a divisor of it, such as {math.gcd(first, whole)}",
        )
    if config.document_boundaries == "respect" and config.tokenizer == "char":
        yield (
            ("document_boundaries", "tokenizer"),
            "document_boundaries: given respect with tokenizer char, which has no end-of-text "
            "token; allowed with it is ignore",
        )


def _broken_rules_of_entropy(config: Any) -> Iterable[tuple[tuple[str, ...], str]]:
    low, high = config.penalty_weight_bounds
    if not low < high:
        yield (
            ("penalty_weight_bounds",),
            f"penalty_weight_bounds: given {low:g} and {high:g}, allowed is a smaller one first",
        )
    target, weight = config.entropy_target, config.penalty_weight
    if target is None:
        return
    if config.penalty_schedule != "constant":
        yield (
            ("entropy_target", "penalty_schedule"),
            f"entropy_target: given with penalty_schedule {config.penalty_schedule}, allowed is "
            "constant: the weight follows the entropy and no schedule",
        )
    if not weight or not low <= weight <= high:
        yield (
            ("entropy_target", "penalty_weight", "penalty_weight_bounds"),
            f"penalty_weight: given {weight:g} with entropy_target, allowed is a weight from "
            f"{low:g} to {high:g} (penalty_weight_bounds) other than 0, from which it starts, such "
            "as 0.01",
        )
    if config.tokenizer == "gpt2" and target >= math.log(GPT2_VOCABULARY):
        yield (
            ("entropy_target", "tokenizer"),
            f"entropy_target: given {target:g}, allowed is less than the largest entropy over "
            f"{GPT2_VOCABULARY} tokens, {math.log(GPT2_VOCABULARY):.2f} nats",
        )


EFFECT_ONLY_WITH = {
    "lr_decay_fraction": ("lr_schedule", "wsd"),
    "lr_decay_steps": ("lr_schedule", "wsd"),
    "muon_learning_rate": ("optimizer", "muon"),
    "muon_momentum": ("optimizer", "muon"),
    "muon_momentum_warmup_steps": ("optimizer", "muon"),
    "muon_nesterov": ("optimizer", "muon"),
    "muon_weight_decay": ("optimizer", "muon"),
    "muon_ns_steps": ("optimizer", "muon"),
    "muon_normalization": ("optimizer", "muon"),
    "muon_split_qkv": ("optimizer", "muon"),
}
"""Settings that another one must have a value for."""


def settings_without_effect(config: Any) -> list[str]:
    """A sentence for each setting that is not its default and that nothing reads.

    No error: a sweep, or a study of two optimizers, gives all its runs the same settings.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    without = (
        ["batch_warmup_start has no effect without batch_warmup_steps"]
        if config.batch_warmup_start != defaults["batch_warmup_start"]
        and not config.batch_warmup_steps
        else []
    )
    bounds = config.penalty_weight_bounds
    if bounds != defaults["penalty_weight_bounds"] and config.entropy_target is None:
        without.append("penalty_weight_bounds has no effect without entropy_target")
    return without + [
        f"{name} {shown(getattr(config, name))} has no effect without {other} {value}"
        for name, (other, value) in EFFECT_ONLY_WITH.items()
        if getattr(config, name) != defaults[name] and getattr(config, other) != value
    ]


_RESERVED = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9¹²³])(\..*)?", re.IGNORECASE)
"""What Windows takes for a device, whatever follows the dot."""


def is_folder_name(name: str) -> bool:
    """Whether every system can make, and open, a folder of this name inside another."""
    return (
        re.fullmatch(r"\w[\w.+=-]{0,199}", name) is not None
        and len(name.encode("utf-8", errors="replace")) <= 240
        and not name.endswith(".")
        and not _RESERVED.fullmatch(name)
    )


def code_in_file(settings: Mapping[str, Any], path: Any) -> list[str]:
    """The problem with a penalty that a file names by an import path: importing runs it."""
    name = settings.get("penalty_type")
    if not (isinstance(name, str) and ":" in name):
        return []
    return [
        f"penalty_type: given {shown(name)} in {path}: what is there would be imported and run; "
        "if you trust it, give --penalty_type yourself, or --allow_import (in Python "
        "allow_import=True)"
    ]


def penalised_positions(text: str, block_length: int) -> tuple[int, int]:
    """First and last penalised position of a block of N = `block_length` tokens, both inclusive.

    `text` is `first:last`, each a number or N, N-2, N/2 and the like. The last position that
    predicts a token of the block is N-2. Raises ValueError outside 0 <= first <= last <= N-2.
    """

    def position(part: str) -> int:
        match = re.fullmatch(r"(N)?(?:([-/])?(\d+))?", part.replace(" ", ""))
        if not match or not part.strip() or bool(match[1]) == (match[3] and not match[2]):
            raise ValueError(
                f"given {text!r}, allowed is first:last, inclusive, each a number, N, N-2 or N/2"
            )
        number = int(match[3] or 0)
        if not match[1]:
            return number
        if match[2] == "/" and number == 0:
            raise ValueError(f"given {text!r}, which divides by zero")
        return block_length // number if match[2] == "/" else block_length - number

    first_text, colon, last_text = text.partition(":")
    if not colon:
        raise ValueError(
            f"given {text!r}, allowed is first:last, inclusive, each a number, N, N-2 or N/2"
        )
    first, last = position(first_text), position(last_text)
    if not 0 <= first <= last <= block_length - 2:
        raise ValueError(
            f"given {text!r}, which is {first}:{last} with N = max_seq_length = {block_length}; "
            f"allowed is 0 <= first <= last <= N-2 = {block_length - 2}"
        )
    return first, last
