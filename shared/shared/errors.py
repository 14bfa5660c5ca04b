"""The errors a person can act on: a command line prints their message without a traceback and exits with 2."""


class UserError(ValueError):
    """Something the person at the keyboard can mend; the message says what, where, which value, and the remedy."""


class ConfigError(UserError):
    """A configuration file or command-line setting is wrong."""


class DataError(UserError):
    """A data root, file or record is wrong."""


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, unsafe, or does not fit."""


class ExportError(UserError):
    """An exported graph does not answer as the model it was made of."""


class StorageError(UserError):
    """A file could not be written: full disk, read-only folder, missing parent, a file where a folder should be."""


class NonFiniteError(RuntimeError):
    """A loss or gradient was NaN or infinite; raised on every rank before the optimizer step (exit code 1)."""
