import idna
import markdown_it
import six

print(six.__version__, idna.__version__, markdown_it.__version__)
