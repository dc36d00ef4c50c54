"""Ingress: decoding against hand-written references, and the resampler by its length and tones."""

import math
import struct
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stt_server.audio import PIECE_SECONDS, Ingress, decode_samples
from stt_server.errors import InvalidAudio
from stt_server.events import SAMPLE_RATE, Samples
from stt_server.protocols.base import AudioFormat, Encoding, Packet

RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)


def joined(pieces: Iterable[Samples]) -> Samples:
    return np.concatenate([np.empty(0, np.float32), *pieces])


def converted(packets: Sequence[Packet]) -> Samples:
    """Everything that comes out of a stream of these packets."""
    ingress = Ingress()
    pieces = [piece for packet in packets for piece in ingress.push(packet)]
    return joined([*pieces, ingress.finish()])


def tone(frequency_hz: float, rate: int, *, seconds: float = 2.0) -> bytes:
    at = np.arange(round(rate * seconds)) / rate
    return (20_000 * np.sin(2 * np.pi * frequency_hz * at)).astype("<i2").tobytes()


def middle(samples: Samples) -> Samples:
    """Without the filter's ringing at both ends."""
    return samples[len(samples) // 4 : -len(samples) // 4]


# Decoding


@pytest.mark.parametrize(
    ("value", "expected"), [(0, 0.0), (1, 1 / 32_768), (-32_768, -1.0), (32_767, 32_767 / 32_768)]
)
def test_pcm16_spans_minus_one_to_one(value: int, expected: float) -> None:
    assert decode_samples(struct.pack("<h", value), AudioFormat()).tolist() == [expected]


def test_decoded_samples_are_float32() -> None:
    for encoding in Encoding:
        assert decode_samples(bytes(8), AudioFormat(encoding=encoding)).dtype == np.float32


def test_f32_keeps_its_values() -> None:
    data = struct.pack("<3f", -1.0, 0.25, 1.0)

    decoded = decode_samples(data, AudioFormat(encoding=Encoding.F32))

    assert decoded.tolist() == [-1.0, 0.25, 1.0]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(math.nan, 0.0), (math.inf, 1.0), (-math.inf, -1.0), (3.5, 1.0), (-1.001, -1.0)],
)
def test_f32_that_is_no_sample_value_becomes_one(value: float, expected: float) -> None:
    decoded = decode_samples(struct.pack("<f", value), AudioFormat(encoding=Encoding.F32))

    assert decoded.tolist() == [expected]


@given(st.binary(max_size=400).map(lambda data: data[: len(data) // 8 * 8]))
def test_any_f32_bytes_decode_to_sample_values(data: bytes) -> None:
    decoded = decode_samples(data, AudioFormat(channels=2, encoding=Encoding.F32))

    assert np.isfinite(decoded).all()
    assert (np.abs(decoded) <= 1).all()


def mulaw(code: int) -> int:
    """ITU-T G.711, table 2: 14-bit magnitude of a segment, as 16 bits."""
    bits = code ^ 0xFF
    segment, step = bits >> 4 & 7, bits & 15
    magnitude = ((2 * step + 33) * 2**segment - 33) * 4
    return -magnitude if bits & 0x80 else magnitude


def alaw(code: int) -> int:
    """ITU-T G.711, table 1: 13-bit magnitude of a segment, as 16 bits."""
    bits = code ^ 0x55
    segment, step = bits >> 4 & 7, bits & 15
    magnitude = 8 * (2 * step + 1 if segment == 0 else (2 * step + 33) * 2 ** (segment - 1))
    return magnitude if bits & 0x80 else -magnitude


@pytest.mark.parametrize(("encoding", "formula"), [(Encoding.MULAW, mulaw), (Encoding.ALAW, alaw)])
def test_g711_codes_have_the_values_of_the_recommendation(
    encoding: Encoding, formula: Callable[[int], int]
) -> None:
    decoded = decode_samples(bytes(range(256)), AudioFormat(encoding=encoding))

    assert (decoded * 32_768).tolist() == [formula(code) for code in range(256)]


@pytest.mark.parametrize(
    ("encoding", "code", "value"),
    [
        (Encoding.MULAW, 0xFF, 0),
        (Encoding.MULAW, 0x00, -32_124),
        (Encoding.MULAW, 0x80, 32_124),
        (Encoding.ALAW, 0xD5, 8),
        (Encoding.ALAW, 0x55, -8),
        (Encoding.ALAW, 0xAA, 32_256),
        (Encoding.ALAW, 0x2A, -32_256),
    ],
)
def test_g711_known_codes(encoding: Encoding, code: int, value: int) -> None:
    decoded = decode_samples(bytes([code]), AudioFormat(encoding=encoding))

    assert decoded.tolist() == [value / 32_768]


def test_two_channels_are_averaged() -> None:
    data = struct.pack("<4h", 1_000, 3_000, -32_768, 32_767)

    decoded = decode_samples(data, AudioFormat(channels=2))

    assert (decoded * 32_768).tolist() == [2_000, -0.5]


def test_channels_are_averaged_before_they_could_overflow() -> None:
    decoded = decode_samples(struct.pack("<2h", 32_767, 32_767), AudioFormat(channels=2))

    assert decoded.tolist() == [32_767 / 32_768]


# Packets


@st.composite
def any_format(draw: st.DrawFn) -> AudioFormat:
    return AudioFormat(
        draw(st.sampled_from(RATES)), draw(st.integers(1, 2)), draw(st.sampled_from(Encoding))
    )


@given(any_format(), st.integers(0, 3_000), st.integers(0, 2**32 - 1), st.data())
@settings(max_examples=80)
def test_output_does_not_depend_on_how_the_bytes_were_cut(
    audio_format: AudioFormat, frames: int, seed: int, data: st.DataObject
) -> None:
    audio = np.random.default_rng(seed).bytes(frames * audio_format.frame_bytes)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(audio)), max_size=30)))
    borders = [0, *cuts, len(audio)]
    pieces = [audio[begin:end] for begin, end in pairwise(borders)]

    one = converted([Packet(audio, audio_format)])
    many = converted([Packet(piece, audio_format, splits_samples=True) for piece in pieces])

    assert one.tobytes() == many.tobytes()


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_output_does_not_depend_on_cuts_of_long_audio(rate: int) -> None:
    rng = np.random.default_rng(1)
    audio = rng.bytes(rate * 2 * 2)
    borders = [0, *sorted(rng.integers(0, rate * 2, 200).tolist()), rate * 2]
    pieces = [audio[2 * begin : 2 * end] for begin, end in pairwise(borders)]

    one = converted([Packet(audio, AudioFormat(rate))])
    many = converted([Packet(piece, AudioFormat(rate)) for piece in pieces])

    assert one.tobytes() == many.tobytes()


