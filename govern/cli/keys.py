"""Keys on the command line: passphrases come from the environment, never from an argument."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from manifests.errors import InputError

if TYPE_CHECKING:
    from govern.audit.signing import PrivateKey


def passphrase_of(variable: str) -> bytes:
    """The passphrase in an environment variable.

    Raises:
        InputError: There is no such variable.
    """
    if variable not in os.environ:
        raise InputError(
            f"environment variable {variable}",
            expected="a passphrase",
            found="no such variable",
            remedy="set it, or leave --passphrase-env out",
        )
    return os.environ[variable].encode()


def load_keys(paths: Sequence[Path], variables: Sequence[str]) -> list[PrivateKey]:
    """Private keys; those that are encrypted take the passphrases in the order of the keys.

    Args:
        paths: The `--key` options.
        variables: The `--passphrase-env` options; a single one serves every encrypted key.

    Raises:
        InputError: A key cannot be read, or the passphrases are not as many as encrypted keys.
    """
    from govern.audit.signing import is_encrypted, load_private_key

    locked = [path for path in paths if is_encrypted(path)]
    if len(variables) not in ({1, len(locked)} if locked else {0}):
        raise InputError(
            "--passphrase-env",
            expected=f"one for each of {len(locked)} encrypted keys, or one for all",
            found=f"{len(variables)}",
            remedy="name the environment variables that hold the passphrases",
        )
    words = list(variables) * (len(locked) if len(variables) == 1 else 1)
    phrase = {path: passphrase_of(word) for path, word in zip(locked, words, strict=True)}
    return [load_private_key(path, passphrase=phrase.get(path)) for path in paths]
