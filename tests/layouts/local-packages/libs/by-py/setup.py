from setuptools import setup

setup(name="by-py", version="6", packages=["by_py"])
