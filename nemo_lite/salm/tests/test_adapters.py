"""Adapters merged into the weights compute what adapters beside them do."""

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from nemo_lite.salm.adapters import merged, take_adapters

RANK, ALPHA = 3, 12


class Block(nn.Module):
    """Two projections, of which one is adapted."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(8, 12, bias=False)
        self.o_proj = nn.Linear(12, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.o_proj(self.q_proj(x).tanh())


def adapted() -> PeftModel:
    torch.manual_seed(0)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["q_proj"], lora_dropout=0.5)
    model = get_peft_model(Block(), config)  # type: ignore[arg-type]
    for name, parameter in model.named_parameters():
        if "lora_" in name:  # peft begins with B = 0
            nn.init.normal_(parameter)
    return model.eval()


def plain_state(model: PeftModel) -> dict[str, Tensor]:
    """As a checkpoint is read: without the names of the wrapper."""
    return {
        name.removeprefix("base_model.model.").replace(".base_layer.", "."): tensor.detach()
        for name, tensor in model.state_dict().items()
    }


def test_merged_weights_give_what_peft_computes_with_the_adapters_apart() -> None:
    model = adapted()
    state = plain_state(model)
    adapters = take_adapters(state, rank=RANK)
    block = Block()
    for name, adapter in adapters.items():
        state[name] = merged(state[name], adapter, ALPHA / RANK)
    block.load_state_dict(state)

    x = torch.randn(5, 8)
    assert adapters.keys() == {"q_proj.weight"}
    torch.testing.assert_close(block(x), model(x), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(block(x), adapted().unload()(x), atol=1e-2)


def test_merged_weights_are_those_that_peft_merges() -> None:
    model = adapted()
    state = plain_state(model)
    ours = merged(state["q_proj.weight"], take_adapters(state, rank=RANK)["q_proj.weight"], 4.0)

    theirs = model.merge_and_unload().q_proj.weight
    torch.testing.assert_close(ours, theirs.detach(), atol=1e-5, rtol=1e-5)


def test_narrow_weights_are_merged_in_float32() -> None:
    weight, a, b = (torch.randn(6, 6).bfloat16() for _ in range(3))
    exact = weight.double() + 0.5 * b.double() @ a.double()

    result = merged(weight, (a, b), 0.5)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), exact, atol=1e-5, rtol=1e-5)


def test_state_without_adapters_stays_as_it_is() -> None:
    state = {"q_proj.weight": torch.ones(2, 2)}

    assert take_adapters(state, rank=0) == {}
    assert state.keys() == {"q_proj.weight"}
