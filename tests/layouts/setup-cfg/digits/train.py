import importlib.metadata

import idna
import six

print(importlib.metadata.version("digits"), six.__version__, idna.__version__)
