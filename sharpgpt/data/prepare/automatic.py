"""Prepare a dataset for training when it is neither a single text nor prepared yet.

The shards go into the cache folder, under a name made of the dataset, the tokenizer, how it is read
and, for local files, a hash of their identity: the next run finds them, and changed files are
prepared again.
"""

import hashlib
import json
import logging
import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

from sharpgpt.config import TrainingConfig
from sharpgpt.core.errors import UserError
from sharpgpt.core.files import user_path
from sharpgpt.data.manifest import MANIFEST, read_manifest
from sharpgpt.data.prepare.options import PrepareOptions
from sharpgpt.data.prepare.pipeline import prepare
from sharpgpt.data.prepare.waiting import wait_for_another
from sharpgpt.data.prepared import open_prepared
from sharpgpt.data.sources.aliases import TEXTS
from sharpgpt.data.sources.documents import SourceOptions
from sharpgpt.data.sources.download import cache_folder
from sharpgpt.data.sources.file_sources import refuse_options
from sharpgpt.data.sources.files import format_of
from sharpgpt.data.sources.open import open_source

logger = logging.getLogger(__name__)

IN_MEMORY_BYTES = 64 * 2**20
"""A text file up to this size is tokenized in memory, in seconds."""


def ready_dataset(config: TrainingConfig, *, may_prepare: bool = True) -> str:
    """What `load_data` can open: the setting `dataset` itself, or the folder of its shards.

    Raises:
        UserError: the dataset does not exist, cannot be reached, or cannot be prepared; or it is
            not prepared and `may_prepare` is false.
    """
    dataset = config.dataset
    if may_prepare and dataset:
        wait_for_another(user_path(dataset))
    how = source_options(config)
    given = {name: value for name, value in how.items() if value and name != "cache_dir"}
    if is_one_text(dataset):
        only = ("text_column", "config_name", "revision", "streaming")
        refuse_options(dataset, SourceOptions(**how), *only)
        return dataset
    if open_prepared(dataset) is not None:
        if given:
            raise UserError(
                f"{', '.join(given)}: given for {dataset}, whose shards are made already; leave "
                f"{'it' if len(given) == 1 else 'them'} out, or give the dataset itself"
            )
        return dataset
    cache = cache_folder(config.cache_dir)
    name = re.sub(r"[^\w.]+", "-", dataset).strip("-.")[-60:] or "data"
    folder = cache / "prepared" / f"{name}-{config.tokenizer}{_suffix(given)}"
    if (folder / MANIFEST).is_file():  # of the hub
        revision = read_manifest(folder).source.get("revision")
        logger.info(
            "%s: reusing %s, made from revision %s; the hub is not asked whether it has changed "
            "since (delete the folder's manifest.json and shards to prepare the present one)",
            *(dataset, folder, revision),
        )
        return str(folder)
    source = open_source(dataset, **how)
    before: list[Path] = []
    if "revision" not in source.facts:
        before = _earlier(folder)
        folder = folder.with_name(f"{folder.name}-{source.identity[:12]}")
        if (folder / MANIFEST).is_file():
            logger.info("%s: reusing %s, made from the same content (SHA-256)", dataset, folder)
            return str(folder)
    if not may_prepare:
        raise UserError(
            f"dataset: {dataset} is not prepared yet, which a dry run does not do; run sharpgpt "
            f"prepare --dataset {shlex.quote(dataset)} --tokenizer {config.tokenizer} "
            f"{_as_flags(given)}--output {shlex.quote(str(folder))} first, or train, which does "
            "the same"
        )
    logger.info("%s is not prepared yet: writing token shards to %s", dataset, folder)
    if before:
        logger.info("its content is not that from which %s was made, which stays there", before[-1])
    options = PrepareOptions(
        dataset=dataset,
        output=str(folder),
        tokenizer=config.tokenizer,
        **how,
    )
    return str(prepare(options))


def source_options(config: TrainingConfig) -> dict[str, Any]:
    """The settings that say how the dataset is read, which `sharpgpt prepare` has too."""
    return {field.name: getattr(config, field.name) for field in fields(SourceOptions)}


def _suffix(given: dict[str, Any]) -> str:
    """Tells apart folders of one dataset that is read in several ways."""
    read = {name: value for name, value in given.items() if name != "streaming"}
    text = json.dumps(read, sort_keys=True)
    return f"-{hashlib.sha256(text.encode()).hexdigest()[:8]}" if read else ""


def _as_flags(given: dict[str, Any]) -> str:
    values = {
        name: "" if value is True else f" {shlex.quote(str(value))}"
        for name, value in given.items()
    }
    return "".join(f"--{name}{value} " for name, value in values.items())


def _earlier(folder: Path) -> list[Path]:
    """Folders that were prepared from the dataset when its content was another, oldest first."""
    name = re.compile(re.escape(folder.name) + "-[0-9a-f]{12}")
    found = [p for p in folder.parent.glob("*") if name.fullmatch(p.name)]
    return sorted((p for p in found if (p / MANIFEST).is_file()), key=lambda p: p.stat().st_mtime)


def is_one_text(dataset: str) -> bool:
    """Whether it is a named text, or a text file that is tokenized in memory."""
    if dataset in TEXTS:
        return True
    try:
        path = user_path(dataset)
        is_small_file = path.is_file() and path.stat().st_size <= IN_MEMORY_BYTES
    except (OSError, RuntimeError, ValueError):
        return False
    return is_small_file and path.suffix != ".bin" and format_of(dataset) in (None, ("text", None))