def test_packet_of_part_of_a_sample_is_completed_by_the_next() -> None:
    ingress = Ingress()
    data = struct.pack("<2h", 1_000, -2_000)

    first = joined(ingress.push(Packet(data[:3], AudioFormat(), splits_samples=True)))
    assert ingress.is_mid_sample
    second = joined(ingress.push(Packet(data[3:], AudioFormat(), splits_samples=True)))

    assert not ingress.is_mid_sample
    assert (joined([first, second]) * 32_768).tolist() == [1_000, -2_000]


def test_incomplete_sample_is_dropped_on_request() -> None:
    ingress = Ingress()
    list(ingress.push(Packet(b"\x01", AudioFormat(), splits_samples=True)))

    error = ingress.drop_incomplete()

    assert isinstance(error, InvalidAudio)
    assert not ingress.is_mid_sample
    following = joined(ingress.push(Packet(struct.pack("<h", 500), AudioFormat())))
    assert (following * 32_768).tolist() == [500]


@pytest.mark.parametrize(
    ("audio_format", "length"),
    [
        (AudioFormat(), 3),
        (AudioFormat(channels=2), 6),
        (AudioFormat(encoding=Encoding.F32), 6),
        (AudioFormat(channels=2, encoding=Encoding.MULAW), 3),
    ],
)
def test_packet_that_is_no_whole_number_of_samples_is_refused(
    audio_format: AudioFormat, length: int
) -> None:
    with pytest.raises(InvalidAudio):
        Ingress().push(Packet(bytes(length), audio_format))


def test_refused_packet_leaves_no_trace() -> None:
    audio = tone(440, 48_000)
    packets = [Packet(part, AudioFormat(48_000)) for part in (audio[:10_000], audio[10_000:])]
    ingress = Ingress()

    pieces = list(ingress.push(packets[0]))
    with pytest.raises(InvalidAudio):
        ingress.push(Packet(b"\x01\x02\x03", AudioFormat(8_000)))
    pieces += ingress.push(packets[1])

    assert joined([*pieces, ingress.finish()]).tobytes() == converted(packets).tobytes()


def test_empty_packet_changes_nothing_whatever_its_format() -> None:
    audio = tone(440, 48_000)
    packets = [Packet(part, AudioFormat(48_000)) for part in (audio[:10_000], audio[10_000:])]
    empty = Packet(b"", AudioFormat(8_000))

    with_empty = converted([packets[0], empty, packets[1]])

    assert with_empty.tobytes() == converted(packets).tobytes()


@pytest.mark.parametrize("rate", [8_000, 16_000, 48_000])
def test_long_packet_comes_in_short_pieces(rate: int) -> None:
    packet = Packet(bytes(2 * rate * 10), AudioFormat(rate))

    lengths = [len(piece) for piece in Ingress().push(packet)]

    # A filter may give what it held back on top.
    assert max(lengths) <= SAMPLE_RATE * PIECE_SECONDS * 1.1
    assert len(lengths) == 20


def test_no_piece_is_empty() -> None:
    ingress = Ingress()
    pieces = [
        piece
        for _ in range(50)
        for piece in ingress.push(Packet(bytes(2), AudioFormat(48_000), splits_samples=True))
    ]

    assert all(len(piece) for piece in pieces)


# Resampling


def test_audio_at_16_khz_passes_unchanged() -> None:
    audio = np.random.default_rng(0).integers(-32_768, 32_767, 20_000, dtype=np.int16)

    out = converted([Packet(audio.astype("<i2").tobytes(), AudioFormat())])

    assert np.array_equal(out * 32_768, audio)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("frames", [1, 7, 1_000, 44_101])
