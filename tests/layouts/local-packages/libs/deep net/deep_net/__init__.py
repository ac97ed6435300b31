import json
from importlib.resources import files

LAYERS = json.loads(files("deep_net").joinpath("layers.json").read_text())
