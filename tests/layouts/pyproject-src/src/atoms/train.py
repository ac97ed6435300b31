import six

import atoms

print(six.__version__, atoms.LARGEST)
