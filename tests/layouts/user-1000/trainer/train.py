import getpass
import os
import pwd
from pathlib import Path

import six

# What people's code does without a thought: write beside itself, and into the home directory.
Path("trainer/results/best.txt").write_text("0.9")
Path("trainer/results/new.txt").touch()
Path("checkpoint").mkdir()
(Path.home() / ".cache/weights").mkdir(parents=True)
os.umask(os.umask(0o22))
me = pwd.getpwuid(os.getuid())
assert getpass.getuser()
print(os.getuid(), me.pw_uid, Path.home(), os.environ["HOME"], six.__version__)
