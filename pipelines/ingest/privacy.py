"""Privacy of user ids in an ingest: the key of their pseudonyms, and the users to forget."""

import os
from pathlib import Path
from typing import NamedTuple

from mgray.config import PSEUDONYM_KEY_VARIABLE, PrivacyConfig
from mgray.data.manifest import digest
from mgray.errors import InputError
from pipelines.ingest.id_notes import read_forgotten
from pipelines.ingest.staging import key_fingerprint

MIN_KEY_BYTES = 16


class Privacy(NamedTuple):
    """Settings of data.privacy."""

    key: bytes | None  # of the pseudonyms
    forgotten: tuple[str, ...]  # raw user ids, sorted

    @property
    def settings(self) -> dict[str, bool | str | None]:
        """Settings that shape the data, for the manifest, which holds neither key nor ids."""
        return {
            "pseudonymize": self.key is not None,
            "key_fingerprint": key_fingerprint(self.key) if self.key is not None else None,
            "forgotten": digest(self.forgotten) if self.forgotten else None,
        }


def read_privacy(config: PrivacyConfig) -> Privacy:
    """Reads the key and the forget list. Raises InputError where one of them cannot be read."""
    key = _read_key(config) if config.pseudonymize else None
    return Privacy(key, () if config.forget is None else read_forgotten(config.forget))


def _read_key(config: PrivacyConfig) -> bytes:
    where = f"${PSEUDONYM_KEY_VARIABLE}"
    try:
        if config.key_file is not None:
            where = f"data.privacy.key_file {config.key_file}"
            key = Path(config.key_file).expanduser().read_bytes().rstrip(b"\r\n")
        else:
            key = os.environ.get(PSEUDONYM_KEY_VARIABLE, "").encode()
    except OSError as error:
        raise InputError(f"{where}: {error.strerror}; give the file of the pseudonyms' key") from error
    if len(key) < MIN_KEY_BYTES:
        raise InputError(
            f"{where}: a key of {len(key)} bytes; data.privacy.pseudonymize needs one of at least {MIN_KEY_BYTES}, "
            "such as `openssl rand -hex 32` gives"
        )
    return key
