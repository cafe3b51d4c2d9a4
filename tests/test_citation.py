"""CITATION.cff names this version, and has what the Citation File Format 1.2.0 requires."""

import tomllib

import yaml

import sharpgpt
from tests.conftest import REPOSITORY


def test_the_citation_is_complete_and_of_this_version() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == sharpgpt.__version__
    assert citation["type"] == "software"
    assert citation["message"]
    assert citation["title"].startswith("SharpGPT")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["license"] == project["license"]
    (author,) = citation["authors"]
    assert author["name"] in (REPOSITORY / "LICENSE").read_text(encoding="utf-8")
