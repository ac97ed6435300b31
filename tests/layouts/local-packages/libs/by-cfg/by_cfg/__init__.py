NAME = "by setup.cfg"
