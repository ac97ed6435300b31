import losses
import six

print(six.__version__, *losses.KINDS)
