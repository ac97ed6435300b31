import sys

from neighbour import NAME

print(NAME, sys.argv[1:])
