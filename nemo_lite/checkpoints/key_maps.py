"""The one place where parameter names are translated between NeMo and `transformers`."""

_SUBSAMPLING_STAGES = 4

_NAMES = (
    # NeMo, transformers. A name in front of a dot starts the key; one behind a dot is inside it.
    ("encoder.pre_encode.out.", "encoder.subsampling.linear."),
    (".self_attn.linear_q.", ".self_attn.q_proj."),
    (".self_attn.linear_k.", ".self_attn.k_proj."),
    (".self_attn.linear_v.", ".self_attn.v_proj."),
    (".self_attn.linear_out.", ".self_attn.o_proj."),
    (".self_attn.linear_pos.", ".self_attn.relative_k_proj."),
    (".self_attn.pos_bias_u", ".self_attn.bias_u"),
    (".self_attn.pos_bias_v", ".self_attn.bias_v"),
    (".conv.batch_norm.", ".conv.norm."),
    ("prompt_kernel.0.", "prompt_projector.linear_1."),
    ("prompt_kernel.2.", "prompt_projector.linear_2."),
    ("decoder.prediction.embed.", "decoder.embedding."),
    ("decoder.prediction.dec_rnn.lstm.", "decoder.lstm."),
    ("joint.pred.", "decoder.decoder_projector."),
    ("joint.enc.", "encoder_projector."),
    ("joint.joint_net.2.", "joint.head."),
    ("decoder.decoder_layers.0.", "ctc_head."),
)
# The streaming classes name the subsampling convolutions, the Parakeet classes number them as NeMo.
_STREAMING = (
    ("encoder.pre_encode.conv.0.", "encoder.subsampling.conv_in."),
    *(
        (f"encoder.pre_encode.conv.{3 * n + at}.", f"encoder.subsampling.layers.{n}.{kind}.")
        for n in range(_SUBSAMPLING_STAGES)
        for at, kind in ((2, "depthwise_conv"), (3, "pointwise_conv"))
    ),
)
_OFFLINE = (("encoder.pre_encode.conv.", "encoder.subsampling.layers."),)


def from_transformers(key: str) -> str:
    """NeMo's name of a parameter of any of the supported `transformers` classes."""
    for nemo, other in (*_STREAMING, *_OFFLINE, *_NAMES):
        if (found := _replaced(key, other, nemo)) is not None:
            return found
    return key


def to_transformers(key: str, *, streaming: bool) -> str:
    """The name in a `NemotronAsrStreaming` or `Nemotron3_5Asr` class, else in a `Parakeet` one.

    Parameters without a counterpart there (the filterbank, an auxiliary CTC head) keep their name.
    """
    for nemo, other in (*(_STREAMING if streaming else _OFFLINE), *_NAMES):
        if (found := _replaced(key, nemo, other)) is not None:
            return found
    return key


def canonical(key: str) -> str:
    """One spelling where NeMo has two: trained without dropout, the joint's output moves up."""
    return key.replace("joint.joint_net.1.", "joint.joint_net.2.", 1)


def _replaced(key: str, old: str, new: str) -> str | None:
    if old in key if old.startswith(".") else key.startswith(old):
        return key.replace(old, new, 1)
    return None
