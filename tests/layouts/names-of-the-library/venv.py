raise ImportError("somebody found the file of the project")
