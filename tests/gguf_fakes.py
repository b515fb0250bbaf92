"""The matrices of a Qwen2 model's layer, for models of random weights."""


def qwen2_matrices(wide: int, keys: int, inner: int) -> tuple[tuple[str, int, int], ...]:
    """Return name, outputs and inputs of each matrix of a layer: `keys` numbers a token's keys, `inner` its gate."""
    return (
        ("attn_q", wide, wide),
        ("attn_k", keys, wide),
        ("attn_v", keys, wide),
        ("attn_output", wide, wide),
        ("ffn_gate", inner, wide),
        ("ffn_up", inner, wide),
        ("ffn_down", wide, inner),
    )
