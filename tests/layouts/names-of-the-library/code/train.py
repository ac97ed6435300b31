import random
import secrets

import six

import code.random

assert hasattr(random, "Random")
assert secrets.token_hex(4)
print(six.__version__, code.random.SEED)
