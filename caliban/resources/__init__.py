"""Files that are copied into images or shipped as data."""
