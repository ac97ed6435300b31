import sys

print("Python", *sys.version_info[:1], "and nothing else")
