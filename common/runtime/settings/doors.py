"""The token of a local door, as the service and its command line read it."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from common.core.errors import ConfigurationError

_TOKEN_MIN_CHARS: Final = 16
_TOKEN_MAX_BYTES: Final = 4096


def read_token(path: Path) -> str:
    """The token in a file. Raises ConfigurationError `auth.token_file_unusable`."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(_TOKEN_MAX_BYTES).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        what = (error.strerror if isinstance(error, OSError) else None) or "it is not ASCII"
        raise token_file_unusable(path, f"cannot be read: {what}") from None
    if mode & stat.S_IROTH:
        raise token_file_unusable(path, "can be read by everybody")
    if len(text) < _TOKEN_MIN_CHARS or not text.isprintable() or " " in text:
        raise token_file_unusable(path, f"has no token: one word of at least {_TOKEN_MIN_CHARS} characters")
    return text


def token_file_unusable(path: Path, what: str) -> ConfigurationError:
    """The refusal of a token file."""
    return ConfigurationError(
        "auth.token_file_unusable",
        f"the token file {path} {what}",
        "let the service make it: it has mode 600 then; give a group read access where programs run as other users",
    )
