from setuptools import setup

setup(name="shared", version="4", packages=["shared"], install_requires=["idna==3.7"])
