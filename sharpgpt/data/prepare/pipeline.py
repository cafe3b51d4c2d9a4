"""`prepare`: a dataset to token shards in a folder, from the beginning or where it was stopped."""

import dataclasses
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from sharpgpt.core.errors import UserError
from sharpgpt.core.files import user_path
from sharpgpt.data.manifest import read_manifest
from sharpgpt.data.prepare import disk, own_files
from sharpgpt.data.prepare.options import PrepareOptions
from sharpgpt.data.prepare.preparation import Preparation
from sharpgpt.data.prepare.progress import Progress, ProgressDisplay
from sharpgpt.data.prepare.state import (
    has_own_journal,
    is_finished,
    is_surely_finished,
    recipe_of,
    refuse_another_recipe,
)
from sharpgpt.data.prepare.waiting import LOCK, alone_in, prepare_lock
from sharpgpt.data.sources.documents import DocumentSource, SourceOptions
from sharpgpt.data.sources.open import open_source
from sharpgpt.runtime.console import console_logging

logger = logging.getLogger(__name__)


def prepare(
    options: PrepareOptions, *, show_progress: Callable[[Progress], None] | None = None
) -> Path:
    """Prepare a dataset as `options` say; returns the output folder.

    A preparation that was stopped in this folder continues; finished data is returned at once.
    `show_progress` is called after each batch in place of the progress bar.

    Raises:
        UserError: everything that the user can fix. What was committed stays.
        Stopped: SIGINT, SIGTERM, SIGHUP or SIGUSR1; everything until then is committed.
    """
    with console_logging() as console:
        return _prepare(options, show_progress or ProgressDisplay(console))


def _prepare(options: PrepareOptions, show_progress: Callable[[Progress], None]) -> Path:
    folder = user_path(options.output)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"output: {folder} is a file; allowed is a folder")
    if is_surely_finished(folder, options):
        logger.info(
            "%s: already prepared, from revision %s; the hub is not asked whether it has changed "
            "since",
            *(folder, read_manifest(folder).source.get("revision")),
        )
        return folder
    names = [field.name for field in dataclasses.fields(SourceOptions)]
    source = open_source(options.dataset, **{name: getattr(options, name) for name in names})
    if note := source.facts.get("note"):
        logger.info("%s", note)
    _refuse_limits_of_a_text(options, source)
    recipe = recipe_of(options, source)
    if is_finished(folder, recipe, source):
        _remove_remains(folder)
        logger.info("%s: already prepared", folder)
        return folder
    is_new = not folder.exists()
    try:
        with (
            disk.explained_if_full(folder),
            alone_in(folder, partial(refuse_another_recipe, folder, recipe)),
        ):
            if is_finished(folder, recipe, source):
                logger.info("%s: prepared by another process meanwhile", folder)
            else:
                Preparation(
                    folder, options=options, source=source, recipe=recipe, show=show_progress
                ).run()
    finally:
        if is_new:
            with suppress(OSError):  # it holds something
                folder.rmdir()
    return folder


def _remove_remains(folder: Path) -> None:
    """Remove what a process that was killed at the very end left beside finished data."""
    if has_own_journal(folder) or (folder / LOCK).exists():
        with suppress(OSError, UserError), prepare_lock(folder):
            if has_own_journal(folder):
                own_files.remove_journal(folder)


def _refuse_limits_of_a_text(options: PrepareOptions, source: DocumentSource) -> None:
    if source.joins_documents:
        return
    for name in ("max_documents", "max_tokens"):
        if getattr(options, name) is not None:
            raise UserError(
                f"{name}: {source.name} is a single text, which is prepared whole; {name} is for "
                "documents. Cut the text to prepare less of it"
            )
