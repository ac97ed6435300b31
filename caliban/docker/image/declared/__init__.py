"""What a project declares about its environment, by the kinds of files that declare it."""
