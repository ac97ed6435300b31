import sys

import six

print(*sys.version_info[:2], six.__version__)
