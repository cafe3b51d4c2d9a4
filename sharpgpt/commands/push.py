"""`sharpgpt push`: publish a checkpoint on the HuggingFace hub: weights, configuration, tokenizer
and a model card, without the training state."""

import contextlib
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from sharpgpt.config.flags import flag_parser, parse_options
from sharpgpt.config.options import Options
from sharpgpt.config.values import File, Folder, Rule
from sharpgpt.core.errors import UserError
from sharpgpt.core.files import make_folder, sync, user_path
from sharpgpt.core.hub import offline_variable
from sharpgpt.core.jsonio import read_object
from sharpgpt.core.numbers import counted
from sharpgpt.core.terminal import one_line, show, show_line
from sharpgpt.report.arms import Json, objects, value_at
from sharpgpt.report.model_card import model_card
from sharpgpt.report.model_facts import ModelFacts, arm_of, read_facts, run_of
from sharpgpt.runs.resolve import MODEL_FILES, resolve_checkpoint

logger = logging.getLogger(__name__)

CARD = "README.md"


def _name_problem(name: str) -> str | None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        return f"is not allowed on the hub ({' '.join(str(error).split())[:200]})"
    return None


def _new_folder_problem(text: str) -> str | None:
    folder = user_path(text)
    is_new = not folder.is_dir() or not any(folder.iterdir())
    return None if is_new else "is a folder with something in it"


class PushOptions(Options):
    """What to publish, and where."""

    checkpoint: Folder
    """A run folder (its newest checkpoint), RUN/best, or a checkpoint."""

    repo_id: Annotated[
        str,
        Rule("NAME or ORG/NAME of letters, digits, '-', '_' and '.', at most 96", _name_problem),
    ]
    """NAME or ORG/NAME on the hub; created if it does not exist."""

    private: bool = False
    """Only you can see it."""

    evaluation: File | None = None
    """evaluation.json, whose metrics the card shows."""

    comparison: File | None = None
    """comparison.json, whose metrics and verdict the card shows."""

    dry_run: (
        Annotated[Folder, Rule("a folder that is empty or does not exist", _new_folder_problem)]
        | None
    ) = None
    """Write what would be published into this new folder; nothing leaves the machine."""


def parse(argv: Sequence[str], prog: str) -> PushOptions:
    """The options that the command line asks for. Raises `ConfigError` with all problems."""
    description = "Publish a checkpoint on the HuggingFace hub."
    parser = flag_parser(prog=prog, description=description)
    return parse_options(PushOptions, argv, parser=parser, positional=("checkpoint", "repo_id"))


def run(options: PushOptions) -> int:
    """Publish, or write the folder of --dry_run, and print where it is.

    Raises:
        UserError: there is no checkpoint or it is damaged, a file of metrics is not about it,
            there is no token or no network, or the hub refuses.
    """
    publication = prepare_publication(
        options.checkpoint,
        options.repo_id,
        evaluation=options.evaluation,
        comparison=options.comparison,
    )
    show(publication.summary())
    if publication.ignored_softcap is not None:
        logger.warning(
            "the logits are capped at %g, and transformers ignores that in models of this "
            "architecture: whoever loads this one without SharpGPT gets other probabilities. The "
            "card says so, and what to do",
            publication.ignored_softcap,
        )
    if options.dry_run is not None:
        folder = user_path(options.dry_run)
        publication.write(folder)
        show_line(f"Nothing was published; this is what would be: {folder}")
    else:
        show_line(upload(publication, private=options.private))
    return 0


@dataclass(frozen=True)
class Publication:
    """What is published in a repository, and what is not."""

    repo_id: str
    files: Mapping[str, Path]
    """Name in the repository -> file here."""
    left_out: list[str]
    card: str
    ignored_softcap: float | None = None
    """The soft cap of the logits, where transformers ignores it."""

    def summary(self) -> str:
        """Sizes of the files, as text."""
        sizes = {name: path.stat().st_size for name, path in self.files.items()}
        lines = [
            f"  {one_line(name):<30}{counted(size, 'byte'):>20}" for name, size in sizes.items()
        ]
        size_of_card = counted(len(self.card.encode()), "byte")
        lines.append(f"  {CARD:<30}{size_of_card:>20}, made by this command")
        if self.left_out:
            lines.append(one_line(f"Not published: {', '.join(self.left_out)}"))
        return "\n".join([f"{self.repo_id}:", *lines])

    def write(self, folder: Path) -> None:
        """Write all of it into a folder, which appears whole or not at all. Raises OSError."""
        make_folder(folder.parent)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as name:
            temporary = Path(name) / "files"
            temporary.mkdir()
            for file_name, path in self.files.items():
                shutil.copyfile(path, temporary / file_name)
            (temporary / CARD).write_text(self.card, encoding="utf-8")
            for path in [*temporary.iterdir(), temporary]:
                sync(path)
            temporary.rename(folder)
            sync(folder.parent)


