"""Documents to shards: read, encode in worker processes, write in order, commit every few seconds.

    source -> batches -> worker pool -> (in order) -> one ShardWriter per split -> manifest
                                                   -> journal, every few seconds

The main process reads and writes; the pool holds a bounded number of batches, so memory does not
grow with the data. A commit flushes the shards to the disk and then replaces the journal, which has
the position in the source: after a kill the same command continues from the last commit. The bytes
depend only on the source and the recipe, so they are those of an uninterrupted preparation, for any
number of workers.
"""

import logging
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np

from sharpgpt.core.errors import UserError
from sharpgpt.core.files import size_text
from sharpgpt.core.numbers import counted
from sharpgpt.data.content import remember
from sharpgpt.data.manifest import Manifest, SplitEntry, SplitName, write_manifest
from sharpgpt.data.prepare import disk, own_files
from sharpgpt.data.prepare.coders import Coder, batches_up_to, find_characters, open_coder
from sharpgpt.data.prepare.encoding import Encoded
from sharpgpt.data.prepare.options import PrepareOptions
from sharpgpt.data.prepare.progress import Pace, Progress
from sharpgpt.data.prepare.state import Journal, Recipe, unfinished
from sharpgpt.data.prepare.stopping import Limits, Stopped
from sharpgpt.data.shard_writer import SPLITS, ShardWriter, WriterState
from sharpgpt.data.sources.documents import Batch, DocumentSource
from sharpgpt.data.sources.download import hashes_folder
from sharpgpt.runtime.console import clock
from sharpgpt.runtime.signals import StopSignal

logger = logging.getLogger(__name__)


