"""SimCLR as notebooks that you can read, run, import and explore"""

__version__ = "0.1.0"
