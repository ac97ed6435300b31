import os
from pathlib import Path

assert Path("trainer/step30").read_text() == Path(__file__).read_text()
assert not Path("trainer/outside").exists()
assert os.readlink("trainer/circle") == "circle"
print(Path("trainer/deep/answer").read_text(), end="")
