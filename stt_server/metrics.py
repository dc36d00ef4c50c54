"""Counters and histograms, one registry per app; each is changed in one place."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

# Fine around the periods of chunks, against which steps are judged.
STEP_BUCKETS = (
    *(0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1),
    *(0.12, 0.14, 0.16, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 5, 15),
)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """What an operator can graph. Names and labels are listed in `docs/operations.md`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.capacity = Gauge("stt_capacity", "Sessions at once at most.", registry=self.registry)
        self.model_serving = Gauge(
            "stt_model_serving",
            "1 while a recogniser that watches itself serves, 0 while it is at fault.",
            ["model"],
            registry=self.registry,
        )
        self.sessions = Gauge(
            "stt_open_sessions", "Open sessions.", ["protocol"], registry=self.registry
        )
        self.sessions_total = Counter(
            "stt_sessions_total", "Sessions by how they ended.", ["reason"], registry=self.registry
        )
        self.refusals = Counter(
            "stt_refusals_total", "Connections refused.", ["reason"], registry=self.registry
        )
        self.resumes = Counter(
            "stt_resumes_total",
            "Sessions that went on over a new connection.",
            registry=self.registry,
        )
        self.errors = Counter(
            "stt_errors_total", "Errors shown to clients.", ["code"], registry=self.registry
        )
        self.audio_seconds = Counter(
            "stt_audio_seconds_total", "Audio received.", registry=self.registry
        )
        self.turns = Counter(
            "stt_turns_total",
            "Turns by the reason of their end.",
            ["reason"],
            registry=self.registry,
        )
        self.lag_seconds = Histogram(
            "stt_lag_seconds",
            "Audio received minus audio decoded, once a second per session.",
            buckets=(0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300),
            registry=self.registry,
        )
        self.time_to_final_seconds = Histogram(
            "stt_time_to_final_seconds",
            "From the decision that a turn ended to its final, ready to be sent.",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5),
            registry=self.registry,
        )
        self.second_passes = Counter(
            "stt_second_passes_total",
            "Second passes over a turn by what became of them.",
            ["outcome"],
            registry=self.registry,
        )
        self.second_pass_seconds = Histogram(
            "stt_second_pass_seconds",
            "Time a second pass took that was not given up.",
            buckets=(0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 5, 10, 30),
            registry=self.registry,
        )
        self.turn_detector_seconds = Histogram(
            "stt_turn_detector_seconds",
            "Time a turn detector took for one judgement.",
            ["detector"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2),
            registry=self.registry,
        )
        self.file_requests = Gauge(
            "stt_file_requests",
            "Uploads being received, waiting or transcribed.",
            registry=self.registry,
        )
        self.file_answers = Counter(
            "stt_file_answers_total",
            "Uploads by the status of the answer; 499: the client went away.",
            ["status"],
            registry=self.registry,
        )
        self.file_audio_seconds = Counter(
            "stt_file_audio_seconds_total",
            "Audio of files that were transcribed.",
            registry=self.registry,
        )
        self.step_streams = Histogram(
            "stt_step_streams",
            "Streams in one step of a streaming model.",
            ["model"],
            buckets=BATCH_BUCKETS,
            registry=self.registry,
        )
        self.step_seconds = Histogram(
            "stt_step_seconds",
            "Time of one step of a streaming model, for all streams at once.",
            ["model"],
            buckets=STEP_BUCKETS,
            registry=self.registry,
        )
        self.step_lag_seconds = Histogram(
            "stt_step_lag_seconds",
            "From the coming of audio to the end of the first step after that, at most.",
            ["model"],
            buckets=STEP_BUCKETS,
            registry=self.registry,
        )
        self.vad_batch = Histogram(
            "stt_vad_batch_sessions",
            "Sessions in one VAD inference.",
            buckets=BATCH_BUCKETS,
            registry=self.registry,
        )

    def render(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.registry)
