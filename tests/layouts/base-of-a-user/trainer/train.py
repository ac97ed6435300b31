import heavy
import six

print(heavy.VERSION, six.__version__)
