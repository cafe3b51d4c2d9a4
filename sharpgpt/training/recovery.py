"""What happens to a step with an anomaly: it is logged, skipped, or ends the run, or the run rolls
back to its newest checkpoint."""

import logging
import math

import torch
from torch import Tensor

from sharpgpt.core.errors import UserError
from sharpgpt.runs.checkpoint_files import load_tensors
from sharpgpt.training.anomalies import MAX_ROLLBACKS, Verdict
from sharpgpt.training.profiler import phase
from sharpgpt.training.state import CannotContinueError, Training
from sharpgpt.training.weights import check_weights

logger = logging.getLogger(__name__)


@phase("check")
def check_step(run: Training, loss: Tensor, grad_norm: Tensor) -> Verdict:
    """Whether the optimizer takes the step; after ROLL_BACK the run is rolled back already.

    This waits for the device once per optimizer step, the cost of stopping in time.

    Raises:
        CannotContinueError: a value is not finite, and the policy is to stop; or the weights are
            not.
    """
    numbers, control = [loss.float(), grad_norm.float()], run.progress.entropy_control
    if control is not None and control.measured is not None:
        numbers.append(control.measured.float())
    loss_value, norm_value, *entropies = torch.stack(numbers).tolist()
    if control is not None:
        control.entropy = entropies[0]
    anomalies, step = run.progress.anomalies, run.progress.step + 1
    values = f"the loss is {loss_value} and the gradient norm {norm_value}"
    num_spikes = anomalies.num_loss_spikes
    if not (math.isfinite(loss_value) and math.isfinite(norm_value)):
        check_weights(run)  # without finite weights, no step can be taken
    verdict = anomalies.judge(loss_value, norm_value)
    if verdict is Verdict.STOP:
        skipped = anomalies.num_skipped_in_a_row
        raise CannotContinueError(
            f"step {step}: {values}. The step was not taken"
            + (f", after {skipped} skipped ones in a row" if skipped else ""),
            "Try a lower learning_rate, more warmup_steps, a lower max_grad_norm, a penalty_weight "
            "nearer 0, or dtype float32; on_nonfinite: skip leaves such steps out",
        )
    if verdict is Verdict.SKIP and anomalies.num_skipped_in_a_row == 1:
        logger.warning("step %d is skipped: %s", step, values)
    if anomalies.num_loss_spikes > num_spikes:
        limit = anomalies.spike_limit()
        logger.warning("loss spike at step %d: %.4f, above %.4f", step, loss_value, limit)
    if verdict is Verdict.ROLL_BACK and not roll_back(run):
        anomalies.take(loss_value)
        return Verdict.TAKE
    return verdict


def roll_back(run: Training) -> bool:
    """Return to the newest checkpoint and skip the batches since; False if that is impossible."""
    progress, saver = run.progress, run.outputs.saver
    saver.wait()
    try:
        checkpoint = saver.folder.newest(set_aside=True)
    except UserError as error:
        logger.warning("no rollback: %s", error)
        return False
    if checkpoint is None:
        logger.warning("no rollback, since there is no checkpoint yet")
        return False
    if not progress.anomalies.may_roll_back_to(checkpoint.state.step):
        name = checkpoint.path.name
        logger.warning("no rollback, since there were %d to %s already", MAX_ROLLBACKS, name)
        return False
    next_block = progress.next_block + run.num_blocks_of_step
    setup, model = run.setup, run.model
    load_tensors(checkpoint.path, setup.causal_lm, model.optimizers, setup.device.torch_device)
    model.zero_gradients()
    progress.restore(checkpoint, after_rollback=True)
    progress.next_block = next_block
    saver.last_saved = checkpoint.path  # the one before may have been set aside
    run.outputs.log.records.keep_until(progress.step)
    logger.warning("back at step %d; training continues with other batches", progress.step)
    return True
