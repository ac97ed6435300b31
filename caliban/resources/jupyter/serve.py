"""Starts Jupyter's server in a container.

  serve.py notebook|lab OPTION...

The options are Jupyter's own. The token comes in $JUPYTER_TOKEN, so that it is in no command line.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from jupyter_client.kernelspec import KernelSpecManager


def main(interface: str, options: list[str]) -> None:
    """Serves until it is stopped."""
    # Cells and terminals have no need of it.
    token = os.environ.pop("JUPYTER_TOKEN")
    for note in Path(__file__).with_name("notes.txt").read_text().splitlines():
        sys.stderr.write(f"warning: {note}\n")
    # Its default is one that tornado doesn't like, and says so at each notebook that is opened.
    logging.getLogger("tornado.general").addFilter(
        lambda record: "websocket_ping_timeout" not in record.getMessage()
    )
    # Kernels that lie in the user's home directory start programs of the machine that it is from.
    home = str(Path.home())
    for name, folder in KernelSpecManager().find_kernel_specs().items():
        if not folder.startswith(f"{home}/"):
            options.append(f"--KernelSpecManager.allowed_kernelspecs={name}")
    options.append(f"--PasswordIdentityProvider.token={token}")
    if interface == "lab":
        from jupyterlab.labapp import LabApp as Server
    else:
        from notebook.app import JupyterNotebookApp as Server
    Server.launch_instance(options)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
