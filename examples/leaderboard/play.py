"""Plays: 1,000 points a second for members who are drawn at random, until ^C."""

import random
import sys
import time

import redis

MEMBERS = ["Ann", "Bob", "Cid", "Dora", "Eve", "Fay", "Gus", "Hal", "Ida", "Jim", "Kay", "Lou"]

server = redis.Redis.from_url(sys.argv[1])
while True:
    with server.pipeline(transaction=False) as points:
        for _ in range(100):
            points.zincrby("scores", 1, random.choice(MEMBERS))
        points.execute()
    time.sleep(0.1)
