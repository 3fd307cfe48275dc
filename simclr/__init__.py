"""SimCLR as notebooks that you can read, run, import and explore

Modules:

- `simclr.loss`: Name your partner among 2*N* − 1 others: one loss derived three ways, with its gradient, its floor, its temperature and its classic bugs."""

__version__ = "0.1.0"
