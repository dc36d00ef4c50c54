"""What follows from a pause and from a detector's judgement of it."""

from enum import Enum, auto

from stt_server.settings import DetectorName, EndpointingMode, EndpointingSettings


class Step(Enum):
    """What to do about the open turn."""

    GO_ON = auto()
    TELL_EAGER_END = auto()
    END = auto()


class TurnEnds:
    """Pauses and judgements in, what to do out. Pure.

    A detector that is sure enough ends the turn. Clients that want eager ends are told of one at
    most once per pause: when the detector is half-way sure, or at once where none is asked. A
    detector chosen during a pause is not asked before the next one: it has not heard the speech.
    """

    def __init__(self, settings: EndpointingSettings) -> None:
        self._settings = settings
        self._paused_with: DetectorName | None = None
        self._may_tell_eager = False
        self.paused_at = 0
        """Where speech stopped."""

    @property
    def acts(self) -> bool:
        """A pause may have consequences before silence has lasted long enough to end the turn."""
        settings = self._settings
        return settings.mode is EndpointingMode.VAD and (
            settings.eager or settings.detector is not DetectorName.SILENCE
        )

    @property
    def asks(self) -> bool:
        """The detector is to judge the present pause."""
        settings = self._settings
        has_detector = settings.detector is not DetectorName.SILENCE
        return self.acts and has_detector and self._paused_with is settings.detector

    def configure(self, settings: EndpointingSettings) -> None:
        """Use other settings from here on."""
        self._settings = settings

    def pause(self, at: int) -> None:
        """Speech stopped at sample `at`."""
        self.paused_at = at
        self._paused_with, self._may_tell_eager = self._settings.detector, True

    def decide(self, sureness: float | None) -> Step:
        """What to do now.

        Args:
            sureness: How sure the detector is that the turn is complete, in 0..1; None if it
                cannot tell or was not to be asked.
        """
        settings = self._settings
        if self.asks and sureness is not None and sureness >= settings.turn_threshold:
            return Step.END
        if not settings.eager or not self.acts or not self._may_tell_eager:
            return Step.GO_ON
        if settings.detector is not DetectorName.SILENCE and (
            not self.asks or sureness is None or sureness < settings.eager_threshold
        ):
            return Step.GO_ON
        self._may_tell_eager = False
        return Step.TELL_EAGER_END
