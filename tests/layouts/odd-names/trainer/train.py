import json
import os
from pathlib import Path

sizes = {path.parent.name: path.read_text() for path in Path("trainer").glob("*/size")}
assert all(name == text for name, text in sizes.items())
odd = os.fsdecode(b"trainer/latin-\xe9/\xff.txt")
print(len(sizes), Path(odd).read_text(), json.dumps(sorted(os.listdir("."))))
