"""Packs presets/ and assets/ into the wheel, where nag/home.py looks for them."""

from setuptools import find_packages, setup

FILES = ("presets", "assets")

setup(
    packages=find_packages(include=["nag*"]) + [f"nag._home.{name}" for name in FILES],
    package_dir={f"nag._home.{name}": name for name in FILES},
    package_data={f"nag._home.{name}": ["*", "**/*"] for name in FILES},
)
