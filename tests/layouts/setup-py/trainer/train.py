import idna
import iniconfig
import six

from trainer.version import __version__

print(__version__, six.__version__, idna.__version__, iniconfig.__name__)
