import markdown_it
import six

print(six.__version__, markdown_it.__version__)
