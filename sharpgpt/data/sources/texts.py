"""Texts that have a name: TinyShakespeare, and all the plays."""

import io
from pathlib import Path

from sharpgpt.data.sources.aliases import PLAYS
from sharpgpt.data.sources.documents import DocumentSource, SourceOptions
from sharpgpt.data.sources.file_sources import refuse_options, source_of
from sharpgpt.data.sources.files import DataFile
from sharpgpt.data.sources.plays import load_plays
from sharpgpt.data.sources.tinyshakespeare import URL, load_tinyshakespeare
from sharpgpt.data.text import SourceText


def load_named_text(name: str, cache_dir: str | Path | None = None, url: str = URL) -> SourceText:
    """The text of a name in `aliases.TEXTS`; TinyShakespeare is downloaded from `url`."""
    return load_plays() if name == PLAYS else load_tinyshakespeare(cache_dir, url)


def open_named_text(name: str, options: SourceOptions) -> DocumentSource:
    """That text as a source of documents: a single one."""
    refuse_options(name, options, "text_column", "config_name", "revision", "streaming")
    text = load_named_text(name, options.cache_dir)
    data = text.text.encode()
    file = DataFile(
        name=text.origin,
        num_bytes=len(data),
        format="text",
        compression=None,
        open=lambda: io.BytesIO(data),
        label=f"{name}.txt",
        identity=text.sha256,
    )
    facts = {"origin": text.origin, "is_stand_in": text.is_stand_in, "note": text.note}
    return source_of(name=text.name, facts=facts, files=[file], options=options)
