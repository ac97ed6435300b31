import idna
import iniconfig
import six

print(six.__version__, idna.__version__, iniconfig.__name__)
