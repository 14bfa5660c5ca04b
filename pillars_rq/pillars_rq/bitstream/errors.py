"""What is refused about a stream, by name. All are `StreamError`, so that a server can catch one class."""

from shared.errors import UserError


class StreamError(UserError):
    """A stream cannot be read, or the frame cannot be written as one."""


class NotAStreamError(StreamError):
    """The magic is not there, the version or mode is unknown, or a header field is out of its range."""


class TruncatedStreamError(StreamError):
    """The bytes end inside the header or a segment, or whole segments are missing and fewer were not asked for."""


class CorruptStreamError(StreamError):
    """A checksum does not match, or what it guards contradicts itself."""


class WrongCodebookError(StreamError):
    """The stream was made with other books or tables."""


class WrongGridError(StreamError):
    """The stream was made for another grid."""