class Preparation:
    """One preparation in its folder, which is locked."""

    def __init__(
        self,
        folder: Path,
        *,
        options: PrepareOptions,
        source: DocumentSource,
        recipe: Recipe,
        show: Callable[[Progress], None],
    ) -> None:
        self._folder, self._options, self._source, self._show = folder, options, source, show
        self._stop = StopSignal("committing")
        self._writers: dict[SplitName, ShardWriter] = {}
        self._name = re.sub(r"[^A-Za-z0-9_-]", "_", source.name)[:100]
        """Of the data, in the names of llm.c's files."""
        found = unfinished(folder, recipe, source)
        self._journal = found or Journal(
            recipe=recipe,
            source=source.facts,
            counts={split: {"num_documents": 0, "num_bytes": 0} for split in SPLITS},
        )
        self._position = self._journal.position
        """After the last batch that was written; the journal has that of the last commit."""
        written = sum(_num_tokens(state) for state in self._journal.writers.values())
        disk.require_room(folder, source, options, 2 * written)
        if found is None:
            self._journal.write(folder)
        elif written:
            logger.info("%s: continuing after %s tokens", folder, f"{written:,}")

    def run(self) -> None:
        """Prepare what is missing. A failure before the first commit leaves nothing behind."""
        try:
            with self._stop:
                self._find_characters()
                characters = self._journal.characters
                with (
                    self._open_coder(characters) as coder,
                    self._open_writers(coder),
                ):
                    pace = Pace(self._bytes_read(), self._source.num_bytes)
                    self._encode_all(coder, pace)
                    self._finish(coder, pace)
        except Exception as error:  # of whatever kind: no journal of nothing may stay
            changed = [] if isinstance(error, Stopped) else self._changed_files()
            if changed:
                self._journal.position = None  # what is prepared is of no one state of the files
            if self._journal.position is None:
                own_files.discard(self._folder, self._options.form, self._name)
            if changed:
                raise UserError(_changed(changed)) from error
            raise

    @contextmanager
    def _open_coder(self, characters: list[str] | None) -> Iterator[Coder]:
        """Raises `UserError` for ids that the readers of the form would take for others."""
        with open_coder(self._options, self._source, characters) as coder:
            if coder.dtype != "uint16" and self._options.form != "sharpgpt":
                raise UserError(
                    f"form: given {self._options.form}, whose readers take ids of 16 bits, and "
                    f"this vocabulary has {coder.tokenizer.vocab_size:,} tokens, more than 65,536; "
                    "leave form out, for the form that only SharpGPT reads"
                )
            yield coder

    def _find_characters(self) -> None:
        """For the char tokenizer, unless an earlier process did it."""
        if self._options.tokenizer != "char" or self._journal.characters is not None:
            return
        found = find_characters(self._source, self._limits_here(), self._show, self._stop)
        self._journal.characters = found
        self._journal.write(self._folder)

    def _batches(self) -> Iterator[Batch]:
        """From the current position on."""
        if self._options.tokenizer == "char":
            return batches_up_to(self._source, self._position, self._limits_here())
        return self._source.batches(self._position)

    def _limits_here(self) -> Limits:
        """The limits, counted from what is written so far."""
        return Limits(
            self._options.max_documents,
            self._options.max_tokens,
            num_documents=self._total("num_documents"),
            num_tokens=self._num_tokens(),
        )

    @contextmanager
    def _open_writers(self, coder: Coder) -> Iterator[None]:
        """Within the block the shards are open, at the state of the last commit."""
        try:
            for split in SPLITS:
                writer = ShardWriter(
                    self._folder,
                    split,
                    dtype=coder.dtype,
                    shard_tokens=self._options.shard_tokens,
                    form=self._options.form,
                    name=self._name,
                )
                state = self._journal.writers.get(split, {"entries": [], "partial_tokens": 0})
                try:
                    writer.restore(state)
                except ValueError as error:
                    raise UserError(
                        f"{self._folder}: cannot continue, because the files are not those that "
                        f"were written ({error}); {own_files.remedy(self._folder)}"
                    ) from None
                self._writers[split] = writer
            yield
        finally:
            for writer in self._writers.values():
                writer.abandon()

    def _encode_all(self, coder: Coder, pace: Pace) -> None:
        """Write everything from `self._position` on, up to the limits."""
        limits = self._limits_here()
        committed = time.monotonic()
        is_warned = False
        try:
            for batch, encoded in self._encoded(coder):
                taken = limits.take(encoded.counts, batch.ends)
                self._write(batch, encoded, taken)
                pace.add(sum(encoded.counts[:taken]), sum(encoded.num_bytes[:taken]))
                if limits.is_reached:
                    return
                self._position = batch.after
                progress = pace.progress("tokens", self._num_tokens(), self._bytes_read())
                self._show(progress)
                if self._stop.number is not None:
                    self._commit()
                    raise Stopped(
                        self._stop.number,
                        f"stopped after {counted(self._num_tokens(), 'token')}; the same command "
                        "continues there",
                    )
                if time.monotonic() - committed >= self._options.commit_seconds:
                    self._commit()
                    committed = time.monotonic()
                    is_warned = is_warned or self._warn_of_shortage(progress)
        except UserError:  # a damaged file, a dead worker: what is encoded so far is good
            if self._journal.position is not None:
                self._commit()
            raise

    def _encoded(self, coder: Coder) -> Iterator[tuple[Batch, Encoded]]:
        """The batches from `self._position` on with their ids, in order."""
        pending: deque[tuple[Batch, Future[Encoded]]] = deque()
        for batch in self._batches():
            texts = [piece.text for piece in batch.pieces]
            pending.append((batch, coder.submit(texts, batch.ends)))
            if len(pending) > coder.num_in_flight:
                batch, future = pending.popleft()
                yield batch, future.result()
        for batch, future in pending:
            yield batch, future.result()

    def _write(self, batch: Batch, encoded: Encoded, taken: int) -> None:
        """Append the first `taken` pieces, each to its split."""
        starts = np.cumsum([0, *encoded.counts]).tolist()
        for is_validation, group in groupby(
            range(taken), key=lambda i: batch.pieces[i].is_validation
        ):
            pieces = list(group)
            first, last = pieces[0], pieces[-1] + 1
            split = SPLITS[is_validation]
            self._writers[split].append(encoded.ids[starts[first] : starts[last]])
            ends = sum(piece.ends_document for piece in batch.pieces[first:last])
            self._journal.counts[split]["num_documents"] += ends
            self._journal.counts[split]["num_bytes"] += sum(encoded.num_bytes[first:last])

    def _commit(self) -> None:
        """Make everything so far durable: a new process continues from here."""
        self._journal.writers = {split: w.commit() for split, w in self._writers.items()}
        self._journal.position = self._position
        self._journal.write(self._folder)

    def _warn_of_shortage(self, progress: Progress) -> bool:
        """Warn if the disk will not hold the rest; whether a warning was given."""
        if not progress.total_bytes or progress.bytes_read * 100 < progress.total_bytes:
            return False
        left = max(progress.total_bytes - progress.bytes_read, 0) / progress.bytes_read
        to_come = 2 * self._num_tokens() * left
        if self._options.max_tokens is not None:
            to_come = min(to_come, 2 * (self._options.max_tokens - self._num_tokens()))
        warning = disk.shortage(self._folder, to_come)
        if warning is not None:
            logger.info("%s", warning)
        return warning is not None

    def _finish(self, coder: Coder, pace: Pace) -> None:
        """Write the last shards and the manifest, and remove the journal."""
        if changed := self._changed_files():
            raise UserError(_changed(changed))
        self._require_both_splits()
        splits: dict[SplitName, SplitEntry] = {}
        for split, writer in self._writers.items():
            shards = writer.finish()
            splits[split] = SplitEntry(
                num_tokens=sum(shard.num_tokens for shard in shards),
                shards=shards,
                **self._journal.counts[split],
            )
        manifest = Manifest(
            name=self._source.name,
            form=self._options.form,
            dtype=coder.dtype,
            tokenizer=coder.entry,
            end_of_text_id=coder.end_of_text_id,
            splits=splits,
            source=self._source.facts,
            recipe=self._journal.recipe,
        )
        hashes = {
            self._folder / shard.file: shard.sha256
            for split in splits.values()
            for shard in split.shards
        }
        remember(hashes, hashes_folder())
        write_manifest(self._folder, manifest)
        own_files.remove_journal(self._folder)
        logger.info(
            f"{self._folder}: {splits['train'].num_tokens:,} training and "
            f"{counted(splits['val'].num_tokens, 'validation token')} of "
            f"{size_text(self._total('num_bytes'))} of text, in {clock(pace.seconds)} "
            f"({pace.progress('tokens', 0, 0).speed()})"
        )

    def _changed_files(self) -> list[str]:
        """Files of the source that were written to since it was opened, where it knows."""
        changed_files: Callable[[], list[str]] = getattr(self._source, "changed_files", list)
        return changed_files()

    def _require_both_splits(self) -> None:
        for split, writer in self._writers.items():
            if writer.num_tokens:
                continue
            self._journal.position = None  # nothing to continue from
            number = self._total("num_documents")
            unit = "documents" if self._source.joins_documents else "parts"
            name = "training" if split == "train" else "validation"
            raise UserError(
                f"{self._source.name}: none of the {number} {unit} fell into the {name} split, so "
                "nothing is kept; give more documents, or another val_fraction, such as 0.1"
            )

    def _total(self, count: Literal["num_documents", "num_bytes"]) -> int:
        return sum(counts[count] for counts in self._journal.counts.values())

    def _num_tokens(self) -> int:
        return sum(writer.num_tokens for writer in self._writers.values())

    def _bytes_read(self) -> int:
        return int((self._position or {}).get("bytes_read", 0))


def _num_tokens(state: WriterState) -> int:
    return int(state["partial_tokens"]) + sum(int(e["num_tokens"]) for e in state["entries"])


def _changed(names: list[str]) -> str:
    """The message for files that were written to while they were prepared."""
    others = f" and {counted(len(names) - 1, 'other file')}" if len(names) > 1 else ""
    return (
        f"{names[0]}{others}: written to, "
        "replaced or removed while being prepared, so nothing is kept; run the same command again "
        "when it is complete, or give a copy of it"
    )
