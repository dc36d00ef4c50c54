import pytest
import torch

from nemo_lite.decoding import RnntDecoder
from nemo_lite.decoding.tests.tiny import DURATIONS, WIDTH, pad, random_transducer, tokens_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]


@pytest.mark.parametrize("durations", [(), DURATIONS], ids=["rnnt", "tdt"])
@torch.inference_mode()
def test_a_cuda_graph_equals_the_cpu(durations: tuple[int, ...]) -> None:
    predictor, joint = random_transducer(durations=durations)
    encoded, lengths = pad(
        [torch.randn(6, WIDTH, dtype=torch.float64), torch.randn(3, WIDTH, dtype=torch.float64)]
    )
    slots = torch.tensor([1, 0])
    decoder = RnntDecoder(predictor, joint, max_symbols=3)
    expected = tokens_of(decoder.decode(encoded, lengths, decoder.new_state(2), slots))

    decoder = RnntDecoder(predictor.cuda(), joint.cuda(), max_symbols=3)
    arguments = (encoded.cuda(), lengths.cuda(), decoder.new_state(2), slots.cuda())
    assert tokens_of(decoder.decode(*arguments)) == expected
    state = arguments[2]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        decoder.decode_fixed(*arguments, 20)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        decoded, done = decoder.decode_fixed(*arguments, 20)
    state.clear(torch.tensor([0, 1], device="cuda"))
    graph.replay()
    assert done.all()
    assert tokens_of(decoded) == expected
