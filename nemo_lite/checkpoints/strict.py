"""Puts a state into a module without copying it, or says exactly what does not fit."""

from collections.abc import Mapping

from torch import Tensor, nn

from nemo_lite.errors import CheckpointError

_LISTED = 8


def load_strictly(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    source: str,
    optional: tuple[str, ...] = (),
) -> None:
    """Make the tensors of `state` the module's own parameters and buffers.

    The module should be built inside `torch.device("meta")`: nothing is copied or converted, so
    the module has the tensors' device and dtype afterwards and shares their memory.

    Args:
        module: names and shapes must be those of `state`.
        source: names the checkpoint in messages.
        optional: prefixes of names that may be missing; those tensors stay as the module made them.

    Raises:
        CheckpointError: tensors are missing, unexpected, or of another shape or kind; the message
            lists the first few of each. The module is unchanged.
    """
    wanted = module.state_dict()
    missing = [name for name in wanted if name not in state and not name.startswith(optional)]
    unexpected = [name for name in state if name not in wanted]
    differing = [
        f"{name} {_describe(state[name])} instead of {_describe(tensor)}"
        for name, tensor in wanted.items()
        if name in state and not _fits(state[name], tensor)
    ]
    problems = [
        f"{len(names)} {what}: {_first(names)}"
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", differing),
        )
        if names
    ]
    if problems:
        raise CheckpointError(f"{source}: weights do not fit: {'; '.join(problems)}")
    module.load_state_dict(state, strict=False, assign=True)


def _fits(given: Tensor, wanted: Tensor) -> bool:
    return given.shape == wanted.shape and given.is_floating_point() == wanted.is_floating_point()


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _first(names: list[str]) -> str:
    rest = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")
