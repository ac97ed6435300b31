NAME = "by setup.py"
