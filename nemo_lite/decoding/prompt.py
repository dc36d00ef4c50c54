"""The language prompt of the multilingual model: tells the decoder which language to write."""

from typing import cast

from torch import Tensor, nn

from nemo_lite.config import PromptConfig


class LanguagePrompt(nn.Sequential):
    """NeMo's `prompt_kernel`: [encoder frame, one-hot language] → Linear → ReLU → Linear.

    Parameter names are NeMo's when the model's attribute is called `prompt_kernel`.
    """

    def __init__(self, config: PromptConfig, d_model: int) -> None:
        first = nn.Linear(d_model + config.num_prompts, config.hidden)
        last = nn.Linear(config.hidden, d_model)
        super().__init__(first, nn.ReLU(), last)
        self.d_model = d_model

    def forward(self, encoded: Tensor, prompts: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Mark the frames with their stream's language.

        Args:
            encoded: (B, T, D) encoder frames.
            prompts: (B,) int64 rows of the prompt dictionary, see `PromptConfig.index`.

        Returns:
            (B, T, D).
        """
        first = cast(nn.Linear, self[0])
        # A one-hot input selects one column of the weight; no (B, T, D + P) tensor is needed.
        frames, languages = first.weight[:, : self.d_model], first.weight[:, self.d_model :]
        language = languages.index_select(1, prompts).t().unsqueeze(1)  # (B, 1, hidden)
        widened = nn.functional.linear(encoded, frames, first.bias) + language
        return self[2](self[1](widened))
