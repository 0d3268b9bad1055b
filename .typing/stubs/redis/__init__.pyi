# What bench/peers/redis_hash.py uses: a check finds the same with the bench extra and without it.
from .client import Redis as Redis
