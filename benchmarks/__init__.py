"""How fast training is, beside its floor and beside its rivals: `make bench`. No part of the package."""
