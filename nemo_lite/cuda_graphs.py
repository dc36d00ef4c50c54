"""Recording of CUDA graphs. Knows nothing of the model."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch


class CudaGraphs:
    """Makes graphs that share one pool of memory.

    What a graph computes must stay in tensors that were there before it; in the pool lies only
    what it needs while it runs. So graphs may run in any order, one at a time.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, body: Callable[[], None]) -> Callable[[], None]:
        """Run `body` once, then record it; calling the result launches what was recorded.

        `body` must not wait for the device or bring data from the host, and no shape in it may
        depend on a value.
        """
        current = torch.cuda.current_stream(self._device)
        with torch.cuda.device(self._device), exact_convolutions():
            # What libraries set up at the first call of a shape cannot be recorded. Workspaces
            # belong to a stream: on this one, the recording finds them.
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                body()
            current.wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            # Other threads may go on using the device meanwhile, hence not the "global" mode.
            mode = "thread_local"
            with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode=mode):
                body()
        return graph.replay


@contextmanager
def exact_convolutions() -> Generator[None, None, None]:
    """No TF32 in cuDNN's float32 convolutions, where torch allows it by default.

    A graph keeps the kernels that were chosen when it was recorded. Also a decorator.
    """
    convolutions = torch.backends.cudnn.conv  # pyright: ignore[reportAttributeAccessIssue]
    before = convolutions.fp32_precision
    convolutions.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = before
