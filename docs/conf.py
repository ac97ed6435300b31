"""Settings of Sphinx for `make docs`."""

from caliban import __version__

project = "caliban"
version = release = __version__

extensions = ["myst_parser"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "requirements.txt"]

html_theme = "furo"
html_title = f"caliban {__version__}"
html_show_copyright = False
