"""`sharpgpt evaluate`: everything about one or more trained models on a validation split, with
intervals, as evaluation.json and evaluation.html."""

import argparse
import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sharpgpt.commands.progress import Progress
from sharpgpt.evaluation.model_evaluation import EvaluationText, ModelPasses, evaluate_model
from sharpgpt.evaluation.models import (
    add_common_arguments,
    batch_size,
    check_different,
    check_fits,
    chosen_top_k,
    command,
    described,
    evaluation_device,
    evaluation_text,
    generated,
    load_evaluated,
    name_apart,
    problems,
    write_content,
)
from sharpgpt.evaluation.saved_model import find_model
from sharpgpt.evaluation.validation_text import another_text_note, for_model, with_note
from sharpgpt.report.evaluation import write_evaluation
from sharpgpt.report.numbers import number
from sharpgpt.runtime.environment import describe_environment

__all__ = ["add_arguments", "evaluate", "figures_text", "problems"]

SHOWN = {
    "ce": "cross-entropy, nats",
    "perplexity": "perplexity",
    "bits_per_byte": "bits per byte",
    "accuracy": "accuracy",
    "accuracy_top_5": "accuracy, 5 guesses",
    "reciprocal_rank": "mean reciprocal rank",
    "entropy": "entropy, nats",
    "max_prob": "largest probability",
    "brier": "Brier score",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `sharpgpt evaluate`."""
    parser.add_argument(
        "checkpoints",
        nargs="+",
        metavar="CHECKPOINT",
        help="checkpoint, run folder (its newest checkpoint), or HuggingFace model folder",
    )
    parser.add_argument(
        "--output",
        help="folder of evaluation.json and evaluation.html "
        "[the run's folder for one run, else evaluation]",
    )
    add_common_arguments(parser)


def evaluate(arguments: argparse.Namespace) -> Path:
    """Evaluate, write both files, print the figures; returns the path of the page.

    Models are loaded one after the other.

    Raises:
        UserError: a model or the text cannot be read, or they do not belong together.
    """
    device = evaluation_device(arguments)
    folders = [find_model(path) for path in arguments.checkpoints]
    check_different(folders, arguments.checkpoints)
    output = _output(arguments, folders)
    text: EvaluationText | None = None
    top_k, found = 0, []
    with Progress() as progress:
        for place, folder in enumerate(folders):
            saved = load_evaluated(folder, device)
            if text is None:
                text = evaluation_text(saved, arguments)
                top_k = chosen_top_k(saved, arguments)
            check_fits(saved, text)
            if arguments.data is None:
                text = with_note(text, another_text_note(saved, text))
            progress.start(f"{saved.name} ({place + 1} of {len(folders)})", text)
            passes = ModelPasses(
                saved.causal_lm,
                device,
                for_model(saved, text),
                top_k=top_k,
                batch_size=batch_size(arguments, text),
                on_blocks=progress.advance,
            )
            with contextlib.closing(passes):
                evaluation = evaluate_model(passes)
            progress.say(f"{saved.name}: generating texts")
            generation = generated(saved, saved, text, arguments, device)
            found.append(described(saved, evaluation, generation))
    assert text is not None, "argparse asks for one checkpoint at least"
    name_apart(found)
    content = {
        "version": 1,
        "data": text.to_dict(),
        "top_k": top_k,
        "evaluations": found,
        "environment": describe_environment(device) | {"command": command("evaluate")},
    }
    write_content(output / "evaluation.json", content)
    for one in found:
        print(figures_text(one))
    print(f"Figures {output / 'evaluation.json'}")
    return write_evaluation(content, output)


def _output(arguments: argparse.Namespace, folders: Sequence[Path]) -> Path:
    if arguments.output:
        return Path(arguments.output).expanduser()
    if len(folders) == 1 and folders[0].parent.name == "checkpoints":
        return folders[0].parent.parent
    return Path("evaluation")


def figures_text(found: Mapping[str, Any]) -> str:
    """The main figures of one model for a terminal, with their 95% intervals."""
    lines = [str(found["name"])]
    for name, label in SHOWN.items():
        if interval := found["figures"].get(name):
            estimate, low, high = (number(interval[part]) for part in ("estimate", "low", "high"))
            lines.append(f"  {label:<24}{estimate:>9}   95% {low} to {high}")
    temperature, calibration = found["temperature"], found["calibration"]
    if note := temperature["note"]:
        lines.append(f"  {note}")
    lines.append(
        f"  {'best temperature':<24}{number(temperature['best']):>9}   cross-entropy there "
        f"{number(temperature['ce'])}, as it is {number(temperature['ce_unchanged'])} (report half)"
    )
    lines.append(
        f"  {'calibration error':<24}{number(calibration['unchanged']['ece']):>9}   at the best "
        f"temperature {number(calibration['best_temperature']['ece'])} (report half)"
    )
    return "\n".join(lines)
