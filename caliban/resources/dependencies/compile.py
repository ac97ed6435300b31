"""Compiles the packages of an environment, as far as an earlier build has not done that already.

  compile.py FOLDER CACHE

FOLDER holds the packages, and CACHE what earlier builds have compiled. Without bytecode, every
container would compile what it imports, and throw it away. Whether bytecode goes with a file is
told by the file's content, and not by its time, which tools change.
"""

from __future__ import annotations

import hashlib
import importlib.util
import multiprocessing
import os
import py_compile
import shutil
import sys
from pathlib import Path

# Packages' own tests are half of all their code, and nobody imports them.
LEFT_OUT = "tests"


def main(folder: Path, cache: Path) -> None:
    """Compiles all files in a folder, several at a time."""
    files = (file for file in folder.rglob("*.py") if LEFT_OUT not in file.parts)
    with multiprocessing.Pool() as pool:
        pool.map(compile_file, [(file, cache) for file in files], chunksize=32)


def compile_file(job: tuple[Path, Path]) -> None:
    """Compiles a file, or takes what an earlier build has made of the same file in this place."""
    file, cache = job
    source, target = file.read_bytes(), Path(importlib.util.cache_from_source(str(file)))
    # If an earlier step of this build has seen to it, it would be in the layers twice.
    if target.exists() and target.read_bytes()[8:16] == importlib.util.source_hash(source):
        return
    parts = (importlib.util.MAGIC_NUMBER, os.fsencode(file), source)
    key = hashlib.sha256(b"\0".join(parts)).hexdigest()
    kept = cache / key[:2] / key
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_name(f"{key}.{os.getpid()}")
        by_content = py_compile.PycInvalidationMode.CHECKED_HASH
        try:
            py_compile.compile(str(file), str(partial), doraise=True, invalidation_mode=by_content)
        except (py_compile.PyCompileError, ValueError):
            return  # it is meant for another Python, or no text
        partial.replace(kept)
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(kept, target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
