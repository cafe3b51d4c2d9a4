"""All mutants, by area."""

from tests.mutants.mutant import Mutant
from tests.mutants.of_checkpoints import CHECKPOINTS
from tests.mutants.of_files import FILES
from tests.mutants.of_losses import LOSSES
from tests.mutants.of_recipe import RECIPE
from tests.mutants.of_rows import ROWS
from tests.mutants.of_shards import SHARDS
from tests.mutants.of_tokens import TOKENS
from tests.mutants.of_verdict import VERDICT

ALL: list[Mutant] = [*LOSSES, *ROWS, *FILES, *CHECKPOINTS, *TOKENS, *SHARDS, *RECIPE, *VERDICT]
