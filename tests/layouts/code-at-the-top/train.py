import six

import helper

print(six.__version__, helper.RATE)