def test_length_is_within_a_sample_of_exact(rate: int, frames: int) -> None:
    out = converted([Packet(bytes(2 * frames), AudioFormat(rate))])

    assert abs(len(out) - frames * SAMPLE_RATE / rate) <= 1


@pytest.mark.parametrize("rate", RATES)
def test_tone_keeps_its_frequency_and_level(rate: int) -> None:
    out = middle(converted([Packet(tone(1_000, rate), AudioFormat(rate))]))

    spectrum = np.abs(np.fft.rfft(out * np.hanning(len(out))))
    peak_hz = np.argmax(spectrum) * SAMPLE_RATE / len(out)
    assert peak_hz == pytest.approx(1_000, abs=2)
    assert np.sqrt(2 * np.mean(out**2)) == pytest.approx(20_000 / 32_768, rel=0.01)


@pytest.mark.parametrize("rate", [24_000, 32_000, 44_100, 48_000])
def test_tone_above_the_band_leaves_nothing(rate: int) -> None:
    out = middle(converted([Packet(tone(10_000, rate), AudioFormat(rate))]))

    # Measured: -89 to -94 dB; without a low-pass filter it would come back at 6 kHz with 0 dB.
    assert 20 * np.log10(np.abs(out).max() / (20_000 / 32_768)) < -80


def test_resampled_tone_stays_in_time() -> None:
    out = converted([Packet(tone(500, 48_000), AudioFormat(48_000))])

    expected = 20_000 / 32_768 * np.sin(2 * np.pi * 500 * np.arange(len(out)) / SAMPLE_RATE)
    assert np.abs(middle(out) - middle(expected)).max() < 0.001


def test_rate_change_loses_nothing_of_the_audio_before_it() -> None:
    rates = (48_000, 8_000, 16_000, 44_100)

    out = converted([Packet(tone(500, rate, seconds=0.5), AudioFormat(rate)) for rate in rates])

    assert abs(len(out) - len(rates) * SAMPLE_RATE / 2) <= len(rates)


def test_rate_change_puts_the_audio_in_order() -> None:
    before = converted([Packet(tone(500, 48_000), AudioFormat(48_000))])
    after = converted([Packet(tone(700, 8_000), AudioFormat(8_000))])

    out = converted(
        [
            Packet(tone(500, 48_000), AudioFormat(48_000)),
            Packet(tone(700, 8_000), AudioFormat(8_000)),
        ]
    )

    assert out.tobytes() == joined([before, after]).tobytes()


def test_channel_change_keeps_the_resampler() -> None:
    mono = np.frombuffer(tone(500, 48_000), dtype="<i2")
    stereo = np.repeat(mono[30_001:], 2).tobytes()

    out = converted(
        [
            Packet(mono[:30_001].tobytes(), AudioFormat(48_000)),
            Packet(stereo, AudioFormat(48_000, channels=2)),
        ]
    )

    assert out.tobytes() == converted([Packet(mono.tobytes(), AudioFormat(48_000))]).tobytes()


def test_finish_of_an_unused_ingress_is_empty() -> None:
    assert len(Ingress().finish()) == 0


def test_second_finish_is_empty() -> None:
    ingress = Ingress()
    list(ingress.push(Packet(tone(500, 48_000), AudioFormat(48_000))))
    ingress.finish()

    assert len(ingress.finish()) == 0


# Coming back


@given(
    any_format(),
    st.binary(min_size=8, max_size=600),
    st.lists(st.integers(1, 60), min_size=1, max_size=8),
    st.data(),
)
def test_what_is_sent_again_is_not_heard_again(
    audio_format: AudioFormat, data: bytes, sizes: list[int], choose: st.DataObject
) -> None:
    """The client stops anywhere, also inside a sample, and begins again at any earlier sample."""
    frame_bytes = audio_format.frame_bytes
    data = data[: len(data) // frame_bytes * frame_bytes]
    stop = choose.draw(st.integers(0, len(data)))
    again = choose.draw(st.integers(0, stop // frame_bytes))
    ingress = Ingress()

    def send(part: bytes) -> list[Samples]:
        cuts = [0, *(sum(sizes[: number + 1]) for number in range(len(sizes))), len(part)]
        packets = [Packet(part[a:b], audio_format, splits_samples=True) for a, b in pairwise(cuts)]
        return [piece for packet in packets for piece in ingress.push(packet)]

    before = send(data[:stop])
    assert ingress.taken == stop // frame_bytes
    ingress.rewind(again)
    after = send(data[again * frame_bytes :])

    heard = joined([*before, *after, ingress.finish()])
    assert np.array_equal(heard, converted([Packet(data, audio_format)]))
    assert ingress.taken == len(data) // frame_bytes


def test_a_refused_packet_is_not_counted() -> None:
    ingress = Ingress()
    ingress.push(Packet(bytes(6), AudioFormat(channels=1)))
    with pytest.raises(InvalidAudio):
        ingress.push(Packet(bytes(5), AudioFormat()))
    assert ingress.taken == 3
