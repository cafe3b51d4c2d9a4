"""Mistakes in schedules, in Muon's update, and in the steps of a growing batch."""

from tests.mutants.mutant import mutants

SCHEDULE = ["tests/training/test_schedule.py"]
MUON = ["tests/training/test_muon.py"]
STEP = ["tests/training/test_step.py"]
SETUP = ["tests/training/test_setup.py"]

RECIPE = [
    *mutants(
        "sharpgpt/training/schedule.py",
        SCHEDULE,
        ("the decay begins a step late", "(step - stable + 1) / max", "(step - stable) / max"),
        ("there is no stable phase", "        if step < stable:\n            return peak\n", ""),
        (
            "a decay reaches into the warm-up",
            "max(config.warmup_steps, total_steps - num_steps)",
            "(total_steps - num_steps)",
        ),
        ("a decay of 0 steps is the default", "if num_steps is None:", "if not num_steps:"),
        ("linear and cosine change places", 'config.lr_schedule == "linear"', "False"),
        ("a low momentum falls first", "min(FIRST_MUON_MOMENTUM, momentum)", "FIRST_MUON_MOMENTUM"),
        (
            "the batch is whole too early",
            "(whole // first - 1) // warmup",
            "(whole // first) // warmup",
        ),
        ("epochs that end with the warm-up", "if num_steps > warmup:", "if num_steps >= warmup:"),
        ("the tokens of the warm-up count in full", "(wanted + missing)", "wanted"),
    ),
    *mutants(
        "sharpgpt/training/schedule.py",
        ["tests/training/test_optimizer.py"],
        (
            "Muon has AdamW's peak",
            "config.learning_rate if peak is None else peak",
            "config.learning_rate",
        ),
    ),
    *mutants(
        "sharpgpt/training/muon.py",
        MUON,
        ("the norm is not kept", "scaled.mul_(norm / scaled_norm.clamp(min=EPS))", "scaled"),
        ("divided by the square", "(second_moment.sqrt() + EPS)", "(second_moment + EPS)"),
        ("no memory of earlier steps", "keepdim=True), 1 - BETA2)", "keepdim=True), 1.0)"),
        ("a Conv1D is not transposed", "int(id(matrix) in transposed)", "0"),
        (
            "a part has the scale of the whole",
            "torch.Size(shape)",
            'group["params"][0].shape',
        ),
        (
            "matrices of one shape have one norm",
            "x_GRC.norm(dim=(1, 2), keepdim=True)",
            "x_GRC.norm()",
        ),
        ("weights grow", 'matrix.mul_(1 - group["lr"]', 'matrix.mul_(1 + group["lr"]'),
        (
            "no Nesterov momentum",
            'if group["nesterov"] else buffer',
            'if not group["nesterov"] else buffer',
        ),
        (
            "all parts share one second moment",
            "part.second_moment, in_dim",
            "parts[0].second_moment, in_dim",
        ),
    ),
    *mutants(
        "sharpgpt/training/step.py",
        STEP,
        (
            "a small batch is divided by the whole",
            "run.num_blocks_of_step *",
            "run.setup.blocks_per_step *",
        ),
        (
            "a step reads a whole batch",
            "run.num_micro_batches //",
            "run.config.gradient_accumulation_steps //",
        ),
    ),
    *mutants(
        "sharpgpt/training/after_step.py",
        STEP,
        (
            "tokens of whole batches are counted",
            "run.tokens_between(step - window.num_steps, step)",
            "window.num_steps * plan.tokens_per_step",
        ),
    ),
    *mutants(
        "sharpgpt/training/state.py",
        ["tests/training/test_exactness.py::test_all_of_the_recipe_stopped_and_continued"],
        (
            "the data position is moved by the next step's blocks",
            "        self.progress.next_block += self.num_blocks_of_step\n"
            "        self.progress.step += 1\n",
            "        self.progress.step += 1\n"
            "        self.progress.next_block += self.num_blocks_of_step\n",
        ),
    ),
    *mutants(
        "sharpgpt/training/setup.py",
        SETUP,
        (
            "any other schedule is accepted",
            "if different.refused and self._had_same_steps(state):",
            "if different.refused:",
        ),
        (
            "a setting that is new counts as unchanged",
            "TrainingConfig().to_dict() | state.config",
            "dict(state.config)",
        ),
        (
            "the first batch is not compared",
            '            before["blocks_in_first_step"] = _first_blocks(config)\n',
            "",
        ),
    ),
    *mutants(
        "sharpgpt/training/entropy_control.py",
        ["tests/training/test_entropy_control.py"],
        ("the wrong way", "+ INTEGRAL_GAIN * limited", "- INTEGRAL_GAIN * limited"),
        ("nothing damps it", "self._integral + PROPORTIONAL_GAIN * limited", "self._integral"),
        (
            "the integral runs away",
            "self._integral = self._within(self._integral + INTEGRAL_GAIN * limited)",
            "self._integral += INTEGRAL_GAIN * limited",
        ),
        ("a skipped measurement counts", "or not math.isfinite(entropy)", "or False"),
        (
            "the next weight is forgotten",
            "self._within(state.next)",
            "self._within(state.integral)",
        ),
        (
            "it acts in the warm-up of the penalty",
            "if not values.is_controlled or",
            "if",
        ),
    ),
    *mutants(
        "sharpgpt/training/step.py",
        ["tests/training/test_entropy_control.py"],
        ("the entropy of the last micro-batch", "torch.stack(entropies).sum(0)", "entropies[-1]"),
    ),
]
