import json
import os
from importlib.resources import files
from pathlib import Path

print(json.load(open("configs/fast.json"))["rate"])
print(Path("data/train set/points.csv").read_text(), end="")
print((Path(__file__).parent / "tables/names.txt").read_text(), end="")
print(files("trainer").joinpath("tables/names.txt").read_text(), end="")
print(os.getcwd())
