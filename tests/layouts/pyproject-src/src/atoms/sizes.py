from importlib.resources import files

LARGEST = int(files("atoms").joinpath("data/largest.txt").read_text())
