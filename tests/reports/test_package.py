"""What a wheel must hold beside the modules."""

from setuptools import Distribution

from tests.source_tree import REPOSITORY


def test_templates_are_package_data() -> None:
    described = Distribution()
    described.parse_config_files([str(REPOSITORY / "pyproject.toml")])
    folder = REPOSITORY / "gecko_lab" / "reports"
    shipped = {path for pattern in described.package_data["gecko_lab.reports"] for path in folder.glob(pattern)}
    others = {path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert others
    assert shipped == others, sorted(path.name for path in shipped ^ others)
