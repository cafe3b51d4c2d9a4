"""The source of one's own that docs/data.md shows."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from sharpgpt.data.prepare import pipeline
from sharpgpt.data.prepare.options import PrepareOptions
from sharpgpt.data.prepare.pipeline import prepare
from sharpgpt.data.prepare.progress import Progress
from sharpgpt.data.prepared import open_prepared
from sharpgpt.data.tokenizer import Gpt2Tokenizer

EXAMPLE = Path(__file__).resolve().parents[3] / "docs" / "examples" / "numbers_source.py"


@pytest.fixture
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("numbers_source", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class KilledError(BaseException):
    pass


def test_the_example_is_prepared_and_goes_on(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "open_source", lambda *_, **__: example.Numbers())
    output = str(tmp_path / "out")
    options = PrepareOptions(dataset="numbers", output=output, num_workers=0, commit_seconds=0)

    def killed_at_fourth(_: Progress, seen: list[int] = []) -> None:  # noqa: B006
        seen.append(1)
        if len(seen) == 4:
            raise KilledError

    with pytest.raises(KilledError):
        prepare(options, show_progress=killed_at_fourth)
    data = open_prepared(prepare(options))
    assert data is not None
    tokenizer = Gpt2Tokenizer()
    for tokens, is_val in ((data.train, False), (data.val, True)):
        texts = tokenizer.decode(tokens[:].tolist()).split("<|endoftext|>")[:-1]
        assert texts == [f"The number {i}.\n" for i in range(1000) if (i % 50 == 0) == is_val]
