"""Training FLOPs of a model, the numerator of MFU."""


def flops_per_token(
    num_matrix_parameters: int, n_layer: int, n_embd: int, max_seq_length: int
) -> float:
    """Training FLOPs per token: 6 N + 12 L D T (Chowdhery et al. 2022, PaLM, appendix B).

    N counts the parameters of matrix products, the output layer among them and the embedding
    look-ups not; attention is counted without the saving that causality allows.
    """
    return 6.0 * num_matrix_parameters + 12.0 * n_layer * n_embd * max_seq_length
