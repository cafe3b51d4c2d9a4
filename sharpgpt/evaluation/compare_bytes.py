"""The content of comparison.json for models with different tokenizers (byte_comparison.py)."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from sharpgpt.config import TrainingConfig
from sharpgpt.core.errors import UserError
from sharpgpt.core.numbers import counted
from sharpgpt.data.load import load_text
from sharpgpt.data.prepare.automatic import is_one_text
from sharpgpt.data.sources.split import single_text_cut, text_val_fraction
from sharpgpt.evaluation.arms import BASELINE, ComparedArm, ComparedRun
from sharpgpt.evaluation.byte_comparison import (
    ByteSpans,
    bits_of_model,
    byte_spans,
    difference_in_bits,
    nats_of_groups,
)
from sharpgpt.evaluation.groups import Floats
from sharpgpt.evaluation.options import EvaluationOptions
from sharpgpt.evaluation.results import make_names_unique
from sharpgpt.evaluation.saved_model import load_model, require_linear_head
from sharpgpt.evaluation.validation_text import tokenizer_fingerprint
from sharpgpt.evaluation.verdict import ERROR_RATE, compare
from sharpgpt.runtime.console import console_logging
from sharpgpt.runtime.device import choose_device, torch_settings_kept
from sharpgpt.runtime.environment import describe_environment

logger = logging.getLogger(__name__)


def have_several_tokenizers(runs: Sequence[ComparedRun]) -> bool:
    """Whether the models' tokenizers differ; those of runs of one text and setting do not."""
    known = [
        None if run.record is None else (run.record.settings["tokenizer"], run.record.text_sha256)
        for run in runs
    ]
    if None not in known and len(set(known)) == 1:
        return False
    return len({tokenizer_fingerprint(run.folder) for run in runs}) > 1


def compare_bytes(
    baselines: Sequence[ComparedRun], arms: Sequence[ComparedArm], options: EvaluationOptions
) -> dict[str, Any]:
    """Compare each run with its baseline in bits a byte.

    Raises:
        UserError: the text or a model cannot be read, or the text is too short.
    """
    spans = _spans(baselines[0], options)
    device = choose_device(TrainingConfig(device=options.device, dtype=options.dtype))
    nats: dict[str, Floats] = {}
    compared = [run for arm in arms for run in arm.runs]
    with console_logging(), torch_settings_kept():
        torch.set_float32_matmul_precision("highest")
        everyone = [*baselines, *compared]
        for number, run in enumerate(everyone, 1):
            saved = load_model(run.folder, device.torch_device)
            require_linear_head(saved)
            logger.info(
                "Evaluating %s (%s of %s)", saved.name, number, len(baselines) + len(compared)
            )
            nats_G = nats[str(run.folder)] = nats_of_groups(saved, spans)
            run.facts = {
                "name": saved.name,
                "path": str(run.folder),
                "step": saved.step,
                "seed": run.seed,
                "penalty": (run.settings or {}).get("penalty_type"),
                "penalty_weight": run.weight,
                "num_parameters": sum(p.numel() for p in saved.causal_lm.parameters()),
                "settings": None,
                "figures": {"bits_per_byte": bits_of_model(nats_G, spans)},
            }
    make_names_unique([run.facts for run in everyone])
    return {
        "version": 1,
        "data": {
            "name": spans.name,
            "num_spans": len(spans.spans),
            "num_bytes": int(spans.num_bytes.sum()),
            "unit": "bits a byte",
        },
        "error_rate": ERROR_RATE,
        "notes": [note for arm in arms for note in arm.notes],
        "baseline": {"name": BASELINE, "runs": [run.facts for run in baselines]},
        "models": [_arm(arm, nats, spans) for arm in arms],
        "settings": [],
        "curves": {},
        "environment": describe_environment(device),
    }


def _spans(baseline: ComparedRun, options: EvaluationOptions) -> ByteSpans:
    dataset = options.dataset or (baseline.settings or {}).get("dataset")
    if not isinstance(dataset, str) or not is_one_text(dataset):
        raise UserError(
            f"dataset: given {dataset}, allowed for models with different tokenizers is a named "
            "text or one text file of at most 64 MiB"
        )
    source = load_text(dataset)
    cut = single_text_cut(len(source.text), text_val_fraction(None))
    return byte_spans(source.name, source.text[cut:], options.max_blocks)


def _arm(arm: ComparedArm, nats: dict[str, Floats], spans: ByteSpans) -> dict[str, Any]:
    differences = [
        difference_in_bits(nats[str(run.folder)], nats[str(run.baseline.folder)], spans)
        for run in arm.runs
        if run.baseline is not None
    ]
    found = compare(differences)
    sentence = (
        "The tokenizers differ, so entropies cannot be made equal and there is no verdict. On the "
        f"same {counted(len(spans.spans), 'span')} of text the model needs "
        f"{found.estimate:+.4f} bits a byte beside the baseline "
        f"({100 * (1 - ERROR_RATE):g}% interval {found.low:+.4f} to {found.high:+.4f})."
    )
    return {
        "name": arm.name,
        "penalty": (arm.runs[0].settings or {}).get("penalty_type"),
        "penalty_weight": arm.runs[0].weight,
        "verdict": None,
        "sentence": sentence,
        "num_seeds": len(differences),
        "bits_per_byte": asdict(found) | {"call": None, "p_value": None},
        "notes": arm.notes,
        "runs": [run.facts for run in arm.runs],
        "baselines": [run.baseline.facts["path"] for run in arm.runs if run.baseline],
    }
