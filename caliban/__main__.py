"""Entry point of `python -m caliban`."""

import sys

from caliban.main import main

sys.exit(main())
