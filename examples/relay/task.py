"""A task that reports its progress, as a worker of Celery or a cron job may: task.py NAME"""

import json
import sys
import time

import redis

server = redis.Redis.from_url("redis://127.0.0.1/0")


def report(task: str, percent: int) -> None:
    """Tell all pages how far the task is."""
    server.publish("socketio_progress", json.dumps({"task": task, "percent": percent}))


def run(task: str) -> None:
    """Do the work. With Celery, this is the function below ``@app.task``."""
    for percent in range(0, 101, 20):
        report(task, percent)
        time.sleep(0.2)


run(sys.argv[1])
