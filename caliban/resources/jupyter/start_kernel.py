"""Runs Jupyter's kernel in the project's Python. What the project has itself comes first."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

# Neither this folder, nor the notebook's: a file there that is called random.py would be taken for
# Python's own. The kernel adds the notebook's folder itself, once it is loaded.
sys.path[:] = [folder for folder in sys.path if folder not in ("", str(HERE))]
sys.path.append(str(HERE / "packages"))

if __name__ == "__main__":
    from ipykernel import kernelapp

    kernelapp.launch_new_instance()
