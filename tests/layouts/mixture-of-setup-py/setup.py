from setuptools import find_packages, setup

setup(
    name="old-and-mixed",
    packages=find_packages(),
    install_requires=["six>=1.10", "idna<3.8"],
    extras_require={"cpu": ["idna==3.7"]},
)
