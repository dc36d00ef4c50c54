"""Passes for CUDA: writing a token of every request is one graph launch.

A graph exists per number of slots and reach, both rounded up. Without CUDA the same code runs
eagerly, which is how it is tested.
"""

import bisect
from collections.abc import Callable, Mapping, Sequence

import torch

from nemo_lite.cuda_graphs import CudaGraphs
from nemo_lite.graphed_step import batch_sizes
from nemo_lite.salm.kv_cache import KvCache
from nemo_lite.salm.network import SalmNetwork
from nemo_lite.salm.passes import Reading, Token, Writer, choose
from nemo_lite.salm.qwen3 import make_plan

_SHORTEST_REACH = 128


class GraphedPasses:
    """Writers advance by a graph; what is read meanwhile runs as it is.

    Works on the calling thread's current stream and waits for the device once per pass.
    """

    def __init__(self, network: SalmNetwork, cache: KvCache) -> None:
        self._network = network
        self._cache = cache
        device, slots = network.device, cache.slots
        cuda = device.type == "cuda"
        self._graphs = CudaGraphs(device) if cuda else None
        self._launches: dict[tuple[int, int], Callable[[], None]] = {}
        self._sizes = batch_sizes(slots)
        self._reaches = [_SHORTEST_REACH]
        while self._reaches[-1] < cache.length:
            self._reaches.append(2 * self._reaches[-1])
        # Rows read and next token, by slot; a slot without a writer has read all it can. The host's
        # place is pinned, so that copies from it are queued like kernels.
        self._columns = torch.zeros(2, slots, dtype=torch.int64, device=device)
        self._columns[0] = cache.length
        self._host_columns = torch.zeros(2, slots, dtype=torch.int64, pin_memory=cuda)
        # Ids and probabilities, by slot; float64 holds both.
        self._found = torch.zeros(2, slots, dtype=torch.float64, device=device)

    @torch.inference_mode()
    def prepare(self) -> None:
        """Capture all graphs, which the first steps would otherwise have to wait for."""
        # The largest first: the others then find room in its memory.
        for size in reversed(self._sizes):
            for reach in reversed(self._reaches):
                self._launch(size, reach)

    def run(self, writers: Mapping[int, Writer], readings: Sequence[Reading]) -> dict[int, Token]:
        """See `Passes`."""
        if writers:
            self._write(writers)
        if readings:
            self._read(readings)
        wanted = [*writers, *(reading.slot for reading in readings if reading.last)]
        if not wanted:
            return {}
        ids, probabilities = self._found.tolist()
        return {slot: Token(int(ids[slot]), probabilities[slot]) for slot in wanted}

    def _write(self, writers: Mapping[int, Writer]) -> None:
        columns = self._host_columns.numpy()
        columns[0], columns[1] = self._cache.length, 0
        for slot, writer in writers.items():
            columns[:, slot] = writer.read, writer.token
        self._columns.copy_(self._host_columns, non_blocking=True)
        positions = max(writer.read for writer in writers.values()) + 1
        size = self._sizes[bisect.bisect_left(self._sizes, max(writers) + 1)]
        reach = self._reaches[bisect.bisect_left(self._reaches, positions)]
        self._launch(size, reach)()

    def _launch(self, size: int, reach: int) -> Callable[[], None]:
        key = (size, reach)
        if key not in self._launches:

            def body() -> None:
                # Doing it twice does what doing it once does: a capture needs no scratch slots.
                self._write_slots(size, min(reach, self._cache.length))

            self._launches[key] = self._graphs.capture(body) if self._graphs else body
        return self._launches[key]

    def _write_slots(self, size: int, reach: int) -> None:
        network, cache = self._network, self._cache
        lengths, tokens = self._columns[:, :size].unbind()
        plan = make_plan(network.llm.config, cache, lengths=lengths, reach=reach)
        hidden = network.llm(network.embed(tokens), plan, cache)
        self._found[:, :size] = torch.stack([part.double() for part in choose(network, hidden)])

    def _read(self, readings: Sequence[Reading]) -> None:
        network, cache = self._network, self._cache
        prefills = [reading.prefill for reading in readings]
        plan = make_plan(network.llm.config, cache, prefills=prefills)
        rows = [reading.rows for reading in readings]
        hidden = network.llm(torch.cat(rows) if len(rows) > 1 else rows[0], plan, cache)
        ends, at = dict[int, int](), 0
        for reading in readings:
            at += len(reading.rows)
            if reading.last:
                ends[reading.slot] = at - 1
        if ends:
            found = choose(network, hidden[list(ends.values())])
            self._found[:, list(ends)] = torch.stack([part.double() for part in found])
