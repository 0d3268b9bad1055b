"""What `bench/reads.py` needs: the sides, the requests they are sent, and the load."""
