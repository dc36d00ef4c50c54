"""The exceptions of this library.

NemoLiteError
├── CheckpointError       a checkpoint is damaged, hostile, or of another family
├── DownloadError         a checkpoint could not be fetched or failed verification
├── UnknownModelError     no model of that name, no file at that path        (also a ValueError)
├── ShapeError            a tensor does not have the documented shape      (also a ValueError)
├── UnsupportedError      the model or this machine cannot do what was asked (also a ValueError)
├── RecognitionError      the model gave no usable result for this audio
└── StreamStateError      a slot was used that is not open, is finished, or none is free
"""


class NemoLiteError(Exception):
    """Base of every error this library raises on purpose."""


class CheckpointError(NemoLiteError):
    """A checkpoint cannot be used; the message names the file and what is wrong with it."""


class DownloadError(NemoLiteError):
    """A checkpoint could not be downloaded or verified; the message says what to do."""


class UnknownModelError(NemoLiteError, ValueError):
    """Neither a registry name, nor a hub id, nor a path that exists; the message lists names."""


class ShapeError(NemoLiteError, ValueError):
    """An array or tensor does not have the documented shape, length or dtype."""


class UnsupportedError(NemoLiteError, ValueError):
    """The option exists, but not for this model, device or machine."""


class RecognitionError(NemoLiteError):
    """The model gave no usable result for a recording; others are not concerned."""


class StreamStateError(NemoLiteError, RuntimeError):
    """A stream slot was used in a state that does not allow it."""
