import six

from model import VERSION

print(VERSION, six.__version__)
