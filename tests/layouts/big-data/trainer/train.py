import os

assert not os.path.exists("data")
print("without the data")
