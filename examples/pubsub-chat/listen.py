"""Print what visitors say, as RabbitMQ has it."""

import json
import os

import pika

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost/%2F")

with pika.BlockingConnection(pika.URLParameters(URL)) as connection:
    channel = connection.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(queue, "amq.fanout")
    print("Listening", flush=True)
    for _, properties, body in channel.consume(queue, auto_ack=True):
        message = json.loads(body)
        print(f"{properties.headers['room']}: {message['uid']}: {message['message']}", flush=True)
