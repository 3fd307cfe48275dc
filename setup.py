"Installs the package from the metadata in settings.ini, the one place that owns it."
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here / "settings.ini", encoding="utf-8")
meta = config["DEFAULT"]


def lines(key): return meta[key].split()


setup(
    version=meta["version"],
    python_requires=f">={meta['min_python']}",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=meta["author"],
    license=meta["license"],
    keywords=lines("keywords"),
    packages=["simclr"],
    package_data=dict(simclr=["*.js", "*.css", "encoders/*/*"]),
    install_requires=lines("requirements"),
    extras_require=dict(notebooks=lines("notebooks_requirements"), dev=lines("dev_requirements")),
    entry_points=dict(console_scripts=["simclr=simclr.cli:main"], nbdev=["simclr=simclr._modidx:d"]),
    classifiers=["Programming Language :: Python :: 3", "Topic :: Scientific/Engineering :: Artificial Intelligence"],
)
