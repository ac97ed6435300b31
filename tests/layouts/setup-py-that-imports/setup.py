from setuptools import setup

import model

setup(name="model", version=model.VERSION, packages=["model"], install_requires=model.NEEDS)
