"""`evaluate`: everything about one or more trained models on a validation split, with intervals."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sharpgpt.core.errors import UserError
from sharpgpt.evaluation.evaluator import Evaluator, check_different
from sharpgpt.evaluation.model_evaluation import evaluate_model
from sharpgpt.evaluation.options import checked_options
from sharpgpt.evaluation.paired_rows import truncation_table
from sharpgpt.evaluation.results import Result, make_names_unique
from sharpgpt.runs.resolve import resolve_model
from sharpgpt.runtime.console import console_logging
from sharpgpt.runtime.device import torch_settings_kept


class EvaluationResult(Result):
    """What `evaluate` found: the content of evaluation.json."""

    @property
    def models(self) -> list[dict[str, Any]]:
        """One entry for each model, in the order given: name, settings, statistics and the rest."""
        found: list[dict[str, Any]] = self.content["evaluations"]
        return found


def evaluate(
    models: str | Path | Sequence[str | Path],
    *,
    output: str | Path | None = None,
    **options: Any,
) -> EvaluationResult:
    """Evaluate trained models on the validation split of one text.

        result = evaluate("outputs/plain", dataset="tinyshakespeare", device="cuda")
        result.models[0]["figures"]["bits_per_byte"]["estimate"]

    Args:
        models: run folders (their newest checkpoint), checkpoints or HuggingFace models; see
            `runs.resolve`.
        output: folder for evaluation.json; None writes nothing.
        options: the fields of `EvaluationOptions`: dataset, max_seq_length, max_blocks, top_k,
            batch_size, num_texts, num_tokens, prompt, seed, device, dtype.

    Raises:
        ConfigError: options that are not allowed, all of them.
        UserError: a model or the text cannot be read, or they do not belong together.
    """
    checked = checked_options(options, output=output)
    given = [models] if isinstance(models, str | Path) else list(models)
    folders = [resolve_model(path) for path in given]
    if not folders:
        raise UserError("models: given none, allowed is at least one")
    check_different(folders, given)
    with console_logging() as console, torch_settings_kept():
        evaluator = Evaluator(checked, len(folders), console)
        found = [_facts(evaluator, folder) for folder in folders]
    make_names_unique(found)
    content = {
        "version": 1,
        "data": evaluator.text.to_dict(),
        "top_k": evaluator.top_k,
        "evaluations": found,
        "environment": evaluator.environment("evaluate"),
    }
    return EvaluationResult.written(content, output, "evaluation.json")


def _facts(evaluator: Evaluator, folder: Path) -> dict[str, Any]:
    """One model, which is not kept in memory."""
    with evaluator.opened(folder) as (saved, passes):
        evaluation = evaluate_model(passes)
        truncation = truncation_table(passes)
    return evaluator.facts(saved, evaluation, judge=saved) | {"truncation": truncation}
