from setuptools import setup

setup(name="ignored", version="1", py_modules=[], install_requires=["six==1.16.0"])
