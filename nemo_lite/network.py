"""The whole network: every module that has parameters, named as NeMo names them."""

import torch
from torch import Tensor, nn

from nemo_lite.config import ModelConfig
from nemo_lite.conformer import FastConformer
from nemo_lite.decoding import CtcHead, Joint, LanguagePrompt, Predictor
from nemo_lite.features import AudioPreprocessor


class Network(nn.Module):
    """Front end, encoder and decoders of one checkpoint; a NeMo `state_dict` loads strictly."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.preprocessor = AudioPreprocessor(config.preprocessor)
        self.encoder = FastConformer(config.encoder)
        if config.predictor is not None and config.joint is not None:
            self.decoder = Predictor(config.predictor)
            self.joint = Joint(config.joint)
        if config.ctc:
            head = CtcHead(config.encoder.d_model, config.vocabulary_size)
            self.add_module(config.ctc_prefix, head)
        if config.prompt is not None:
            self.prompt_kernel = LanguagePrompt(config.prompt, config.encoder.d_model)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.encoder.pre_encode.out.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the encoder computes in."""
        return self.encoder.pre_encode.out.weight.dtype

    @property
    def ctc_head(self) -> CtcHead | None:
        """The CTC head, if there is one."""
        if not self.config.ctc:
            return None
        head = self.get_submodule(self.config.ctc_prefix)
        assert isinstance(head, CtcHead)
        return head

    def copy_to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Like `to`, but into memory of its own in any case, one tensor after another."""

        def copied(tensor: Tensor) -> Tensor:
            kind = dtype if tensor.is_floating_point() else tensor.dtype
            return tensor.to(device, kind, copy=True)

        self._apply(copied)

    def prompt_index(self, language: str | None) -> int:
        """The prompt's row for a language; 0, and meaningless, for models without prompts.

        Raises:
            ValueError: the model does not know the language, or knows no prompts at all.
        """
        if self.config.prompt is not None:
            return self.config.prompt.index(language)
        if language is not None:
            raise ValueError("this model takes no language")
        return 0

    def apply_prompt(self, encoded: Tensor, prompts: Tensor) -> Tensor:
        """Tell each frame (B, T, D) its language, rows `prompts` (B,) int64; or do nothing."""
        if self.config.prompt is None:
            return encoded
        return self.prompt_kernel(encoded, prompts)

    def encoder_frames(self, mel_frames: int) -> int:
        """Encoder frames of a whole recording of so many mel frames."""
        return self.encoder.pre_encode.output_frames(mel_frames) if mel_frames else 0
