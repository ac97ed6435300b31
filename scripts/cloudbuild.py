"""Writes cloudbuild.json, by which Google's Cloud Build makes caliban's base images.

python scripts/cloudbuild.py
python scripts/cloudbuild.py --base_url us-docker.pkg.dev/my-project/test/base --output test.json
gcloud builds submit --config=cloudbuild.json .
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def images(config: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """The images of the matrix.

    Args:
      config: content of cloudbuild_config.json. By "cpu" or version of CUDA, then by system, it has
        the image to begin with; each is combined with all Pythons.

    Yields:
      The tag of each, like "gpu-ubuntu2404-py312-cuda126", and its build arguments. Those that
      begin with the same image come one after another.
    """
    for accelerator, systems in config["base_images"].items():
        for system, image in systems.items():
            for python, arguments in config["pythons"].items():
                is_cpu = accelerator == "cpu"
                kind, suffix = ("cpu", "") if is_cpu else ("gpu", f"-{accelerator}")
                yield (
                    f"{kind}-{system}-{python}{suffix}",
                    [f"BASE_IMAGE={image}", *arguments, *config["build_args"]],
                )


def generate(config: Mapping[str, Any], base_url: str) -> dict[str, Any]:
    """Content of cloudbuild.json.

    Args:
      config: see `images`.
      base_url: name of the images, without their tags.
    """
    steps: list[dict[str, Any]] = []
    for tag, arguments in images(config):
        options = [word for each in arguments for word in ("--build-arg", each)]
        step = {
            "id": tag,
            "name": "gcr.io/cloud-builders/docker",
            "args": ["build", *options, "--tag", f"{base_url}:{tag}", "dockerfiles"],
        }
        # Side by side, but for those that begin alike: the next finds the last one's layers.
        before = steps[-1] if steps else {"args": []}
        step["waitFor"] = [before["id"] if options[1] in before["args"] else "-"]
        steps.append(step)
    return {
        "steps": steps,
        "images": [f"{base_url}:{step['id']}" for step in steps],
        "options": {"machineType": "E2_HIGHCPU_32", "diskSizeGb": "500"},
        "timeout": "7200s",
    }


def main() -> None:
    """Reads the matrix, and writes the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config",
        type=Path,
        default=ROOT / "scripts" / "cloudbuild_config.json",
        help="The matrix of images (default: %(default)s).",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=ROOT / "cloudbuild.json",
        help="The file to write (default: %(default)s).",
    )
    parser.add_argument(
        "--base_url", help="Name of the images, without a tag (default: that of the matrix)."
    )
    args = parser.parse_args()
    config = json.loads(args.config.read_text())
    content = generate(config, args.base_url or config["base_url"])
    args.output.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
