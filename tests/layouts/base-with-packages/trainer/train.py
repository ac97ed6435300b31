import huge
import six

print(huge.VERSION, six.__version__)
