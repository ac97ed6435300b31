VERSION = "0.9"
NEEDS = ["six==1.16.0"]
