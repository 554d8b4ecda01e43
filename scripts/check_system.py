"""Say what this machine lacks, and the mend, before anything is installed. Any Python 3 runs it."""

import ctypes.util
import importlib.util
import shutil
import sys

OLDEST = (3, 11)
GIGABYTES = 6


def problems():
    """Sentences, each with its mend; none on a machine that will do."""
    found = []
    if sys.version_info[:2] < OLDEST:
        found.append(
            "Reverie needs Python {}.{} or newer, but {} is {}.{}. Install one and name it: "
            "make demo PYTHON=python3.12".format(*OLDEST, sys.executable, *sys.version_info[:2])
        )
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        found.append(
            "Python's venv module is missing. On Debian and Ubuntu: apt-get install python3-venv"
        )
    free = shutil.disk_usage(".").free / 1e9
    if free < GIGABYTES:
        found.append(f"{GIGABYTES} GB of disk are needed, but {free:.1f} GB are free here.")
    return found


def hints():
    """What some extras and tests need; everything else works without."""
    absent = ["lib" + name for name in ("GL", "EGL") if ctypes.util.find_library(name) is None]
    if sys.platform.startswith("linux") and absent:
        yield (
            "Note: {} is missing; the pixels of dmc/ and pusht/ need it. On Debian and Ubuntu: "
            "apt-get install libgl1 libegl1 libegl-mesa0 libgl1-mesa-dri".format(", ".join(absent))
        )
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        yield (
            "Note: no chromium is found; the player's page is not tested without one. On Debian "
            "and Ubuntu: apt-get install chromium"
        )


if __name__ == "__main__":
    sys.stdout.writelines(hint + "\n" for hint in hints())
    sys.exit("\n".join(problems()) or 0)
