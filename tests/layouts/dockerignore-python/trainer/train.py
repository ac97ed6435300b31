import six

import trainer.tools.useful

print(six.__version__)
