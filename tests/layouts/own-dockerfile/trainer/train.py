import os

import six

print(open(os.environ["MOTTO"]).read().strip(), open("/etc/made").read().strip(), six.__version__)
