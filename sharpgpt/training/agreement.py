"""All ranks of a run were given the same, or it does not begin.

A file that was not copied to another machine, or a flag that was not changed there, would train a
wrong model without a word, or hang. So the ranks compare, before the first step, every setting but
those in `MAY_DIFFER`, the code and the versions, and what paths and names stand for: the tokens,
the vocabulary, the model, the checkpoint. The first weights need no comparison:
DistributedDataParallel sends those of rank 0 to all.
"""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import sharpgpt
from sharpgpt.config import ConfigError, TrainingConfig
from sharpgpt.config.options import shown
from sharpgpt.core.jsonio import read_bytes
from sharpgpt.data.load import TextData
from sharpgpt.runs.manifest import MANIFEST
from sharpgpt.runtime.device import Device
from sharpgpt.runtime.distributed import Processes
from sharpgpt.runtime.environment import package_versions
from sharpgpt.training.setup import Setup

MAY_DIFFER = frozenset(
    {
        "dataset", "model_name", "device", "dtype",  # what they stand for is compared
        "cache_dir", "output_dir", "checkpoint_dir", "run_name", "resume",  # of rank 0
        "num_workers",
    }
)  # fmt: skip
"""Settings that need not be equal on all ranks: where things are, and how one process works."""

COMPUTING_PACKAGES = ("torch", "transformers", "numpy")

MAX_RANKS = 8
"""That a message names for one value."""


class Fact(NamedTuple):
    """Something that all ranks must share: what is compared, and how a message shows it."""

    identity: str
    text: str


def require_same(processes: Processes, facts: Mapping[str, Fact]) -> None:
    """Compare the `facts` of all ranks, which call this together.

    Raises:
        ConfigError: each difference, with the values and their ranks.
    """
    with processes.raise_together():
        if differences := find_differences(processes.gather(dict(facts))):
            raise ConfigError(differences)


def find_differences(facts_by_rank: Sequence[Mapping[str, Fact]]) -> list[str]:
    """A sentence with the values and their ranks for each name whose identities differ."""
    found = []
    for name in dict.fromkeys(name for facts in facts_by_rank for name in facts):
        ranks_of = dict[str, list[int]]()
        texts = dict[str, str]()
        for rank, facts in enumerate(facts_by_rank):
            fact = facts.get(name, Fact("", "unknown"))
            ranks_of.setdefault(fact.identity, []).append(rank)
            texts.setdefault(fact.identity, fact.text)
        if len(ranks_of) > 1:
            values = [f"{texts[each]} on {_names(ranks)}" for each, ranks in ranks_of.items()]
            found.append(
                f"{name} differs between ranks: {', '.join(values)}; start all with the same"
            )
    return found


def _names(ranks: list[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    if len(ranks) > MAX_RANKS:
        return f"{len(ranks)} ranks, the first of them {ranks[0]}"
    return f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"


def given_facts(config: TrainingConfig, device: Device) -> dict[str, Fact]:
    """What a rank was given: settings, code, versions, kind of device."""
    kind, versions = device.torch_device.type, package_versions()
    # On a CPU auto measures, each rank for itself; rank 0's choice is taken (checks.py).
    dtype = "auto" if kind == "cpu" and config.dtype == "auto" else device.dtype_name
    settings = {k: value for k, value in config.to_dict().items() if k not in MAY_DIFFER}
    sources = _hash_of_sources(Path(sharpgpt.__file__).parent)
    return {
        **{name: Fact(repr(value), shown(value)) for name, value in settings.items()},
        "device": Fact(kind, f"{config.device} ({kind})"),
        "dtype": Fact(dtype, f"{config.dtype} ({device.dtype_name})"),
        "code of sharpgpt": Fact(sources, f"{sharpgpt.__version__} (SHA-256 {sources[:12]})"),
        **{
            f"version of {name}": Fact(version, version)
            for name in COMPUTING_PACKAGES
            for version in [versions.get(name, "none")]
        },
    }


def found_facts(setup: Setup) -> dict[str, Fact]:
    """What the settings stand for: tokens, vocabulary, model, a penalty of the user's."""
    config, data, model = setup.config, setup.data, cast(Any, setup.causal_lm)
    shapes = [(name, tuple(p.shape)) for name, p in model.named_parameters()]
    architecture = model.config.to_dict()
    for name in ("_name_or_path", "transformers_version"):
        architecture.pop(name, None)
    content = _hash(repr((type(model).__name__, shapes, sorted(architecture.items()))))
    num_parameters = sum(p.numel() for p in model.parameters())
    facts = {
        "dataset": _data_fact(config, data),
        "tokenizer": Fact(
            data.tokenizer.fingerprint,
            f"{config.tokenizer} (vocabulary {data.tokenizer.fingerprint[:12]} of "
            f"{data.tokenizer.vocab_size:,} tokens)",
        ),
        "model_name": Fact(
            content, f"{config.model_name!r} ({content[:12]}, {num_parameters:,} parameters)"
        ),
    }
    module = sys.modules.get(config.penalty_type.partition(":")[0])
    if module and module.__file__:
        code = hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest()
        facts["penalty_type"] = Fact(code, f"{config.penalty_type} (SHA-256 {code[:12]})")
    return facts


def checkpoint_fact(path: Path | None) -> Fact:
    """The checkpoint that a run continues, whose manifest has the hashes of its files."""
    if path is None:
        return Fact("", "none")
    try:
        seal = hashlib.sha256(read_bytes(path / MANIFEST)).hexdigest()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        return Fact("unreadable", f"{path} (cannot be read: {reason})")
    return Fact(seal, f"{path} (SHA-256 {seal[:12]})")


def _data_fact(config: TrainingConfig, data: TextData) -> Fact:
    content, counts = str(data.source["sha256"]), (len(data.train_tokens), len(data.val_tokens))
    return Fact(
        f"{content} {counts}",
        f"{config.dataset!r} (SHA-256 {content[:12]}, {counts[0]:,} training and {counts[1]:,} "
        "validation tokens)",
    )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _hash_of_sources(folder: Path) -> str:
    """Of the names and bytes of all Python files."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        total.update(f"{path.relative_to(folder).as_posix()}\0".encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()
