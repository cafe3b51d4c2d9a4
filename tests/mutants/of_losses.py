"""Mistakes in the targets, the reference loss, the fused loss and its backward pass."""

from tests.mutants.mutant import mutants

_FUSED_FILE = "tests/sharpness/test_fused.py"
_SLOW = ("test_float32_is_the_reference_to_1e_5", "test_gradcheck",
         "test_compiled_equals_eager_without_a_graph_break")  # fmt: skip
FUSED = [
    _FUSED_FILE,
    "tests/sharpness/test_gradients.py",
    "tests/sharpness/test_reference.py::test_nothing_divided_by_nothing_is_nothing",
    *(f"--deselect={_FUSED_FILE}::{test}" for test in _SLOW),
]
GRADIENTS = [
    "tests/sharpness/test_gradients.py",
    f"{_FUSED_FILE}::test_reductions_bias_masks_and_upstream_gradients",
    f"{_FUSED_FILE}::test_half_precision_is_no_worse_than_the_dense_path",
    f"{_FUSED_FILE}::test_autocast_leaves_gradients_in_the_dtype_of_the_inputs",
    "tests/sharpness/test_z_loss.py::test_gradients_of_gradients_and_transforms_are_exact",
]
PRODUCTS = ["tests/sharpness/test_products.py"]
Z_LOSS = ["tests/sharpness/test_z_loss.py"]
SMOOTHING = ["tests/sharpness/test_label_smoothing.py"]
SOFTCAP = ["tests/sharpness/test_logit_softcap.py"]
REFERENCE = [
    "tests/sharpness/test_reference.py",
    "tests/sharpness/test_targets.py",
    "tests/sharpness/test_gradients.py",
    f"{_FUSED_FILE}::test_wrong_arguments_are_named",
]

