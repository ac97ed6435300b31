"""The tutorial's code: a package, so that `trainer.train` runs as a module."""
