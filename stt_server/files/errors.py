"""What is wrong with a file."""


class FileError(Exception):
    """The file cannot be transcribed. `str(error)` is safe to send."""


class InvalidFile(FileError):
    """Not audio, of a kind that is not read, damaged, or cut off."""


class FileTooLong(FileError):
    """More audio than `uploads.max_audio_s`."""
