"""uv, which resolves and installs Python packages: how a step of a build gets it for a while."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from caliban.docker.image import build_secrets

VERSION = "0.13.8"

# uv and its cache stay out of the image: the steps that need them are lent a folder that is kept
# between builds. One folder in there for each version, so that all builds use the one named above.
FOLDER = "/opt/uv"
BIN = f"{FOLDER}/{VERSION}/bin"
# A base image may ask pip for --user, which doesn't go with --target.
_SETTINGS = (
    f"UV_CACHE_DIR={FOLDER}/cache UV_HTTP_TIMEOUT=180 PYC_INVALIDATION_MODE=CHECKED_HASH PIP_USER=0"
)

CACHE = "caliban-uv"
MOUNT = f"--mount=type=cache,id={CACHE},target={FOLDER},sharing=locked"

# Where a step finds what an image lends it.
_LENT = "/mnt/uv"
_TAKE = f"{{ mkdir -p {BIN} && cp {_LENT}/uv {BIN} && uv --version; }} 2>/dev/null"

_PIP = (
    "-m pip install --quiet --disable-pip-version-check --no-cache-dir --no-compile --upgrade "
    f"--target {FOLDER}/{VERSION} uv=={VERSION}"
)
# Not every Python has a pip, but Debian's brings one along in a file. A virtual environment has
# one, too, and takes seconds to make.
_GET = (
    f"PYTHONPATH=$(echo /usr/share/python-wheels/pip-*.whl) python3 {_PIP} 2>/dev/null || "
    f"{{ python3 -I -m venv {FOLDER}/pip && {FOLDER}/pip/bin/python {_PIP}; }}"
)

# The first words of a command that installs packages.
INSTALL = ("uv", "pip", "install", "--link-mode", "copy")

# Takes away what uv leaves wherever it has built something.
TIDY = "rm -rf /tmp/uv-*.lock"


def step(
    commands: Iterable[str],
    secrets: Sequence[str],
    buildkit: bool,
    before: str = "",
    lender: str = "",
) -> str:
    """A RUN instruction whose commands find uv on their PATH.

    Args:
      commands: those of a shell.
      secrets: ids of the build secrets that they may need.
      buildkit: whether the builder knows `RUN --mount`; otherwise it lends no secrets either.
      before: a command that comes before all others; "" for none.
      lender: an image that BuildKit takes uv from, see lent_uv; "" for none.
    """
    lends = bool(lender) and buildkit
    steps = [
        *filter(None, [before]),
        # Only where there are any: a secret decides neither an image's content nor its name.
        *(build_secrets.exports(secrets) if buildkit else ()),
        f'export PATH="$PATH:{BIN}" {_SETTINGS}',
        f"{{ uv --version 2>/dev/null || {f'{_TAKE} || ' if lends else ''}{_GET}; }}",
        *commands,
    ]
    if not buildkit:
        return f"RUN {' && '.join([*steps, f'rm -rf {FOLDER}/*'])}"
    lent = [f"--mount=type=bind,from={lender},target={_LENT}"] if lends else []
    mounts = " ".join([MOUNT, *lent, *build_secrets.mounts(secrets)])
    return f"RUN {mounts} {' && '.join(steps)}"