LOSSES = [
    *mutants(
        "sharpgpt/sharpness/targets.py",
        ["tests/sharpness/test_targets.py", "tests/sharpness/test_reference.py"],
        ("V itself is allowed", "(target_N >= vocab_size)", "(target_N > vocab_size)"),
        (
            "negative targets are allowed",
            "((target_N < 0) | (target_N >= vocab_size))",
            "(target_N >= vocab_size)",
        ),
        (
            "ignored targets are refused",
            "(target_N >= vocab_size)) & ~ignored_N",
            "(target_N >= vocab_size))",
        ),
        (
            "ignored targets stay as they are",
            "return target_N.masked_fill(ignored_N, IGNORED)",
            "return target_N.clone()",
        ),
        ("an ignored row is one of token 0", "IGNORED = -1\n", "IGNORED = 0\n"),
        (
            "a boolean target",
            "target_N.is_complex() or target_N.dtype == torch.bool:",
            "target_N.is_complex():",
        ),
        (
            "the fake result keeps the dtype",
            "torch.empty_like(target_N, dtype=torch.int64)",
            "torch.empty_like(target_N)",
        ),
        (
            "the row named is another one",
            "row = int(wrong_N.flatten().nonzero()[0])",
            "row = int(wrong_N.flatten().nonzero()[-1])",
        ),
    ),
    *mutants(
        "sharpgpt/sharpness/reference.py",
        REFERENCE,
        (
            "digits are lost near p = 1",
            "return log_probs_NV.scatter(-1, index_N1, largest_N1)",
            "return log_probs_NV",
        ),
        ("log1p where p is small", "rest_N1 < 0.5, ", "rest_N1 > 0.5, "),
        (
            "the penalty mask is forgotten",
            "valid_N if penalty_mask is None else valid_N & penalty_mask",
            "valid_N",
        ),
        (
            "the mean of no row",
            "        loss = loss / num_rows.clamp(min=1)",
            "        loss = loss / num_rows",
        ),
        (
            "a normalizer of zero",
            "loss / torch.where(num_rows > 0, divisor, 1)",
            "loss / divisor",
        ),
        (
            "half precision is not cast",
            "        logits_NV = logits_NV.float()",
            "        logits_NV = logits_NV",
        ),
        ("accuracy of the least likely", "(probs_NV.argmax(-1) ==", "(probs_NV.argmin(-1) =="),
        (
            "statistics of ignored rows",
            "max_prob=penalties.max_prob(probs_NV) * valid_N",
            "max_prob=penalties.max_prob(probs_NV)",
        ),
        (
            "a NaN in an ignored hidden row",
            "hidden_ND = hidden_ND.masked_fill((target_N == IGNORED)[:, None], 0)",
            "hidden_ND = hidden_ND",
        ),
        (
            "a NaN in an ignored row of logits",
            "logits_NV.masked_fill((target_N == IGNORED)[:, None], 0),",
            "logits_NV,",
        ),
        (
            "the penalty has the other sign",
            "ce_N + penalty_weight * penalty_N",
            "ce_N - penalty_weight * penalty_N",
        ),
        (
            "a product with the mask",
            "torch.where(penalised_N, value_N, 0)",
            "value_N * penalised_N",
        ),
        (
            "plain cross-entropy is only nearly so",
            "log_probs_NV if has_penalty else plain_log_probs_NV",
            "log_probs_NV",
        ),
        ("a top_k of 0", "if not 1 <= top_k <= shape[1]", "if not 0 <= top_k <= shape[1]"),
        ("masks of numbers", " or mask_N.dtype != torch.bool)", ")"),
    ),
    *mutants(
        "sharpgpt/sharpness/fused.py",
        FUSED,
        (
            "rows without a divisor are not filled",
            "(loss_factor_N / divisor).masked_fill(~valid_N, 0)",
            "loss_factor_N / divisor",
        ),
        (
            "the penalty is not masked",
            "loss_factor_N if penalty_mask is None else loss_factor_N * penalty_mask",
            "loss_factor_N",
        ),
        (
            "the penalty of a masked row is counted",
            "counted_SN[1].masked_fill(~penalty_mask, 0)",
            "counted_SN[1]",
        ),
        (
            "means over all rows",
            "counted_SN.sum(1) / num_rows.clamp(min=1)",
            "counted_SN.mean(1)",
        ),
        (
            "the statistics of no row",
            "counted_SN.sum(1) / num_rows.clamp(min=1)",
            "counted_SN.sum(1) / num_rows",
        ),
        (
            "a NaN in an ignored row",
            "hidden_ND[rows].masked_fill(ignored_N[rows, None], 0).to",
            "hidden_ND[rows].to",
        ),
        (
            "the padding is stale",
            "                tile_TW[:, vocab_size:] = PADDING\n",
            "",
        ),
        ("the bias is left out", "tile_TW[:, :vocab_size] += bias", "pass"),
        (
            "the gradient of the bias is that of the last chunk",
            "grad_bias_V += chunk_CW[:, :vocab_size].sum(0, dtype=sum_dtype)",
            "grad_bias_V.copy_(chunk_CW[:, :vocab_size].sum(0, dtype=sum_dtype))",
        ),
        (
            "the factors of the first chunk",
            "place = slice(start + first, start + first + len(part_TW))",
            "place = slice(first, first + len(part_TW))",
        ),
        (
            "statistics of ignored rows",
            "    statistics_SN.masked_fill_(ignored_N, 0)\n",
            "",
        ),
        (
            "the loss without its penalty",
            "return sum(others, loss), ",
            "return loss, ",
        ),
        (
            "no gradient if only the weight wants one",
            "needs_gradient = need_hidden or need_weight or need_bias",
            "needs_gradient = need_hidden",
        ),
        (
            "the fake has gradients for losses of rows",
            "tensor.shape if need and not loss_per_row else 0)",
            "tensor.shape if need else 0)",
        ),
        (
            "gradients without anyone to take them",
            "[torch.is_grad_enabled() and tensor.requires_grad for",
            "[tensor.requires_grad for",
        ),
        (
            "a chunk too many",
            "return max(1, -(-num_rows // max(1, num_chunks)))",
            "return max(1, num_rows // max(1, num_chunks))",
        ),
        ("chunks of no row", "chunk_size < 1:", "chunk_size < 0:"),
    ),
    *mutants(
        "sharpgpt/sharpness/products.py",
        FUSED,
        (
            "the gradient of the weight is that of the last chunk",
            "out_VD.addmm_(a_VC, b_CD)",
            "torch.mm(a_VC, b_CD, out=out_VD)",
        ),
    ),
    *mutants(
        "sharpgpt/sharpness/products.py",
        PRODUCTS,
        (
            "bfloat16 products without the instructions",
            "(dtype == torch.bfloat16 and cpu_multiplies_bfloat16())",
            "dtype == torch.bfloat16",
        ),
        (
            "float16 products on a CPU",
            "(dtype == torch.bfloat16 and cpu_multiplies_bfloat16())",
            "cpu_multiplies_bfloat16()",
        ),
        (
            "the bfloat16 gradient of the weight is that of the last chunk",
            "            if self._is_first:\n",
            "            if True:\n",
        ),
        (
            "blocks of the weight's gradient overlap",
            "gradient_CW[:, start : start + len(block_BD)]",
            "gradient_CW[:, : len(block_BD)]",
        ),
    ),
    *mutants(
        "sharpgpt/sharpness/fused.py",
        PRODUCTS,
        (
            "bfloat16 logits keep their place",
            "                    part_TW.copy_(tile_TW)\n",
            "                    pass\n",
        ),
    ),
    *mutants(
        "sharpgpt/sharpness/fused.py",
        Z_LOSS,
        (
            "the z-loss has the mask of the penalty",
            "factors.append(loss_factor_N * z_loss_weight)",
            "factors.append(penalty_factor_N * z_loss_weight)",
        ),
        ("the loss without its z-loss", "sum(others, loss)", "sum(others[:1], loss)"),
        (
            "the weight of the z-loss is not transformed",
            "weights = (penalty_weight, z_loss_weight, label_smoothing)",
            "weights = (penalty_weight, label_smoothing)",
        ),
        (
            "the scale of float16 without the z-loss",
            "loss_N = loss_N + 2 * z_factor_N * bound_N",
            "loss_N = loss_N + 0 * bound_N",
        ),
        (
            "the scale of float16 without the bias",
            "            bound_N += bias.abs().amax()",
            "            pass",
        ),
        (
            "a NaN of an ignored row in the scale of float16",
            "* bound_N.masked_fill(ignored_N, 0)",
            "* bound_N",
        ),
    ),
    *mutants(
        "sharpgpt/sharpness/fused.py",
        SMOOTHING,
        (
            "smoothing has the mask of the penalty",
            "factors.append(loss_factor_N * label_smoothing)",
            "factors.append(penalty_factor_N * label_smoothing)",
        ),
        (
            "smoothing takes the place of the z-loss",
            "    if has_smoothing or isinstance(z_loss_weight, Tensor)",
            "    if isinstance(z_loss_weight, Tensor)",
        ),
        (
            "the weight of smoothing is not transformed",
            "weights = (penalty_weight, z_loss_weight, label_smoothing)",
            "weights = (penalty_weight, z_loss_weight)",
        ),
        (
            "the scale of float16 without smoothing",
            "torch.stack([loss_N, penalty_N, *others[1:]])",
            "torch.stack([loss_N, penalty_N])",
        ),
        (
            "any number is allowed",
            "        label_smoothing=label_smoothing,\n        logit_softcap=logit_softcap,\n    )",
            "        logit_softcap=logit_softcap,\n    )",
        ),
    ),
    *mutants(
        "sharpgpt/sharpness/reference.py",
        SMOOTHING,
        (
            "0 * inf in the smoothing of an ignored row",
            "torch.where(valid_N, above_mean(logits_NV, target_N), 0)",
            "above_mean(logits_NV, target_N)",
        ),
        (
            "smoothing away from the mean",
            ".squeeze(-1) - z_NV.mean(-1)",
            ".squeeze(-1) + z_NV.mean(-1)",
        ),
        ("smoothing of 1", "not 0 <= label_smoothing < 1", "not 0 <= label_smoothing <= 1"),
    ),
    *mutants(
        "sharpgpt/sharpness/gradients.py",
        SMOOTHING,
        ("no smoothing in second order", "if len(factors) > 3:", "if len(factors) > 4:"),
    ),
    *mutants(
        "sharpgpt/sharpness/gradients.py",
        SOFTCAP,
        (
            "no soft cap in second order",
            'soft_capped(logits_NV, settings.get("logit_softcap"))',
            "soft_capped(logits_NV, None)",
        ),
    ),
    *mutants(
        "sharpgpt/sharpness/fused.py",
        SOFTCAP,
        (
            "no soft cap under a transform",
            "            logit_softcap=logit_softcap,\n            top_k=top_k,\n",
            "            top_k=top_k,\n",
        ),
    ),
    *mutants(
        "sharpgpt/sharpness/reference.py",
        SOFTCAP,
        (
            "the cap is not of the unit of the logits",
            "else logit_softcap * (logits / logit_softcap).tanh()",
            "else logit_softcap * logits.tanh()",
        ),
        (
            "a cap of 0",
            "not 0 < logit_softcap < math.inf",
            "not 0 <= logit_softcap < math.inf",
        ),
    ),
    *mutants(
        "sharpgpt/sharpness/reference.py",
        Z_LOSS,
        (
            "0 * inf in the z-loss of an ignored row",
            "torch.where(valid_N, log_sum_exp(logits_NV).square(), 0)",
            "(log_sum_exp(logits_NV).square() * valid_N)",
        ),
        (
            "the z-loss statistic of ignored rows",
            "log_sum_exp_N1.squeeze(-1).square() * valid_N",
            "log_sum_exp_N1.squeeze(-1).square()",
        ),
        (
            "the largest logit has no gradient of logsumexp",
            "z_NV.gather(-1, index_N1).expm1()",
            "0 * index_N1.to(z_NV.dtype)",
        ),
        ("digits are lost in logsumexp", "+ rest_N.log1p()", "+ (1 + rest_N).log()"),
        ("a z-loss of weight 0 is computed", "    if has_z_loss:", "    if True:"),
    ),
    *mutants(
        "sharpgpt/sharpness/gradients.py",
        GRADIENTS,
        (
            "the saved gradient is scaled in place",
            "[gradient.mul_(f) if give_away else gradient * f for",
            "[gradient.mul_(f) for",
        ),
        (
            "the saved gradient is given away",
            "give_away = is_eager and not torch._C._autograd._get_current_graph_task_keep_graph()",
            "give_away = is_eager",
        ),
        (
            "the upstream gradient is taken for 1",
            'grad_loss.device.type == "cpu" and grad_loss.item() == 1:',
            'grad_loss.device.type == "cpu":',
        ),
        (
            "the gradients hold the graph",
            "[found.detach() for found in gradients]",
            "gradients",
        ),
        (
            "0 * inf in a row of its own",
            "(factor_N * grad_loss).masked_fill(ignored_N, 0)",
            "(factor_N * grad_loss)",
        ),
        (
            "0 * inf in an ignored row of a mean",
            "grad_loss.expand(ignored_N.shape).masked_fill(ignored_N, 0)[:, None]",
            "grad_loss.expand(ignored_N.shape)[:, None]",
        ),
        (
            "0 * inf where every row is ignored",
            "factor = grad_loss.masked_fill(ignored_N.all(), 0)",
            "factor = grad_loss",
        ),
        (
            "gradients in the dtype of sums",
            "gradient.to(tensor.dtype) if need else None",
            "gradient if need else None",
            "autograd casts a gradient to the dtype of its input",
        ),
        (
            "the upstream gradient in half precision",
            "gradients = _scaled(gradients, grad_loss, ignored_N)",
            "gradients = _scaled(gradients, grad_loss.to(layer[0].dtype).float(), ignored_N)",
        ),
        (
            "the gradient of a weight that is learned",
            "            grad_loss * value_N if need else None",
            "            value_N if need else None",
        ),
        (
            "gradients of gradients are zeros",
            "if torch.is_grad_enabled() or is_transformed(grad_loss):",
            "if is_transformed(grad_loss):",
        ),
        (
            "a vectorised jacobian",
            "if torch.is_grad_enabled() or is_transformed(grad_loss):",
            "if torch.is_grad_enabled():",
        ),
        (
            "an ignored row in second order",
            "        hidden_ND = hidden_ND.masked_fill(ignored_N[:, None], 0)\n",
            "",
        ),
        (
            "0 * inf in second order",
            "        loss_N = loss_N.masked_fill(ignored_N, 0)\n",
            "",
        ),
        (
            "digits are lost in second order",
            "exact_near_one(logits_NV.log_softmax(-1))",
            "logits_NV.log_softmax(-1)",
        ),
        (
            "no z-loss in second order",
            "if len(factors) > 2:",
            "if len(factors) > 3:",
        ),
        (
            "a tied weight is counted twice",
            "inputs = [tensor.view_as(tensor) for tensor in inputs]",
            "inputs = list(inputs)",
        ),
        (
            "forward mode is not seen",
            "return forward_ad.unpack_dual(tensor).tangent is not None",
            "return False and forward_ad.unpack_dual(tensor).tangent is not None",
        ),
    ),
    *mutants(
        "sharpgpt/sharpness/module.py",
        [f"{_FUSED_FILE}::test_the_module_is_the_function"],
        ("the bias is left out", "target_N, bias=bias, ", "target_N, "),
        ("the mask is left out", "penalty_mask=penalty_mask, **", "**"),
    ),
]
