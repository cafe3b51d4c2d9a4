"""Mistakes in the penalties and in the row mathematics of the fused loss."""

from tests.mutants.mutant import mutants
from tests.mutants.of_losses import FUSED, SMOOTHING, SOFTCAP, Z_LOSS

PENALTY = ["tests/sharpness/test_penalties.py", *FUSED]

ROWS = [
    *mutants(
        "sharpgpt/sharpness/penalties.py",
        PENALTY,
        (
            "entropy is negative",
            "return -(probs_NV * _finite(log_probs_NV)).sum(-1)",
            "return (probs_NV * _finite(log_probs_NV)).sum(-1)",
        ),
        (
            "the smallest is the largest",
            "return (probs_NV < probs_NV).scatter(-1, probs_NV.argmax(",
            "return (probs_NV < probs_NV).scatter(-1, probs_NV.argmin(",
        ),
        (
            "a constant of the gradient",
            "gradient=lambda _, log_p, __: -(_finite(log_p) + 1),",
            "gradient=lambda _, log_p, __: -_finite(log_p),",
        ),
        (
            "one place less among equals",
            "(equal_NV.int().cumsum(-1) <= num_places_N1)",
            "(equal_NV.int().cumsum(-1) < num_places_N1)",
        ),
        (
            "all equals are in the top k",
            "above_NV = probs_NV > smallest_N1",
            "above_NV = probs_NV >= smallest_N1",
        ),
        (
            "digits are lost in 1 - S",
            "return probs_NV.masked_fill(top_k_mask(probs_NV.detach(), top_k), 0).sum(-1)",
            "return 1 - top_k_mass(probs_NV, top_k)",
        ),
        (
            "digits are lost in 1 - m",
            "return -log_probs_NV.gather(-1, probs_NV.argmax(-1, keepdim=True))"
            ".squeeze(-1).expm1()",
            "return 1 - max_prob(probs_NV)",
        ),
        (
            "0 * -inf",
            "return log_probs_NV.masked_fill(log_probs_NV == -math.inf, 0.0)",
            "return log_probs_NV",
        ),
        (
            "the largest entry has the other sign",
            "columns=row.max_index, inside=-row.rest)",
            "columns=row.max_index, inside=row.rest)",
        ),
        (
            "the slope has the other sign",
            "FastPenalty(row.entropy, row.mean_z, slope=-1.0)",
            "FastPenalty(row.entropy, row.mean_z, slope=1.0)",
        ),
        (
            "the shift of the entropy is dropped",
            "FastPenalty(row.entropy, row.mean_z, slope=-1.0)",
            "FastPenalty(row.entropy, row.mean_z * 0, slope=-1.0)",
        ),
        (
            "the shift of the others is that of the k",
            "            1 - row.top_k_rest,\n",
            "            row.top_k_rest,\n",
        ),
        (
            "the entropy as the value of max p",
            "fast=lambda row: _fast_max(-row.max_prob, row)",
            "fast=lambda row: _fast_max(row.rest, row)",
        ),
        (
            "a mean without its probability",
            "return weighted_NV - probs_NV * weighted_NV.sum",
            "return weighted_NV - weighted_NV.sum",
        ),
        (
            "a path of import that is no penalty",
            "    if not isinstance(found, Penalty):",
            "    if found is None:",
        ),
    ),
    *mutants(
        "sharpgpt/sharpness/rows.py",
        FUSED,
        ("the padding is a logit of 0", "PADDING = -1e30", "PADDING = 0.0"),
        (
            "the last block is cut off",
            "return -(-vocab_size // BLOCK) * BLOCK",
            "return max(1, vocab_size // BLOCK) * BLOCK",
        ),
        (
            "shifted by the maximum of the first block",
            "logits_TW.sub_(max_T1)",
            "logits_TW.sub_(block_max_TB[:, :1])",
        ),
        (
            "the rest without the other k - 1",
            "outside_top_T + top_e_Tk.scatter(1, max_place_T1, 0).sum(-1)",
            "outside_top_T.clone()",
        ),
        (
            "digits are lost in the logarithm",
            "log_sum_T = outside_max_T.log1p()",
            "log_sum_T = sum_T.log()",
        ),
        (
            "digits are lost in 1 - m",
            "rest_T = outside_max_T / sum_T",
            "rest_T = 1 - max_prob_T",
        ),
        (
            "digits are lost in 1 - S",
            "rest_top_T = outside_top_T / sum_T",
            "rest_top_T = 1 - top_e_Tk.sum(-1) / sum_T",
        ),
        (
            "the entropy has the other sign",
            "entropy_T = log_sum_T - mean_z_T",
            "entropy_T = log_sum_T + mean_z_T",
        ),
        (
            "a sum for a mean",
            "mean_z_T = ez_TW.sum(-1) / sum_T",
            "mean_z_T = ez_TW.sum(-1)",
        ),
        (
            "cross-entropy has the other sign",
            "ce_T = log_sum_T - target_z_T",
            "ce_T = log_sum_T + target_z_T",
        ),
        (
            "digits are lost in the gradient of the largest",
            "        z_TW.scatter_(1, max_index_T1, exact_T[:, None])\n",
            "",
        ),
        (
            "the target is never the largest",
            "torch.where(hit_T1.flatten(), -rest_T, max_prob_T)",
            "max_prob_T",
        ),
        (
            "the target is pushed down",
            "at_target_T = -factors.loss",
            "at_target_T = factors.loss",
        ),
        (
            "the k are pushed down",
            "inside_T = (factors.loss + factors.penalty * fast.inside)",
            "inside_T = (factors.loss - factors.penalty * fast.inside)",
        ),
        (
            "the others have the other sign",
            "a_T = (factors.loss + factors.penalty * fast.shift)",
            "a_T = (factors.loss - factors.penalty * fast.shift)",
        ),
        (
            "the slope is not normalised",
            "c_T = factors.penalty * fast.slope / sum_T",
            "c_T = factors.penalty * fast.slope",
        ),
        (
            "both products are in one buffer",
            "torch.mul(e_TW, z_TW, out=buffers[1])",
            "torch.mul(e_TW, z_TW, out=buffers[0])",
        ),
        (
            "the k are not put back",
            "    e_TW.scatter_(1, top_index_Tk, top_e_Tk)\n",
            "",
        ),
        (
            "the jacobian of an own penalty",
            "(weighted_TV - p_TV * dot_T1)",
            "(weighted_TV - dot_T1)",
        ),
        (
            "digits of an own penalty cancel",
            "(gradient_TV - gradient_TV.gather(1, max_index_T1))",
            "gradient_TV",
        ),
        (
            "blocks are columns",
            "block_Tk.gather(1, place_Tk // BLOCK) * BLOCK",
            "block_Tk.gather(1, place_Tk // BLOCK)",
        ),
        (
            "the last of equals is taken",
            "(equal_TC.cumsum(-1) <= num_places_T1)",
            "(equal_TC.cumsum(-1) >= num_places_T1)",
        ),
        (
            "the mass of the others",
            "            1 - rest_top_T,\n",
            "            rest_top_T,\n",
        ),
    ),
    *mutants(
        "sharpgpt/sharpness/rows.py",
        Z_LOSS,
        (
            "logsumexp of the shifted logits",
            "log_sum_exp_T = max_T1.flatten() + log_sum_T",
            "log_sum_exp_T = log_sum_T",
        ),
        (
            "logsumexp is not squared",
            "            log_sum_exp_T.square(),\n",
            "            log_sum_exp_T,\n",
        ),
        (
            "the gradient of half the square",
            "z_factor_T = 2 * factors.z_loss",
            "z_factor_T = factors.z_loss",
        ),
        (
            "the largest entry without the z-loss",
            "            exact_T += z_factor_T * max_prob_T",
            "            pass",
        ),
        (
            "an own penalty without the z-loss",
            "            p_factors,\n",
            "            factors,\n",
        ),
        (
            "a built-in penalty without the z-loss",
            "_write_gradient(z_TW, e_TW, p_factors, ",
            "_write_gradient(z_TW, e_TW, factors or p_factors, ",
        ),
    ),
    *mutants(
        "sharpgpt/sharpness/rows.py",
        SMOOTHING,
        (
            "the mean has columns of padding",
            "z_TW[:, :vocab_size].sum(-1) / vocab_size",
            "z_TW[:, :vocab_size].sum(-1) / z_TW.shape[1]",
        ),
        (
            "the target is not smoothed",
            "at_target_T = at_target_T + factors.smoothing",
            "at_target_T = at_target_T + 0 * factors.smoothing",
        ),
        (
            "the others are not smoothed",
            "            z_TW.sub_(factors.smoothing[:, None] / vocab_size)\n",
            "",
        ),
        (
            "the largest entry is not smoothed",
            "exact_T += factors.smoothing * (",
            "exact_T += 0 * factors.smoothing * (",
        ),
        (
            "the largest entry is smoothed as the target",
            "(hit_T1.flatten().to(ce_T.dtype) - 1 / vocab_size)",
            "(1 - 1 / vocab_size)",
        ),
    ),
    *mutants(
        "sharpgpt/sharpness/rows.py",
        SOFTCAP,
        (
            "the padding is capped",
            "        z_TW[:, vocab_size:] = PADDING\n",
            "",
        ),
        (
            "the sigmoid is not shifted",
            "- (logit_softcap if use_sigmoid else 0.0)",
            "- 0.0",
        ),
        (
            "the gradient of the capped logits",
            "            _through_softcap(z_TW, capped_TW, use_sigmoid)\n",
            "            pass\n",
        ),
        ("a quarter of the gradient", "        gradient_TW.mul_(4)\n", "        pass\n"),
        (
            "the tanh of the sigmoid's argument",
            "scale = 2 / logit_softcap if use_sigmoid else 1 / logit_softcap",
            "scale = 2 / logit_softcap",
        ),
        (
            "the sigmoid of the tanh's argument",
            "scale = 2 / logit_softcap if use_sigmoid else 1 / logit_softcap",
            "scale = 1 / logit_softcap",
        ),
        (
            "half of what the sigmoid spans",
            "gain = 2 * logit_softcap if use_sigmoid else logit_softcap",
            "gain = logit_softcap",
        ),
    ),
]
