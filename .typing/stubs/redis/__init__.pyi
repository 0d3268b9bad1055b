# What the benches use: a check finds the same with the bench extra and without it.
from .client import Redis as Redis
