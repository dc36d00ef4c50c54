"""What `--device` and `--dtype` come to on this machine."""

import pytest

torch = pytest.importorskip("torch")

from nemo_lite import UnsupportedError  # noqa: E402
from nemo_lite.number_formats import check_format  # noqa: E402
from stt_server.engine.base import EngineUnavailable  # noqa: E402
from stt_server.engine.select import device_settings  # noqa: E402
from stt_server.engine.torch_device import (  # noqa: E402
    check_memory,
    choose_device,
    choose_devices,
    choose_dtype,
)
from stt_server.settings import Dtype, Settings  # noqa: E402


@pytest.fixture
def gpus(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """So many GPUs, as far as torch says."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: request.param)
    return request.param


@pytest.mark.parametrize(("gpus", "device"), [(0, "cpu"), (2, "cuda")], indirect=["gpus"])
def test_auto_takes_a_gpu_where_there_is_one(gpus: int, device: str) -> None:
    assert choose_device("auto").type == device


@pytest.mark.parametrize("gpus", [2], indirect=True)
@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:0", "cuda:1"])
def test_device_that_is_here_is_taken_as_named(gpus: int, name: str) -> None:
    assert str(choose_device(name)) == name


@pytest.mark.parametrize(
    ("gpus", "name", "said"),
    [(0, "cuda", "use --device cpu"), (0, "cuda:0", "--device cuda:0"), (2, "cuda:2", "cuda:1")],
    indirect=["gpus"],
)
def test_device_that_is_not_here_is_refused(gpus: int, name: str, said: str) -> None:
    with pytest.raises(EngineUnavailable, match=said):
        choose_device(name)


def test_apples_gpu_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)

    with pytest.raises(EngineUnavailable, match="--device mps"):
        choose_device("mps")


def test_named_format_is_taken() -> None:
    assert choose_dtype(Dtype.FLOAT32, torch.device("cpu")) == "float32"


@pytest.mark.parametrize(("is_native", "dtype"), [(True, "bfloat16"), (False, "float16")])
def test_gpu_computes_in_half_precision(
    monkeypatch: pytest.MonkeyPatch, is_native: bool, dtype: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: is_native)

    assert choose_dtype(Dtype.AUTO, torch.device("cuda")) == dtype


@pytest.mark.parametrize(("kernels", "dtype"), [(object(), "int8"), (None, "float32")])
def test_cpu_computes_in_int8_where_it_can(
    monkeypatch: pytest.MonkeyPatch, kernels: object, dtype: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: kernels)

    assert choose_dtype(Dtype.AUTO, torch.device("cpu")) == dtype


def test_model_that_does_not_fit_is_refused_with_what_to_do() -> None:
    check_memory("canary-qwen", needed=10, free=10)

    with pytest.raises(EngineUnavailable, match=r"needs 5\.1 GB .* 2\.0 GB are free.*--dtype int8"):
        check_memory("canary-qwen", needed=5_100_000_000, free=2_000_000_000)


@pytest.mark.parametrize(
    ("gpus", "name", "devices"),
    [
        (0, "auto", ["cpu"]),
        (1, "auto", ["cuda:0"]),
        (3, "cuda", ["cuda:0", "cuda:1", "cuda:2"]),
        (3, "cuda:1", ["cuda:1"]),
        (3, "cpu", ["cpu"]),
    ],
    indirect=["gpus"],
)
def test_without_a_number_all_gpus_are_meant(gpus: int, name: str, devices: list[str]) -> None:
    assert [str(device) for device in choose_devices(name)] == devices


@pytest.mark.parametrize("gpus", [3], indirect=True)
@pytest.mark.parametrize(
    ("most", "shares"), [(None, [None] * 3), (9, [3, 3, 3]), (11, [4, 4, 3]), (1, [1, 1, 1])]
)
def test_streams_are_shared_out_between_devices(
    gpus: int, most: int | None, shares: list[int | None]
) -> None:
    found = device_settings(Settings(device="cuda", max_streams=most))

    assert [settings.max_streams for settings in found] == shares
    assert [settings.device for settings in found] == ["cuda:0", "cuda:1", "cuda:2"]


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16, "int8"])
def test_apples_gpu_computes_in_two_formats(monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    kinds = ("cpu", "mps")

    check_format(torch.device("mps"), "float16", kinds=kinds)
    check_format(torch.device("mps"), None, kinds=kinds)
    with pytest.raises(UnsupportedError):
        check_format(torch.device("mps"), dtype, kinds=kinds)
    with pytest.raises(UnsupportedError):
        check_format(torch.device("mps"), "float32")
