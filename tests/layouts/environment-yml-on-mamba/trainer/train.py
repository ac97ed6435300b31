import subprocess
from pathlib import Path

import idna
import six

print(six.__version__, idna.__version__, flush=True)
subprocess.run(["ffmpeg"], check=True)
prefix = Path(subprocess.check_output(["sh", "-c", "command -v ffmpeg"], text=True)).parents[1]
print((prefix / "asked").read_text(), end="")