def prepare_publication(
    checkpoint: str | Path,
    repo_id: str,
    *,
    evaluation: str | Path | None = None,
    comparison: str | Path | None = None,
) -> Publication:
    """Verify the checkpoint and make its card. Raises `UserError` as `push` does."""
    from huggingface_hub.utils import filter_repo_objects

    folder = resolve_checkpoint(checkpoint, setting="CHECKPOINT").path
    facts = read_facts(folder)
    run, data, arm = _results(facts, {"comparison": comparison, "evaluation": evaluation})
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    own = [name for name in names if not (folder / name).is_symlink()]
    chosen = list(filter_repo_objects(own, allow_patterns=list(MODEL_FILES)))
    return Publication(
        repo_id=repo_id,
        files={name: folder / name for name in chosen},
        left_out=[name for name in names if name not in (*chosen, CARD)],
        card=model_card(facts, repo_id=repo_id, evaluation=run, data=data, arm=arm),
        ignored_softcap=facts.ignored_softcap,
    )


def _results(
    facts: ModelFacts, paths: Mapping[str, str | Path | None]
) -> tuple[Json | None, Json | None, Json | None]:
    """(EVALUATION, DATA, ARM) of the checkpoint in these files, by flag; the last file wins."""
    run = data = arm = None
    for flag, path in paths.items():
        if path is None:
            continue
        try:
            content = read_object(user_path(path))
        except ValueError as error:
            raise UserError(f"--{flag}: {path} is not a {flag}.json ({error})") from None
        if flag == "comparison":
            arm, run = arm_of(content, facts)
        else:
            run = run_of(objects(content.get("evaluations")), facts)
        data = value_at(content, "data")
        if run is None:
            command = {"evaluation": "evaluate", "comparison": "compare"}[flag]
            raise UserError(
                f"--{flag}: {path} has no metrics of {facts.folder} (run {facts.name}, step "
                f"{facts.step:,}); give the file that sharpgpt {command} wrote about this "
                "checkpoint"
            )
    return run, data, arm


def upload(publication: Publication, *, private: bool) -> str:
    """Create the repository if it does not exist, and upload all files in one commit.

    Returns the address. Raises `UserError` as `push` does.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token

    repo_id = publication.repo_id
    if variable := offline_variable():
        raise UserError(
            f"{repo_id}: nothing was published, since {variable} is set; unset it, or use --dry_run"
        )
    token = get_token()
    if not token:
        raise UserError(
            f"{repo_id}: nothing was published, since there is no token of the hub; run hf auth "
            "login, or set HF_TOKEN to a token with the right to write, and try again"
        )
    api: Any = HfApi(token=token)
    with _hub_errors(repo_id):
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        full_id = address.repo_id
        if private and not api.model_info(full_id).private:
            raise UserError(
                f"{full_id}: nothing was uploaded, since --private was given and this repository "
                "exists already and is public; make it private on its settings page, or give "
                "another name"
            )
        operations = [
            CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(path))
            for name, path in publication.files.items()
        ]
        operations.append(CommitOperationAdd(CARD, publication.card.encode()))
        api.create_commit(full_id, operations, commit_message="A checkpoint, by SharpGPT")
    return f"Published: {constants.ENDPOINT}/{full_id}"


@contextlib.contextmanager
def _hub_errors(repo_id: str) -> Iterator[None]:
    """Turn what `huggingface_hub` raises into `UserError`."""
    from huggingface_hub import constants, errors
    from huggingface_hub.utils import httpx

    try:
        yield
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        reason = " ".join(str(error.server_message or "").split())[:300]
        answer = f" and answered: {reason}" if reason else ""
        remedy = {
            401: "run hf auth login, or set HF_TOKEN to a valid token",
            403: "the token has no right to write there: make one that has, or give another name",
            404: "check the spelling of the name, and whether the token may write there",
        }.get(status, "try again later")
        raise UserError(
            f"{repo_id}: {constants.ENDPOINT} refused with status {status}{answer}; {remedy}"
        ) from error
    except (httpx.HTTPError, ConnectionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{repo_id}: {constants.ENDPOINT} cannot be reached ({reason}); try again with a "
            "network connection, or use --dry_run and upload the folder there with: hf upload "
            f"{repo_id} FOLDER"
        ) from error
