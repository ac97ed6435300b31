import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = re.search('"(.*)"', (here / "trainer/version.py").read_text())[1]


def requirements(name):
    return (here / "requirements" / f"{name}.txt").read_text().split()


setup(
    name="old-trainer",
    version=version,
    long_description=open("README.md").read(),
    packages=find_packages(),
    install_requires=requirements("run"),
    extras_require={"cpu": requirements("cpu"), "gpu": ["toml"], "plots": ["iniconfig==2.0.0"]},
)
