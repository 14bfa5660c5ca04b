"""What MMEngine raises while it builds the parts of a config, in words: which part, what, where it arose."""

import functools
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.errors import ConfigError, UserError

# What constructors answer to wrong arguments; anything else (memory, files) is no matter of the config.
WRONG_ARGUMENTS = (KeyError, TypeError, ValueError, AssertionError, AttributeError, NotImplementedError, ImportError)


def told(build: Callable[..., Any], part: str) -> Callable[..., Any]:
    """`build` with its complaints about arguments turned into a ConfigError that names the part of the config."""

    @functools.wraps(build)
    def building(*arguments: Any, **keywords: Any) -> Any:
        try:
            return build(*arguments, **keywords)
        except UserError:
            raise
        except WRONG_ARGUMENTS as error:
            raise ConfigError(f"the config's {part} cannot be built: {sentence(error)}") from error

    return building


def sentence(error: BaseException) -> str:
    """`TypeError: ... (resnet.py, line 371)`; a KeyError's text without its quotes."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text or 'a rule does not hold'}{where}"
