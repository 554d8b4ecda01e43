"""Write constraints.txt: all that `reverie[all,dev]` needs, as installed and working here.

Run it in the environment whose versions are to be kept, after the tests passed in it. What is
installed but not needed is left out. Local versions are cut (2.13.0+cpu becomes 2.13.0), so that
the same file serves the CPU and the CUDA build of torch.
"""

import re
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOTS = ["reverie[all,dev]"]
FORBIDDEN = re.compile(r"nvidia-|cuda-|triton$|torchvision$|torchaudio$|torchcodec$")
HEADER = """\
# Versions that are known to work together, transitive ones too: `pip install -c constraints.txt .`
# Written by scripts/lock.py. Held on purpose:
#   mujoco < 4    4.0 breaks dm-control
#   pymunk < 7    gym-pusht
#   no torchvision, torchcodec: their wheels want CUDA libraries beside a CPU torch
"""


def normal(name: str) -> str:
    """A distribution's name as the index spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(roots: list[str]) -> dict[str, str]:
    """Name to version of everything that the roots need here, the root packages left out."""
    found: dict[str, str] = {}
    missing: list[str] = []
    seen: set[tuple[str, str]] = set()
    todo = [Requirement(root) for root in roots]
    while todo:
        requirement = todo.pop()
        name = normal(requirement.name)
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
            continue
        found[name] = distribution.version.partition("+")[0]
        for extra in {"", *requirement.extras} - {e for n, e in seen if n == name}:
            seen.add((name, extra))
            for text in distribution.requires or []:
                inner = Requirement(text)
                if inner.marker is None or inner.marker.evaluate({"extra": extra}):
                    todo.append(inner)
    if missing:
        sys.exit(f"Not installed here: {', '.join(sorted(set(missing)))}. Run: make test")
    return {name: version for name, version in found.items() if name != "reverie"}


def main() -> None:
    """Write the file."""
    pins = closure(ROOTS)
    if bad := sorted(name for name in pins if FORBIDDEN.search(name)):
        sys.exit(f"These must not be needed: {', '.join(bad)}. Remove what brings them.")
    lines = [f"{name}=={version}" for name, version in sorted(pins.items())]
    Path("constraints.txt").write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")
    sys.stdout.write(f"constraints.txt holds {len(lines)} packages.\n")


if __name__ == "__main__":
    main()
