"""The README.md of a published checkpoint: what the model is, how it was trained, what is known.

    facts = read_facts(checkpoint)
    text = model_card(facts, repo_id="me/model", evaluation=run, data=data, arm=arm)

Everything that comes from a file is data: it is escaped, so that no name and no note can become
markup. Nothing that names a place on this machine goes into the card.
"""

import re
from collections.abc import Mapping, Sequence

from sharpgpt.data.sources.aliases import ALIASES
from sharpgpt.report.arms import Json, number_of, value_at
from sharpgpt.report.model_facts import RECIPE, VALIDATION, ModelFacts
from sharpgpt.report.numbers import number
from sharpgpt.report.visible import printable
from sharpgpt.sharpness.penalties import PENALTIES

FIGURES = {
    "ce": ("cross-entropy, nats", "cross_entropy"),
    "perplexity": ("perplexity", "perplexity"),
    "bits_per_byte": ("bits per byte", "bits_per_byte"),
    "accuracy": ("accuracy", "accuracy"),
    "accuracy_top_5": ("accuracy, 5 guesses", None),
    "reciprocal_rank": ("mean reciprocal rank", "mrr"),
    "entropy": ("entropy, nats", None),
    "max_prob": ("largest probability", None),
    "brier": ("Brier score", None),
}
"""Figure -> its words, and its type in the card's model-index where it is a measure of quality."""


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

    sections = [
        f"# {plain(repo_id.rsplit('/', 1)[-1])}",
        _introduction(facts),
        *_verdict(facts, arm),
        *_evaluation(facts, evaluation, data),
        *_validation(facts),
        _usage(facts, repo_id),
        _recipe(facts),
        _limits(facts),
    ]
    head = _head(facts, repo_id, evaluation, data)
    return str(ModelCard(f"---\n{head}\n---\n\n" + "\n\n".join(sections) + "\n"))


def plain(text: object) -> str:
    """Text from a file as Markdown on one line: it reads as it stands, whatever signs it has."""
    one_line = printable(" ".join(str(text).split()))
    escaped = re.sub(r"([\\`*_\[\]<>|~#&$@!])", r"\\\1", one_line)
    # Without this, GitHub's Markdown makes links of bare addresses.
    return re.sub(r"(?i)(://|www\.)", lambda found: f"{found[0][0]}<!-- -->{found[0][1:]}", escaped)


def _penalty(facts: ModelFacts) -> tuple[str, float]:
    weight = facts.settings.get("penalty_weight")
    name = str(facts.settings.get("penalty_type"))
    return name, float(weight) if isinstance(weight, int | float) else 0.0


def _head(facts: ModelFacts, repo_id: str, evaluation: Json | None, data: Json | None) -> str:
    """The YAML for the hub."""
    from huggingface_hub import EvalResult, ModelCardData

    dataset = str(facts.settings.get("dataset"))
    hub_name = ALIASES[dataset].repo if dataset in ALIASES else dataset
    is_on_hub = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", hub_name, re.ASCII)
    # ORG/NAME may be a folder as well: the run says under which name the hub's own is known.
    is_hub = is_on_hub and (dataset in ALIASES or facts.data_name in (hub_name, dataset))
    penalty, weight = _penalty(facts)
    results = []
    for figure, (words, metric) in FIGURES.items():
        value = number_of(evaluation, "figures", figure, "estimate")
        if metric and value is not None:
            text = str(value_at(data, "name") or facts.data_name)
            results.append(
                EvalResult(
                    task_type="text-generation",
                    dataset_type=re.sub(r"[^\w.-]+", "-", text) or "unknown",
                    dataset_name=text,
                    dataset_split="validation",
                    metric_type=metric,
                    metric_name=words,
                    metric_value=value,
                )
            )
    card = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["sharpgpt", facts.model_type or "gpt2", *([penalty] if weight else [])],
        datasets=[hub_name] if is_hub and not facts.is_stand_in else None,
        model_name=repo_id.rsplit("/", 1)[-1] if results else None,
        eval_results=results or None,
    )
    return str(card.to_yaml())


def _introduction(facts: ModelFacts) -> str:
    penalty, weight = _penalty(facts)
    size = f" with {facts.num_parameters:,} parameters" if facts.num_parameters else ""
    if weight:
        formula = PENALTIES[penalty].formula if penalty in PENALTIES else None
        meaning = f" ({plain(formula)})" if formula else ""
        effect = "sharpens" if weight > 0 else "flattens"
        loss = (
            f"Its loss was cross-entropy + w × penalty, with the penalty `{plain_name(penalty)}`"
            f"{meaning} and w = {weight:g}, which {effect} the distribution over the next token. "
            f"With such a weight a rise of the cross-entropy is expected: "
            "what counts is the comparison with a model that is sharpened after training."
        )
    else:
        loss = "Its loss was plain cross-entropy: no sharpness penalty (weight 0)."
    stand_in = (
        "\n\n**Stand-in data.** The text that the run asked for could not be had; the model was "
        f"trained on {plain(facts.data_name)}, a stand-in of the same style and size. Its figures "
        "do not compare with those of the text it stands in for."
        if facts.is_stand_in
        else ""
    )
    return (
        f"A causal language model ({plain(facts.model_type or 'gpt2')}){size}, trained from "
        f"random weights on {plain(facts.data_name)} for {facts.step:,} steps with SharpGPT. "
        f"{loss}{stand_in}"
    )


def plain_name(name: str) -> str:
    """A name within a code span: what could end the span is left out."""
    return re.sub(r"[^\w.:+-]", "", name, flags=re.ASCII)[:200]


