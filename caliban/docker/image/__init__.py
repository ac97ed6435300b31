"""From a project's files to an image in the engine."""
