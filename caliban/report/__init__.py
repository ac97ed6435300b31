"""An experiment group as a page for people: facts, HTML, Markdown."""
