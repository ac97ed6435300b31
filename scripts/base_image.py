"""Builds one of caliban's base images on this machine, as cloudbuild.json says.

  python scripts/base_image.py --list
  python scripts/base_image.py gpu-ubuntu2404-py312-cuda126
  python scripts/base_image.py cpu-debian12-py311 --no_registry
  python scripts/base_image.py cpu-debian12-py311 --from registry.example.com/debian:12

Its name is caliban-base:TAG; CALIBAN_BASE_IMAGE=caliban-base:TAG makes caliban build on it.
"""

from __future__ import annotations

import argparse
import difflib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

# Made from Debian packages alone by this step of scripts/prepare.sh.
_STEP, _MADE_HERE, _ITS_SYSTEM = "base-image", "caliban-base:debian12", "debian12"


def command(
    step: dict[str, Any], name: str, begin_with: str | None, more: Sequence[str] = ()
) -> list[str]:
    """The `docker build` of a step of cloudbuild.json.

    Args:
      step: of the file.
      name: of the image that is made.
      begin_with: the image that it is made from; None for that of the step.
      more: further build arguments, "NAME=VALUE".
    """
    words = list(step["args"])
    words[words.index("--tag") + 1] = name
    if begin_with:
        [argument] = [word for word in words if word.startswith("BASE_IMAGE=")]
        words[words.index(argument)] = f"BASE_IMAGE={begin_with}"
    options = [word for each in more for word in ("--build-arg", each)]
    return ["docker", *words[:-1], *options, words[-1]]


def main() -> int:
    """Builds the image; the exit code is that of `docker build`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tag", nargs="?", help="The image to build, of those that --list shows.")
    parser.add_argument("--list", action="store_true", help="Print the tags of all images.")
    parser.add_argument("--name", help="Name of the image (default: caliban-base:TAG).")
    origin = parser.add_mutually_exclusive_group()
    origin.add_argument("--from", dest="begin_with", metavar="IMAGE", help="Begin with this image.")
    origin.add_argument(
        "--no_registry",
        action="store_true",
        help="Begin with an image that is made from Debian packages (Debian 12, CPU only).",
    )
    parser.add_argument(
        "--google_cloud_cli", metavar="VERSION", help="Install the Google Cloud CLI as well."
    )
    args = parser.parse_args()
    steps = {
        step["id"]: step for step in json.loads((ROOT / "cloudbuild.json").read_text())["steps"]
    }
    if args.list:
        print("\n".join(steps))
        return 0
    if args.tag not in steps:
        near = difflib.get_close_matches(args.tag or "", steps, n=1)
        meant = f"did you mean {near[0]}?" if near else "--list shows all"
        parser.error(f"there is no image '{args.tag}': {meant}" if args.tag else f"which? {meant}")
    if args.no_registry:
        if args.tag.split("-")[:2] != ["cpu", _ITS_SYSTEM]:
            parser.error(f"--no_registry makes images of {_ITS_SYSTEM} for CPU only")
        subprocess.run([ROOT / "scripts" / "prepare.sh", _STEP], check=True)
        args.begin_with = _MADE_HERE
    more = [f"GOOGLE_CLOUD_CLI={args.google_cloud_cli}"] if args.google_cloud_cli else []
    name = args.name or f"caliban-base:{args.tag}"
    words = command(steps[args.tag], name, args.begin_with, more)
    return subprocess.run(words, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
