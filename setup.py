"""Lists the packages, which setuptools cannot search for in mapped folders; all else is in pyproject.toml."""

from setuptools import Distribution, find_packages, setup

described = Distribution()
described.parse_config_files(["pyproject.toml"])

setup(
    packages=[
        package
        for root, folder in described.package_dir.items()
        for package in (root, *(f"{root}.{name}" for name in find_packages(folder)))
    ]
)
