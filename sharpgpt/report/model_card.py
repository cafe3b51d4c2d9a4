"""The README.md of a published checkpoint: what the model is, how it was trained, what is known.

    facts = read_facts(checkpoint)
    text = model_card(facts, repo_id="me/model", evaluation=run, data=data, arm=arm)

The words are in model_card.md.jinja. Everything that comes from a file is data: the template
escapes whatever it prints, so that no name and no note can become markup. No path of this machine
is on the card.
"""

import re
from collections.abc import Mapping
from typing import Any

from sharpgpt.core.numbers import counted
from sharpgpt.data.sources.aliases import ALIASES
from sharpgpt.report.arms import Json, number_of, value_at
from sharpgpt.report.model_facts import RECIPE, ModelFacts
from sharpgpt.report.pages import environment
from sharpgpt.report.statistics import CALIBRATION, intervals, validation_scope
from sharpgpt.report.visible import printable
from sharpgpt.sharpness.penalties import PENALTIES


def model_card(
    facts: ModelFacts,
    *,
    repo_id: str,
    evaluation: Json | None = None,
    data: Json | None = None,
    arm: Json | None = None,
) -> str:
    """The text of README.md.

    Args:
        facts: of the checkpoint.
        repo_id: under which it will be published.
        evaluation: its EVALUATION, from evaluation.json or comparison.json.
        data: DATA of the same file.
        arm: its ARM in comparison.json, with the verdict.
    """
    from huggingface_hub import ModelCard
    from markupsafe import Markup

    def escaped(value: object) -> object:
        return value if isinstance(value, Markup) else Markup(plain(value))

    markdown = environment(finalize=escaped)
    markdown.filters["code"] = lambda name: Markup(f"`{plain_name(str(name))}`")
    data_name = str(value_at(data, "name") or facts.data_name)
    controls = value_at(arm, "controls")
    text = markdown.get_template("model_card.md.jinja").render(
        head=Markup(_metadata(facts, repo_id, evaluation, data_name)),
        name=repo_id.rsplit("/", 1)[-1],
        repo=Markup("/".join(map(plain_name, repo_id.split("/")))),
        facts=facts,
        formula=PENALTIES[facts.penalty].formula if facts.penalty in PENALTIES else "",
        arm=arm,
        controls=controls if isinstance(controls, Mapping) else {},
        rule=_rule(arm),
        scope=validation_scope(data if isinstance(data, Mapping) else {}),
        calibration=[
            (name, error)
            for key, name in CALIBRATION.items()
            if (error := number_of(evaluation, "calibration", "unchanged", key)) is not None
        ],
        evaluation=evaluation,
        intervals=[found for found in intervals(evaluation) if found[0].is_main],
        data=data,
        data_name=data_name,
        recipe=_recipe(facts.settings),
    )
    return str(ModelCard(text))


def plain(text: object) -> str:
    """Text from a file as Markdown on one line, which reads as it is whatever characters it has."""
    one_line = printable(" ".join(str(text).split()))
    escaped = re.sub(r"([\\`*_\[\]<>|~#&$@!])", r"\\\1", one_line)
    # Without this, GitHub's Markdown makes links of bare addresses.
    return re.sub(r"(?i)(://|www\.)", lambda found: f"{found[0][0]}<!-- -->{found[0][1:]}", escaped)


def plain_name(name: str) -> str:
    """A name within code: what could end the code is left out."""
    return re.sub(r"[^\w.:+-]", "", name, flags=re.ASCII)[:200]


def _metadata(facts: ModelFacts, repo_id: str, evaluation: Json | None, data_name: str) -> str:
    """The YAML for the hub."""
    from huggingface_hub import EvalResult, ModelCardData

    dataset = str(facts.settings.get("dataset"))
    hub_name = ALIASES[dataset].repo if dataset in ALIASES else dataset
    is_on_hub = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", hub_name, re.ASCII)
    # ORG/NAME may be a folder as well: the run records the name that the hub has.
    is_hub = is_on_hub and (dataset in ALIASES or facts.data_name in (hub_name, dataset))
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=re.sub(r"[^\w.-]+", "-", data_name) or "unknown",
            dataset_name=data_name,
            dataset_split="validation",
            metric_type=statistic.hub_type,
            metric_name=statistic.words,
            metric_value=estimate,
        )
        for statistic, estimate, _, _ in intervals(evaluation)
        if statistic.hub_type
    ]
    card = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=[
            "sharpgpt",
            facts.model_type or "gpt2",
            *([facts.penalty] if facts.penalty_weight else []),
        ],
        datasets=[hub_name] if is_hub and not facts.is_stand_in else None,
        model_name=repo_id.rsplit("/", 1)[-1] if results else None,
        eval_results=results or None,
    )
    return str(card.to_yaml())


def _rule(arm: Json | None) -> str:
    """The settings of the verdict's rule, as far as they are known."""
    seeds, margin, rate = (number_of(arm, name) for name in ("num_seeds", "margin", "error_rate"))
    known = [
        None if seeds is None else counted(int(seeds), "seed"),
        None if margin is None else f"a margin of {margin:g} nats",
        None if rate is None else f"at most {rate:.0%} wrong verdicts",
    ]
    return ", ".join(filter(None, known))


def _recipe(settings: Mapping[str, Any]) -> dict[str, str]:
    """The settings that make the model what it is, as text."""
    shown = {name: _shown(settings[name]) for name in RECIPE if name in settings}
    if re.match(r"[~./\\]|.*[/\\].*[/\\]|\w:\\", shown.get("model_name", "")):
        shown["model_name"] = "a config.json of its own"  # not the path of a folder here
    return shown


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if value is None:
        return "not set"
    return ", ".join(map(_shown, value)) if isinstance(value, list | tuple) else str(value)