def _verdict(facts: ModelFacts, arm: Json | None) -> list[str]:
    """What a temperature cannot do: nothing where there was no comparison."""
    if arm is None:
        return []
    lines = [
        "## Verdict",
        f"**{plain(arm.get('verdict', 'unknown'))}**, compared with the same model trained "
        f"without a penalty and sharpened afterwards. {plain(arm.get('sentence') or '')}".rstrip(),
    ]
    rows = []
    controls = value_at(arm, "controls")
    for name, control in controls.items() if isinstance(controls, Mapping) else ():
        difference, low, high = (
            number(number_of(control, part)) for part in ("estimate", "low", "high")
        )
        rows.append([plain(name), difference, f"{low} to {high}", plain(value_at(control, "call"))])
    if rows:
        lines.append(
            _table(["sharpened afterwards by", "difference, nats", "interval", "verdict"], rows)
        )
    seeds, margin = number_of(arm, "num_seeds"), number_of(arm, "margin")
    rate = number_of(arm, "error_rate")
    facts_of_rule = [
        *([f"{seeds:.0f} seeds"] if seeds is not None else []),
        *([f"a margin of {margin:g} nats"] if margin is not None else []),
        *([f"at most {rate:.0%} wrong verdicts"] if rate is not None else []),
    ]
    if facts_of_rule:
        lines.append(
            f"By the rule with {', '.join(facts_of_rule)}. A positive difference means that this "
            f"model's cross-entropy is the higher one. The verdict is on all seeds together, this "
            f"one ({plain(facts.settings.get('seed'))}) among them."
        )
    return lines


def _evaluation(facts: ModelFacts, evaluation: Json | None, data: Json | None) -> list[str]:
    rows = []
    for figure, (words, _) in FIGURES.items():
        estimate, low, high = (
            number_of(evaluation, "figures", figure, part) for part in ("estimate", "low", "high")
        )
        if estimate is not None:
            rows.append([words, number(estimate), f"{number(low)} to {number(high)}"])
    if not rows:
        return []
    text = plain(value_at(data, "name") or facts.data_name)
    size = number_of(data, "num_rows")
    notes = [
        f"Of the validation split of {text}"
        + (f", {size:,.0f} predictions" if size is not None else "")
        + "; 95% intervals from a bootstrap over blocks."
    ]
    best = number_of(evaluation, "temperature", "best")
    if no_best := value_at(evaluation, "temperature", "note"):
        notes.append(plain(f"{no_best}."))
    elif best is not None:
        notes.append(
            f"Its own best temperature is {number(best)}, where the cross-entropy is "
            f"{number(number_of(evaluation, 'temperature', 'ce'))} instead of "
            f"{number(number_of(evaluation, 'temperature', 'ce_unchanged'))} (on the half of the "
            "text that did not choose it)."
        )
    error = number_of(evaluation, "calibration", "unchanged", "ece")
    if error is not None:
        notes.append(f"The expected calibration error is {number(error)}.")
    if value_at(data, "is_stand_in") is True:
        notes.append("**This text is a stand-in**, see above.")
    return ["## Evaluation", _table(["figure", "estimate", "95% interval"], rows), " ".join(notes)]


def _validation(facts: ModelFacts) -> list[str]:
    rows = [
        [words, number(facts.validation[metric])]
        for metric, words in VALIDATION.items()
        if metric in facts.validation
    ]
    if not rows:
        return []
    blocks = facts.settings.get("eval_max_blocks")
    what = f"{blocks} blocks of the validation split" if blocks else "the whole validation split"
    return [
        "## Validation while training",
        _table(["figure", "value"], rows),
        f"At step {facts.step:,}, over {what}.",
    ]


def _usage(facts: ModelFacts, repo_id: str) -> str:
    repo = plain_name(repo_id.replace("/", "::")).replace("::", "/")
    prefix = "" if facts.newline_id is None else f",prefix_token_id={facts.newline_id}"
    trained = max(1, facts.num_positions - 1)
    characters = (
        " The vocabulary holds the characters of the training text and no other: a prompt with "
        "another one is an error. No token begins a text, so the harness must be told what "
        "stands before one: the newline."
        if facts.newline_id is not None
        else ""
    )
    return f"""## Use

```python
from transformers import pipeline

generator = pipeline("text-generation", model="{repo}")
print(generator("The ", max_new_tokens=50, do_sample=True)[0]["generated_text"])
```

The model has {facts.num_positions:,} positions: prompt and new tokens together can be no more. The
last of them was never trained, so lm-evaluation-harness should use one less.{characters}

```
lm_eval --model hf --model_args pretrained={repo},max_length={trained}{prefix} --tasks TASK
```"""


def _recipe(facts: ModelFacts) -> str:
    told = {name: facts.settings[name] for name in RECIPE if name in facts.settings}
    if re.match(r"[~./\\]|.*[/\\].*[/\\]|\w:\\", str(told.get("model_name"))):
        told["model_name"] = "a config.json of its own"  # not the place of a folder here
    rows = [[f"`{name}`", plain(_shown(value))] for name, value in told.items()]
    versions = ", ".join(
        f"{plain(name)} {plain(version)}" for name, version in facts.versions.items()
    )
    lines = ["## Recipe", _table(["setting", "value"], rows)]
    return "\n\n".join(lines + ([f"Trained with {versions}."] if versions else []))


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if value is None:
        return "not set"
    return ", ".join(map(_shown, value)) if isinstance(value, list | tuple) else str(value)


def _limits(facts: ModelFacts) -> str:
    return (
        "## Limits\n\n"
        "Trained to study what a sharpness penalty does, not to be relied upon. It continues "
        f"texts in the manner of {plain(facts.data_name)}, follows no instructions, knows no "
        "facts but by chance, may repeat its training text, and shares whatever prejudice that "
        "text has. The figures are of text from the same source as the training text."
    )


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
